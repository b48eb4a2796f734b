"""An engine's answer, awaited."""

from __future__ import annotations

import asyncio

import pytest

from stoker.router.answer import AwaitedAnswer
from stoker.router.upstream import ResponseHead, UpstreamFailure

HEAD = ResponseHead(200, [(b"x", b"1")], {b"x": b"1"})


async def test_head_and_pieces_come_in_order() -> None:
    answer = AwaitedAnswer()
    answer.on_head(HEAD)
    answer.on_body(b"a")
    answer.on_body(b"b")
    assert not answer.over
    answer.on_end()
    assert answer.over
    assert await answer.head is HEAD
    assert [chunk async for chunk in answer.chunks()] == [b"a", b"b"]


async def test_an_answer_that_breaks_off_keeps_what_came_before() -> None:
    answer = AwaitedAnswer()
    answer.on_head(HEAD)
    answer.on_body(b"a")
    answer.on_failed(UpstreamFailure("gone"))
    assert answer.over
    pieces = aiter(answer.chunks())
    assert await anext(pieces) == b"a"
    with pytest.raises(UpstreamFailure, match="gone"):
        await anext(pieces)


async def test_no_head_is_the_heads_failure() -> None:
    answer = AwaitedAnswer()
    answer.on_failed(UpstreamFailure("gone"))
    with pytest.raises(UpstreamFailure, match="gone"):
        await answer.head


@pytest.mark.parametrize(("limit", "fits"), [(4, True), (3, False), (None, True)])
async def test_a_whole_body_up_to_its_limit(limit: int | None, fits: bool) -> None:
    answer = AwaitedAnswer()
    answer.on_head(HEAD)
    answer.on_body(b"ab")
    answer.on_body(b"cd")
    answer.on_end()
    if fits:
        assert await answer.whole(limit) == b"abcd"
    else:
        with pytest.raises(UpstreamFailure, match="larger than 3 bytes"):
            await answer.whole(limit)


async def test_a_head_for_somebody_who_no_longer_waits_is_no_error() -> None:
    answer = AwaitedAnswer()
    waiting = asyncio.create_task(_wait(answer))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    answer.on_head(HEAD)
    answer.on_end()
    assert answer.over


async def _wait(answer: AwaitedAnswer) -> None:
    await answer.head


async def test_what_is_left_is_passed_over_for_a_while_only() -> None:
    answer = AwaitedAnswer()
    answer.on_head(HEAD)
    answer.on_body(b"a")
    await answer.end_within(0.01)
    assert not answer.over
    answer.on_body(b"b")
    answer.on_end()
    assert await answer.whole() == b"b"

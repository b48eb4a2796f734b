"""What requests took is recorded as engines tell it, streams included, and nobody sees more of a
stream than was asked for."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.router.ledger.keys import hash_of, new_key
from stoker.router.usage import Usage
from stoker.router.usage_filter import UsageFilter

from ..fakes import (
    CHAT,
    FakeEngine,
    Fleet,
    Seen,
    chunk,
    close_in_stream,
    hang,
    reply,
    start_stream,
    status,
    stream_piece,
    until,
)

KEY = new_key()
AUTH = {"authorization": f"Bearer {KEY}"}
PRICE = {"input_per_million": 1e6, "output_per_million": 10e6, "cached_input_per_million": 0.5e6}
USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 16},
}


def fleet(*engines: FakeEngine, **settings: Any) -> Fleet:
    keys = [{"name": "alice", "hash": hash_of(KEY)}]
    prices = {engine.name: {"price": PRICE} for engine in engines}
    return Fleet(*engines, keys=keys, engine_settings=prices, **settings)


async def total(one: Fleet, **words: str) -> dict[str, Any]:
    response = await one.client.get("/usage", params=words, headers=AUTH)
    assert response.status_code == 200, response.text
    figures: dict[str, Any] = response.json()["total"]
    return figures


async def stream_with_usage(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
    """As OpenAI does: null in every piece, the figures in the last, if asked for."""
    asked = (seen.json.get("stream_options") or {}).get("include_usage")
    await start_stream(writer)
    for word in ("a", "b"):
        piece = json.loads(chunk(word)[6:])
        if asked:
            piece["usage"] = None
        await stream_piece(writer, b"data: %b\n\n" % json.dumps(piece).encode())
    if asked:
        last = json.dumps({"id": "x", "choices": [], "usage": USAGE}).encode()
        await stream_piece(writer, b"data: " + last[:20])
        await stream_piece(writer, last[20:] + b"\n\n")
    await stream_piece(writer, b"data: [DONE]\n\n")
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


async def test_a_whole_answer() -> None:
    async with fleet(FakeEngine("one")) as one:
        await one.post(None, **AUTH)
        response = await one.client.get("/usage", headers=AUTH)
        [row] = response.json()["data"]
        assert (row["key"], row["model"], row["engine"]) == ("alice", "m", "one")
        assert (row["requests"], row["prompt_tokens"], row["completion_tokens"]) == (1, 7, 2)
        assert row["cost"] == pytest.approx(27.0)
        assert row["cost_per_1000_requests"] == pytest.approx(27_000.0)
        assert row["cost_per_million_tokens"] == pytest.approx(3e6)
        assert row["estimated"] == 0


async def test_a_stream_whose_client_did_not_ask() -> None:
    engine = FakeEngine("one")
    engine.default = stream_with_usage
    async with fleet(engine) as one:
        response = await one.post(CHAT | {"stream": True}, **AUTH)
        pieces = [chunk(word) for word in ("a", "b")]
        assert response.content == b"".join(pieces) + b"data: [DONE]\n\n"
        assert engine.seen[-1].json["stream_options"] == {"include_usage": True}
        figures = await total(one)
        assert (figures["prompt_tokens"], figures["completion_tokens"]) == (20, 3)
        assert figures["cached_tokens"] == 16
        assert figures["cost"] == pytest.approx(4 + 8 + 30)


@pytest.mark.parametrize("asks", [{"include_usage": True}, {"continuous_usage_stats": True}])
async def test_a_stream_whose_client_asked_is_left_alone(asks: dict[str, bool]) -> None:
    engine = FakeEngine("one")
    engine.default = stream_with_usage
    async with fleet(engine) as one:
        response = await one.post(CHAT | {"stream": True, "stream_options": asks}, **AUTH)
        assert engine.seen[-1].json["stream_options"] == asks
        assert (b'"usage"' in response.content) == ("include_usage" in asks)


async def test_other_stream_options_are_kept() -> None:
    engine = FakeEngine("one")
    engine.default = stream_with_usage
    async with fleet(engine) as one:
        options = {"include_usage": False, "more": [1]}
        await one.post(CHAT | {"stream": True, "stream_options": options}, **AUTH)
        assert engine.seen[-1].json["stream_options"] == {"include_usage": True, "more": [1]}


async def test_an_engine_that_is_not_to_be_asked() -> None:
    engine = FakeEngine("one")
    settings = {"one": {"ask_usage": False}}
    async with Fleet(engine, engine_settings=settings) as one:
        await one.post(CHAT | {"stream": True})
        assert "stream_options" not in engine.seen[-1].json
        figures = (await one.client.get("/usage")).json()["total"]
        assert figures["estimated"] == 1  # the fake's stream has no usage
        assert figures["completion_tokens"] == 4  # its events


async def test_a_stream_of_llama_cpp_tells_in_its_own_words() -> None:
    async def behave(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await start_stream(writer)
        timings = {"cache_n": 30, "prompt_n": 1, "predicted_n": 3}
        last = {"choices": [{"index": 0, "delta": {}}], "timings": timings}
        await stream_piece(writer, b"data: %b\n\n" % json.dumps(last).encode())
        await stream_piece(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        return True

    engine = FakeEngine("one", kind="llama_cpp")
    engine.default = behave
    async with fleet(engine) as one:
        await one.post(CHAT | {"stream": True}, **AUTH)
        assert "stream_options" not in engine.seen[-1].json
        figures = await total(one)
        assert (figures["prompt_tokens"], figures["cached_tokens"]) == (31, 30)
        assert (figures["completion_tokens"], figures["estimated"]) == (3, 0)


async def test_anthropics_stream_tells_at_both_ends() -> None:
    async def behave(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await start_stream(writer)
        begin = {"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 0}
        for kind, rest in (
            ("message_start", {"message": {"usage": begin}}),
            ("content_block_delta", {"delta": {"text": "x" * 9000}}),
            ("content_block_delta", {"delta": {"text": "y" * 9000}}),
            ("message_delta", {"usage": {"output_tokens": 4}}),
            ("message_stop", {}),
        ):
            data = json.dumps({"type": kind, **rest}).encode()
            await stream_piece(writer, b"event: %b\ndata: %b\n\n" % (kind.encode(), data))
            await asyncio.sleep(0.005)
        writer.write(b"0\r\n\r\n")
        return True

    engine = FakeEngine("one")
    engine.default = behave
    async with fleet(engine) as one:
        body = {"model": "m", "max_tokens": 9, "stream": True, "messages": CHAT["messages"]}
        await one.client.post("/v1/messages", json=body, headers=AUTH)
        figures = await total(one)
        assert (figures["prompt_tokens"], figures["cached_tokens"]) == (7, 2)
        assert (figures["completion_tokens"], figures["estimated"]) == (4, 0)


async def test_every_end_is_counted_for_what_it_is() -> None:
    engine = FakeEngine("one")
    async with fleet(engine, retries={"attempts": 1}) as one:
        engine.script.extend([status(400), close_in_stream, hang])
        await one.post(None, **AUTH)
        await one.post(CHAT | {"stream": True}, **AUTH)
        call = asyncio.ensure_future(one.post(None, **AUTH))
        await until(lambda: engine.in_flight == 1)
        call.cancel()
        await one.settled()
        figures = await total(one)
        assert (figures["requests"], figures["failed"], figures["cancelled"]) == (3, 2, 1)
        assert figures["estimated"] == 2  # not the 400, for which nothing was computed
        assert figures["completion_tokens"] == 1  # of the stream that broke off


async def test_refused_requests_are_counted_and_cost_nothing() -> None:
    keys = [{"name": "alice", "hash": hash_of(KEY), "models": ["other"], "admin": True}]
    async with Fleet(FakeEngine("one"), keys=keys) as one:
        await one.post(None, **AUTH)
        figures = await total(one)
        assert (figures["requests"], figures["refused"], figures["cost"]) == (1, 1, 0.0)


async def test_by_day_and_only_ones_own() -> None:
    other = new_key()
    keys = [
        {"name": "alice", "hash": hash_of(KEY), "admin": True},
        {"name": "bob", "hash": hash_of(other)},
    ]
    async with Fleet(FakeEngine("one"), keys=keys) as one:
        theirs = {"authorization": f"Bearer {other}"}
        await one.post(None, **AUTH)
        await one.post(None, **theirs)
        both = await one.client.get("/usage", params={"by": "key,day"}, headers=AUTH)
        assert [row["key"] for row in both.json()["data"]] == ["alice", "bob"]
        assert len(both.json()["data"][0]["day"]) == 10
        own = await one.client.get("/usage", params={"by": "key"}, headers=theirs)
        assert [row["key"] for row in own.json()["data"]] == ["bob"]
        denied = await one.client.get("/usage", params={"key": "alice"}, headers=theirs)
        assert denied.status_code == 403
        assert (await total(one, key="bob"))["requests"] == 1
        for words in ({"by": "colour"}, {"since": "soon"}, {"until": ""}, {"what": "1"}):
            wrong = await one.client.get("/usage", params=words, headers=AUTH)
            assert wrong.status_code == 400
            assert wrong.json()["error"]["param"] == next(iter(words))


async def test_an_hours_price_is_divided_among_those_who_shared_it() -> None:
    engine = FakeEngine("one")
    settings = {"one": {"price": {"per_hour": 3600.0}}}
    async with Fleet(engine, engine_settings=settings) as one:
        await asyncio.gather(*(one.post() for _ in range(8)))
        figures = (await one.client.get("/usage")).json()["total"]
        assert figures["cost"] == pytest.approx(figures["engine_seconds"])
        handle = one.handle("one")
        first = handle.take(1, 1, now=1000.0)
        second = handle.take(1, 1, now=1002.0)
        assert first.give_back(1006.0) == pytest.approx(2 + 4 / 2)
        assert second.give_back(1007.0) == pytest.approx(4 / 2 + 1)
        assert second.give_back(1009.0) == 0.0


async def test_lists_on_llama_cpp_are_estimated_because_it_counts_the_first_alone() -> None:
    async def two(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        choices = [{"index": n, "text": "word " * 8} for n in range(2)]
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        body = json.dumps({"choices": choices, "usage": usage}).encode()
        return await reply(writer, 200, body)

    engines = FakeEngine("one", kind="llama_cpp"), FakeEngine("two", kind="native")
    for engine in engines:
        engine.default = two
    async with fleet(*engines) as one:
        body = {"model": "m", "prompt": ["a" * 80, "b" * 80], "max_tokens": 10}
        for name in ("one", "two"):
            headers = AUTH | {"x-stoker-backend": name}
            await one.client.post("/v1/completions", json=body, headers=headers)
        response = await one.client.get("/usage", params={"by": "engine"}, headers=AUTH)
        rows = {row["engine"]: row for row in response.json()["data"]}
    assert rows["one"]["estimated"] == 1
    assert rows["one"]["prompt_tokens"] == 42
    assert rows["one"]["completion_tokens"] == 20
    assert rows["two"]["estimated"] == 0
    assert rows["two"]["prompt_tokens"] == 1


async def test_what_was_used_survives_a_restart() -> None:
    engine = FakeEngine("one")
    one = fleet(engine)
    async with one:
        for _ in range(5):
            await one.post(None, **AUTH)
        url = one.server.config.storage.url
        await one.server.stop()
        async with Fleet(FakeEngine("two"), storage={"url": url}) as again:
            figures = (await again.client.get("/usage")).json()["total"]
            assert (figures["requests"], figures["prompt_tokens"]) == (5, 35)


async def test_without_a_database_requests_are_answered_all_the_same() -> None:
    storage = {"url": "sqlite:////proc/none/router.db"}
    async with Fleet(FakeEngine("one"), storage=storage) as one:
        assert (await one.post()).status_code == 200
        assert (await one.client.get("/usage")).status_code == 503


STREAM = (
    b'data: {"choices":[{"delta":{"content":"a \\"usage\\": null"}}],"usage":null}\n\n'
    b': comment\r\n\r\nevent: x\ndata: {"choices":[{"index":0}], "usage": null, "z":1}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":2}}\n\n'
    b"data: [DONE]\n\ndata: unfinished"
)
SEEN = (
    b'data: {"choices":[{"delta":{"content":"a \\"usage\\": null"}}]}\n\n'
    b': comment\r\n\r\nevent: x\ndata: {"choices":[{"index":0}], "z":1}\n\n'
    b"data: [DONE]\n\ndata: unfinished"
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_the_filter_does_not_care_where_pieces_break(cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), len(STREAM)]
    found = UsageFilter()
    out = [found.feed(STREAM[a:b]) for a, b in pairwise(bounds)]
    assert b"".join(out) + found.rest() == SEEN
    assert found.usage == Usage(4, 2)

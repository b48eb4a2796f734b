"""Many calls at once: each gets its own answer, whatever way it travelled."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from stoker.router.ask import Answer
from stoker.router.batch_handler import BatchHandler

from .fakes import FakeEngine, Fleet, Seen, answer, hang, reply, status, until

COMPLETIONS = b"/v1/completions"


async def echo(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
    """Every prompt in capitals; a prompt that says so is refused."""
    asked = seen.json["prompt"]
    prompts: Sequence[str] = [asked] if isinstance(asked, str) else asked
    if "refuse me" in prompts:
        return await status(400)(engine, seen, writer)
    choices = [{"index": n, "text": prompt.upper()} for n, prompt in enumerate(prompts)]
    body = {"model": "m", "choices": choices[::-1], "usage": {"completion_tokens": 1}}
    return await reply(writer, 200, json.dumps(body).encode())


def engines(count: int = 1) -> list[FakeEngine]:
    made = [FakeEngine(f"e{number}") for number in range(count)]
    for engine in made:
        engine.default = echo
    return made


def text(result: Answer) -> Any:
    [choice] = json.loads(result.body)["choices"]
    assert choice["index"] == 0
    return choice["text"]


def completion(prompt: str, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "prompt": prompt, **fields}


async def test_calls_of_one_turn_go_as_lists() -> None:
    [engine] = engines()
    async with Fleet(engine) as fleet:
        handler = BatchHandler(fleet.server.dispatcher)
        calls = [handler.add_request(completion(f"p{n}"), path=COMPLETIONS) for n in range(50)]
        answers = await asyncio.gather(*calls)
    assert [text(answer) for answer in answers] == [f"P{n}" for n in range(50)]
    assert [len(seen.json["prompt"]) for seen in engine.seen] == [25, 25]
    assert json.loads(answers[0].body)["usage"] is None


async def test_every_engine_with_room_gets_a_share() -> None:
    both = engines(2)
    async with Fleet(*both) as fleet:
        handler = BatchHandler(fleet.server.dispatcher)
        calls = [handler.add_request(completion(f"p{n}"), path=COMPLETIONS) for n in range(20)]
        await asyncio.gather(*calls)
    assert [[len(seen.json["prompt"]) for seen in engine.seen] for engine in both] == [[10], [10]]


async def test_one_call_alone_is_not_held_back_or_changed() -> None:
    [engine] = engines()
    async with Fleet(engine) as fleet:
        handler = BatchHandler(fleet.server.dispatcher)
        answer = await handler.add_request(completion("p", seed=1), path=COMPLETIONS)
    assert text(answer) == "P"
    assert engine.seen[0].json == completion("p", seed=1)
    assert json.loads(answer.body)["usage"] == {"completion_tokens": 1}


async def test_only_what_differs_in_its_prompt_alone_is_gathered() -> None:
    [engine] = engines()
    async with Fleet(engine) as fleet:
        handler = BatchHandler(fleet.server.dispatcher)
        bodies = [
            *(completion("a"), completion("b"), completion("c", temperature=0)),
            *(completion("d", n=1), completion("e", temperature=0)),
        ]
        calls = [handler.add_request(body, path=COMPLETIONS) for body in bodies]
        assert [text(answer) for answer in await asyncio.gather(*calls)] == list("ABCDE")
    assert sorted(str(seen.json["prompt"]) for seen in engine.seen) == [
        *("['a', 'b']", "['c', 'e']", "d"),
    ]


async def test_one_bad_request_does_not_spoil_the_others() -> None:
    [engine] = engines()
    async with Fleet(engine) as fleet:
        handler = BatchHandler(fleet.server.dispatcher)
        prompts = ["a", "refuse me", "b"]
        calls = [handler.add_request(completion(p), path=COMPLETIONS) for p in prompts]
        answers = await asyncio.gather(*calls)
    assert [answer.status for answer in answers] == [200, 400, 200]
    assert text(answers[2]) == "B"


async def test_chats_go_each_by_itself_and_at_once() -> None:
    [engine] = engines()
    engine.default = answer
    async with Fleet(engine) as fleet:
        handler = BatchHandler(fleet.server.dispatcher)
        answers = await asyncio.gather(
            *(handler.add_request({"model": "m", "messages": []}) for _ in range(5))
        )
    assert [one.status for one in answers] == [200] * 5
    assert len(engine.seen) == 5


async def test_the_batch_route_answers_in_order() -> None:
    both = engines(2)
    async with Fleet(*both) as fleet:
        requests = [completion(p) for p in ("a", "refuse me", "b")] + [completion("c", model="x")]
        body = {"requests": requests, "endpoint": "/v1/completions"}
        response = await fleet.client.post("/batch", json=body)
    result = response.json()
    assert response.status_code == 200
    assert [item["index"] for item in result["data"]] == [0, 1, 2, 3]
    assert [item["status"] for item in result["data"]] == [200, 400, 200, 404]
    assert result["data"][2]["body"]["choices"][0]["text"] == "B"
    assert result["data"][2]["engine"] in ("e0", "e1")
    assert (result["succeeded"], result["failed"]) == (2, 2)
    assert result["total_time"] > 0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "requests"),
        ({"requests": []}, "requests"),
        ({"requests": [{"stream": True}]}, "requests[0].stream"),
        ({"requests": [{}], "endpoint": "/v1/other"}, "endpoint"),
    ],
)
async def test_a_wrong_batch_is_refused(body: dict[str, Any], param: str) -> None:
    async with Fleet(*engines()) as fleet:
        response = await fleet.client.post("/batch", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_who_leaves_a_batch_stops_all_of_it() -> None:
    [engine] = engines()
    engine.default = hang
    async with Fleet(engine) as fleet:
        body = {"requests": [{"model": "m", "messages": []}] * 3}
        asked = asyncio.create_task(fleet.client.post("/batch", json=body))
        await until(lambda: engine.in_flight == 3)
        asked.cancel()
        await fleet.settled()
        assert fleet.in_flight() == {"e0": 0}

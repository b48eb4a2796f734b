"""Many calls at once: each gets its own answer, whatever way it travelled."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from stoker.router.ask import Answer
from stoker.router.batch_handler import BatchHandler
from stoker.router.ledger.keys import hash_of

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


async def echo_chats(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
    """The content of every conversation's only message, as vLLM's route for lists of them."""
    assert seen.target == "/v1/chat/completions/batch"
    choices = [
        {"index": n, "message": {"role": "assistant", "content": messages[0]["content"]}}
        for n, messages in enumerate(seen.json["messages"])
    ]
    body = {"object": "chat.completion", "model": "m", "choices": choices, "usage": {}}
    return await reply(writer, 200, json.dumps(body).encode())


def chat(text: str) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 9}


async def test_chats_go_as_lists_of_conversations() -> None:
    [engine] = engines()
    engine.default = echo_chats
    async with Fleet(engine) as fleet:
        handler = BatchHandler(fleet.server.dispatcher)
        answers = await asyncio.gather(*(handler.add_request(chat(f"c{n}")) for n in range(5)))
    bodies = [json.loads(answer.body) for answer in answers]
    assert [body["choices"][0]["message"]["content"] for body in bodies] == [
        f"c{n}" for n in range(5)
    ]
    assert [body["choices"][0]["index"] for body in bodies] == [0] * 5
    [seen] = engine.seen
    assert seen.json == chat("") | {"messages": [chat(f"c{n}")["messages"] for n in range(5)]}


async def test_embeddings_go_as_a_list() -> None:
    async def embed(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        data = [{"index": n, "embedding": [len(text)]} for n, text in enumerate(seen.json["input"])]
        return await reply(writer, 200, json.dumps({"data": data}).encode())

    [engine] = engines()
    engine.default = embed
    async with Fleet(engine) as fleet:
        handler = BatchHandler(fleet.server.dispatcher)
        bodies = [{"model": "m", "input": "a" * n} for n in range(1, 4)]
        calls = [handler.add_request(body, path=b"/v1/embeddings") for body in bodies]
        answers = [json.loads(answer.body)["data"] for answer in await asyncio.gather(*calls)]
    assert answers == [[{"index": 0, "embedding": [n]}] for n in range(1, 4)]
    assert len(engine.seen) == 1


@pytest.mark.parametrize("kind", ["llama_cpp", "openai"])
async def test_chats_go_each_by_itself_where_an_engine_takes_no_lists(kind: str) -> None:
    both = FakeEngine("e0"), FakeEngine("e1", kind=kind)
    async with Fleet(*both) as fleet:
        handler = BatchHandler(fleet.server.dispatcher)
        answers = await asyncio.gather(*(handler.add_request(chat("")) for _ in range(6)))
    assert [one.status for one in answers] == [200] * 6
    targets = [seen.target for engine in both for seen in engine.seen]
    assert targets == ["/v1/chat/completions"] * 6


async def test_calls_are_held_while_no_engine_has_room_and_go_as_one() -> None:
    [engine] = engines()
    free = asyncio.Event()

    async def busy(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await free.wait()
        return await echo(engine, seen, writer)

    engine.script.append(busy)
    async with Fleet(engine, engine_settings={"e0": {"max_in_flight": 1}}) as fleet:
        handler = BatchHandler(fleet.server.dispatcher, hold_s=60)

        def ask(prompt: str) -> asyncio.Task[Answer]:
            return asyncio.create_task(handler.add_request(completion(prompt), path=COMPLETIONS))

        first = ask("first")
        await until(lambda: engine.in_flight == 1)
        later = []
        for number in range(4):  # each in a turn of its own
            later.append(ask(f"p{number}"))
            await asyncio.sleep(0.01)
        assert len(engine.seen) == 1
        free.set()
        answers = await asyncio.gather(first, *later)
    assert [text(answer) for answer in answers] == ["FIRST", "P0", "P1", "P2", "P3"]
    assert [seen.json["prompt"] for seen in engine.seen] == ["first", ["p0", "p1", "p2", "p3"]]


async def test_calls_held_too_long_stand_in_the_queue() -> None:
    [engine] = engines()
    engine.script.append(hang)
    settings = {"e0": {"max_in_flight": 1}}
    async with Fleet(engine, engine_settings=settings) as fleet:
        dispatcher = fleet.server.dispatcher
        handler = BatchHandler(dispatcher, hold_s=0.02)
        first = asyncio.create_task(handler.add_request(completion("a"), path=COMPLETIONS))
        await until(lambda: engine.in_flight == 1)
        calls = [handler.add_request(completion(f"p{n}"), path=COMPLETIONS) for n in range(3)]
        later = [asyncio.create_task(call) for call in calls]
        await until(lambda: dispatcher.waiting == 1)
        first.cancel()
        assert [text(answer) for answer in await asyncio.gather(*later)] == ["P0", "P1", "P2"]
    assert engine.seen[1].json["prompt"] == ["p0", "p1", "p2"]


async def test_calls_too_large_for_a_limit_together_go_each_by_itself() -> None:
    [engine] = engines()
    key = {"name": "ann", "hash": hash_of("sk-ann"), "tokens_per_minute": 100}
    async with Fleet(engine, keys=[key]) as fleet:
        handler = BatchHandler(fleet.server.dispatcher)
        headers = [(b"authorization", b"Bearer sk-ann")]
        bodies = [completion(f"p{n}", max_tokens=30) for n in range(4)]
        calls = [handler.add_request(body, headers, COMPLETIONS) for body in bodies]
        answers = await asyncio.gather(*calls)
    assert sorted(answer.status for answer in answers) == [200, 200, 200, 429]
    assert [seen.json["max_tokens"] for seen in engine.seen] == [30] * 3


@pytest.mark.parametrize("code", [429, 503])
async def test_an_engine_that_has_no_room_is_not_asked_once_for_each(code: int) -> None:
    [engine] = engines()
    engine.default = status(code)
    async with Fleet(engine, retries={"attempts": 1}) as fleet:
        handler = BatchHandler(fleet.server.dispatcher)
        calls = [handler.add_request(completion(f"p{n}"), path=COMPLETIONS) for n in range(9)]
        answers = await asyncio.gather(*calls)
    assert [answer.status for answer in answers] == [code] * 9
    assert len(engine.seen) == 1


async def test_a_list_whose_callers_have_all_left_is_cancelled() -> None:
    [engine] = engines()
    engine.default = hang
    async with Fleet(engine) as fleet:
        handler = BatchHandler(fleet.server.dispatcher)
        calls = [
            asyncio.create_task(handler.add_request(completion(f"p{n}"), path=COMPLETIONS))
            for n in range(3)
        ]
        await until(lambda: engine.in_flight == 1)
        calls[0].cancel()
        calls[1].cancel()
        await asyncio.sleep(0.05)
        assert fleet.in_flight() == {"e0": 1}
        calls[2].cancel()
        await fleet.settled()
        assert fleet.in_flight() == {"e0": 0}
        assert engine.cancelled == 1


async def test_single_requests_that_ask_for_it_go_together() -> None:
    [engine] = engines()
    free = asyncio.Event()

    async def busy(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await free.wait()
        return await echo(engine, seen, writer)

    engine.script.append(busy)
    async with Fleet(engine, engine_settings={"e0": {"max_in_flight": 1}}) as fleet:
        fleet.server._batches._hold_s = 60

        async def ask(prompt: str) -> httpx.Response:
            return await fleet.client.post(
                "/v1/completions",
                json=completion(prompt),
                headers={"x-stoker-gather": "true", "x-request-id": f"id-{prompt}"},
            )

        tasks = [asyncio.create_task(ask("first"))]
        await until(lambda: engine.in_flight == 1)
        tasks += [asyncio.create_task(ask(f"p{n}")) for n in range(8)]
        handler = fleet.server._batches
        await until(lambda: sum(len(group.calls) for group in handler._gathered.values()) == 8)
        free.set()
        responses = await asyncio.gather(*tasks)
    names = ["first", *(f"p{n}" for n in range(8))]
    assert [one.json()["choices"][0]["text"] for one in responses] == [n.upper() for n in names]
    assert [one.headers["x-request-id"] for one in responses] == [f"id-{name}" for name in names]
    assert {one.headers["x-stoker-engine"] for one in responses} == {"e0"}
    assert [len(seen.json["prompt"]) for seen in engine.seen] == [len("first"), 8]
    assert "x-stoker-gather" not in engine.seen[1].headers


@pytest.mark.parametrize(
    ("body", "header"),
    [(completion("p", stream=True), "true"), (completion("p"), "false")],
)
async def test_what_cannot_be_gathered_passes_as_it_is(body: dict[str, Any], header: str) -> None:
    [engine] = engines()
    engine.default = answer
    async with Fleet(engine) as fleet:
        headers = {"x-stoker-gather": header}
        response = await fleet.client.post("/v1/completions", json=body, headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(
        "text/event-stream" if body.get("stream") else "application/json"
    )
    assert engine.seen[0].json.items() >= body.items()


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
        body = {"requests": [{"model": "m", "messages": [], "seed": n} for n in range(3)]}
        asked = asyncio.create_task(fleet.client.post("/batch", json=body))
        await until(lambda: engine.in_flight == 3)
        asked.cancel()
        await fleet.settled()
        assert fleet.in_flight() == {"e0": 0}

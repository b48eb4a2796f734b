"""The way of a request through the router and back, by the client people use."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import httpx
import openai
import pytest

from .fakes import (
    Behaviour,
    FakeEngine,
    Fleet,
    answer,
    chunk,
    close_after_head,
    close_at_once,
    close_in_body,
    close_in_stream,
    garbage,
    hang,
    hang_in_stream,
    status,
)

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def sdk(fleet: Fleet) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key="k", max_retries=0)


async def ask(fleet: Fleet) -> str:
    async with sdk(fleet) as client:
        answer = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}]
        )
    return answer.choices[0].message.content or ""


async def test_the_openai_sdk_gets_its_answer(fleet: Fleet) -> None:
    assert await ask(fleet) in ("engine one here", "engine two here")
    assert fleet.in_flight() == {"one": 0, "two": 0}


async def test_requests_alternate_between_quiet_engines(fleet: Fleet) -> None:
    answers = Counter([await ask(fleet) for _ in range(6)])
    assert answers == {"engine one here": 3, "engine two here": 3}


async def test_a_stream_arrives_in_pieces(fleet: Fleet) -> None:
    async with sdk(fleet) as client:
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        words = [part.choices[0].delta.content async for part in stream]
    assert words[0] == "engine"
    assert words[2] == "here"
    await fleet.settled()
    assert fleet.in_flight() == {"one": 0, "two": 0}


async def test_a_stream_passes_byte_for_byte(fleet: Fleet) -> None:
    async with httpx.AsyncClient() as client:
        response = await client.post(f"{fleet.url}/v1/chat/completions", json=BODY | {"stream": True})
    name = response.headers["x-stoker-engine"]
    expected = b"".join(chunk(word) for word in ("engine", name, "here")) + b"data: [DONE]\n\n"
    assert response.content == expected


async def test_the_body_reaches_the_engine_unchanged(fleet: Fleet) -> None:
    body = b'{ "model":"m",  "messages": [], "unknown": {"a": 1.50, "b": [null]}, "seed": 1e3 }'
    async with httpx.AsyncClient() as client:
        response = await client.post(f"{fleet.url}/v1/chat/completions", content=body)
    assert response.status_code == 200
    [seen] = [seen for engine in fleet.engines for seen in engine.seen]
    assert seen.body == body


async def test_headers_on_every_response(fleet: Fleet) -> None:
    async with httpx.AsyncClient(base_url=fleet.url) as client:
        good = await client.post(
            "/v1/chat/completions", json=BODY, headers={"x-request-id": "mine-1"}
        )
        bad = await client.post("/v1/chat/completions", content=b"{")
        own = await client.get("/v1/models")
    assert good.headers["x-request-id"] == "mine-1"
    assert good.headers["x-stoker-engine"] in ("one", "two")
    assert good.headers["x-stoker-reason"] == "least_in_flight: 0 of 64"
    for response in (bad, own):
        assert response.headers["x-request-id"].startswith("req-")
        assert response.headers["x-stoker-engine"] == "-"
        assert response.headers["x-stoker-reason"]


@pytest.mark.parametrize(
    "fault",
    [close_at_once, garbage, close_in_body, close_after_head, status(500), status(503), status(429)],
    ids=["closes", "garbage", "half a body", "empty stream", "500", "503", "429"],
)
async def test_a_fault_before_the_first_byte_is_tried_elsewhere(fleet: Fleet, fault: Behaviour) -> None:
    one, two = fleet.engines
    one.default = fault
    assert [await ask(fleet) for _ in range(4)] == ["engine two here"] * 4
    assert one.seen, "the faulty engine was never tried"
    assert fleet.in_flight() == {"one": 0, "two": 0}

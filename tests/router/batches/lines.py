"""Batch files for the tests, and an engine that says what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any, Literal

import openai
from openai.types import Batch

from tests.router.fakes import Behaviour, FakeEngine, Seen, completion, reply

ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
OVER = ("completed", "failed", "expired", "cancelled")


def line(number: int, **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"question {number}"}]
    return {
        "custom_id": f"c{number}",
        "method": "POST",
        "url": ENDPOINT,
        "body": {"model": "m", "messages": messages, **body},
    }


def jsonl(*lines: Any) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


def asked(seen: Seen) -> str:
    """The question of a request."""
    content: str = seen.json["messages"][0]["content"]
    return content


def echo(seconds: float = 0.0) -> Behaviour:
    """Answers each question with itself."""

    async def behave(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(seconds)
        body = completion(f"answer to {asked(seen)}", "m")
        return await reply(writer, 200, json.dumps(body, indent=1).encode())

    return behave


def questions(engine: FakeEngine) -> Counter[str]:
    return Counter(asked(seen) for seen in engine.seen)


async def start_batch(sdk: openai.AsyncOpenAI, content: bytes, **fields: Any) -> Batch:
    file = await sdk.files.create(file=("in.jsonl", content), purpose="batch")
    settings: dict[str, Any] = {"endpoint": ENDPOINT, "completion_window": "24h", **fields}
    return await sdk.batches.create(input_file_id=file.id, **settings)


async def finished(sdk: openai.AsyncOpenAI, batch: Batch, seconds: float = 60) -> Batch:
    """The batch once it is over."""
    async with asyncio.timeout(seconds):
        while batch.status not in OVER:
            await asyncio.sleep(0.02)
            batch = await sdk.batches.retrieve(batch.id)
    return batch


async def read(sdk: openai.AsyncOpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of an output or error file; none when there is no file."""
    if file_id is None:
        return []
    content = await sdk.files.content(file_id)
    return [json.loads(text) for text in content.content.splitlines()]

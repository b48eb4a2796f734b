"""A whole fleet as people run it: `stoker up`, real engines, and everything that befalls them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai

# What nobody waits for in vain: loading a model on a machine with other work.
PATIENCE_S = 60.0


@dataclass
class Fleet:
    """A running `stoker up`."""

    url: str
    ports: Mapping[str, int]
    """Each engine's own port, by its name."""
    stderr: Path
    patience: float

    def engines(self) -> dict[str, Any]:
        """What the router thinks of each engine."""
        engines: dict[str, Any] = httpx.get(f"{self.url}/health", timeout=30).json()["engines"]
        return engines

    def until(self, what: str, **wanted: dict[str, Any]) -> None:
        """Wait until every engine named has these fields in `/health`."""
        end = time.monotonic() + self.patience
        while True:
            engines = self.engines()
            if all(wanted[name].items() <= engines[name].items() for name in wanted):
                return
            assert time.monotonic() < end, f"not {what}: {engines}\n{self.stderr.read_text()}"
            time.sleep(0.02)

    def all_healthy(self) -> None:
        self.until("healthy", **{name: {"healthy": True} for name in self.ports})

    def pid(self, name: str) -> int | None:
        """The process of an engine, not its guard."""
        port = str(self.ports[name])
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                words = (directory / "cmdline").read_text().split("\0")
            except OSError:
                continue
            if port in words and not any(word.endswith("guard.py") for word in words):
                return int(directory.name)
        return None


@contextmanager
def running(
    directory: Path,
    engines: Sequence[Mapping[str, Any]],
    patience: float = PATIENCE_S,
    **settings: Any,
) -> Iterator[Fleet]:
    """Start these engines and a router before them, with further `settings`; all are gone
    afterwards."""
    config = {
        "router": {"port": 0, "policy": "round_robin", "drain": 5},
        "health": {"interval": 0.2, "timeout": 2, "fails": 2},
        "supervision": {"logs": str(directory / "logs"), "backoff": 0.1, "hung": 1, "grace": 2},
        "admission": {"max_wait": patience},
        "engines": engines,
        **settings,
    }
    file, stderr = directory / "stoker.yaml", directory / "stderr"
    file.write_text(json.dumps(config))
    with stderr.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "stoker", "up", str(file)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(len(engines) + 1)]
        url = re.search(r"http://\S+:\d+", lines[0])
        assert url, stderr.read_text()
        ports = {line.split()[0]: int(re.findall(r":(\d+)\)", line)[0]) for line in lines[1:]}
        yield Fleet(url[0], ports, stderr, patience)
    finally:
        process.terminate()
        process.communicate(timeout=60)


async def survives_everything(
    fleet: Fleet,
    model: str,
    tokens: int,
    *,
    killed: Iterable[str] | None = None,
    stopped: Iterable[str] | None = None,
) -> None:
    """Through one address: engines by name; then, with work on all, those `killed` and those
    `stopped` in turn (all, if not said).

    `tokens`: an answer so long takes every engine long enough to be caught at it.
    """
    await asyncio.to_thread(fleet.all_healthy)
    async with openai.AsyncOpenAI(
        base_url=f"{fleet.url}/v1", api_key="k", max_retries=0, timeout=fleet.patience * 2
    ) as client:
        for name in fleet.ports:
            raw = await client.completions.with_raw_response.create(
                model=model,
                prompt="Once upon a time",
                max_tokens=4,
                extra_headers={"x-stoker-backend": name},
            )
            assert raw.headers["x-stoker-engine"] == name
            usage = raw.parse().usage
            assert usage is not None
            assert usage.completion_tokens == 4
        for name in killed or fleet.ports:
            await _killed_in_mid_stream(fleet, client, name, model, tokens)
        for name in stopped or fleet.ports:
            await _stopped(fleet, client, name, model, tokens)
    assert {engine["in_flight"] for engine in fleet.engines().values()} == {0}


async def _ask(client: openai.AsyncOpenAI, model: str, tokens: int) -> int | None:
    answer = await client.completions.create(
        model=model, prompt="Once", max_tokens=tokens, extra_body={"ignore_eos": True}
    )
    return answer.usage.completion_tokens if answer.usage else None


async def _killed_in_mid_stream(
    fleet: Fleet, client: openai.AsyncOpenAI, name: str, model: str, tokens: int
) -> None:
    """The stream ends with a clear error; what has not begun to stream is answered by others."""
    pid = fleet.pid(name)
    assert pid is not None
    stream = await client.completions.create(
        model=model,
        prompt="Once upon a time",
        max_tokens=tokens,
        stream=True,
        extra_body={"ignore_eos": True},
        extra_headers={"x-stoker-backend": name},
    )
    await anext(stream)
    asks = [asyncio.create_task(_ask(client, model, tokens // 4)) for _ in fleet.ports]
    # One of them, sent in turn, is on this engine beside the stream.
    await asyncio.to_thread(fleet.until, "busy", **{name: {"in_flight": 2}})
    os.kill(pid, signal.SIGKILL)
    try:
        async for _ in stream:
            pass
    except openai.APIError as error:
        assert f"Engine {name} stopped in the middle of its answer" in str(error)  # noqa: PT017
    else:
        raise AssertionError("the stream of a killed engine ended as if it were whole")
    assert await asyncio.gather(*asks) == [tokens // 4] * len(asks)
    await asyncio.to_thread(fleet.all_healthy)
    assert fleet.pid(name) not in (pid, None)


async def _stopped(
    fleet: Fleet, client: openai.AsyncOpenAI, name: str, model: str, tokens: int
) -> None:
    """An engine that hangs (SIGSTOP) loses what it has to the others, and is started anew."""
    pid = fleet.pid(name)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    asks = [asyncio.create_task(_ask(client, model, tokens // 4)) for _ in fleet.ports]
    assert await asyncio.gather(*asks) == [tokens // 4] * len(asks)
    await asyncio.to_thread(fleet.all_healthy)
    assert fleet.pid(name) not in (pid, None)

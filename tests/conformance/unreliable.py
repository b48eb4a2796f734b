"""Engines that cannot be relied on: real processes, and a line to each that fails on its own."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from stoker.router.managed.commands import free_port

SERVE = "from stoker.cli.main import main; main()"


class EngineProcess:
    """`stoker serve`, always on the same port."""

    def __init__(self, model: Path, log: Path) -> None:
        self.port = free_port()
        self._command = [
            *(sys.executable, "-c", SERVE, "serve", str(model), "--served-model-name", "m"),
            *("--port", str(self.port)),
        ]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Line:
    """Passes bytes between the router and an engine, and breaks off, stalls or garbles answers.

    `share`: of the pieces of answers that pass, so many have something done to them.
    """

    FAULTS = ("reset", "half", "garbage", "late")

    def __init__(self, engine_port: int, dice: random.Random, share: float) -> None:
        self.port = 0
        self.share = share
        self.done: Counter[str] = Counter()
        self._engine_port = engine_port
        self._dice = dice
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        writers = [writer]
        ways: list[asyncio.Task[None]] = []
        try:
            answers, engine = await asyncio.open_connection("127.0.0.1", self._engine_port)
            writers.append(engine)
            ways = [
                asyncio.create_task(self._pass_on(reader, engine)),
                asyncio.create_task(self._answer(answers, writer)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except ConnectionError:
            pass  # the engine is not there
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for one in writers:
                one.transport.abort()
            self._tasks.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            fault = self._fault(begins=data.startswith(b"HTTP/1.1 "))
            self.done[fault or "-"] += 1
            if fault == "late":
                await asyncio.sleep(self._dice.uniform(0.02, 0.2))
            elif fault == "half":
                writer.write(data[: len(data) // 2])
                await writer.drain()
                await asyncio.sleep(0.01)  # or what was written would be dropped with the rest
                return
            elif fault == "garbage":
                writer.write(b"\x00\x01 no HTTP \xff\r\n\r\n" + data)
                await writer.drain()
                await asyncio.sleep(0.01)
                return
            elif fault == "reset":
                return
            writer.write(data)
            await writer.drain()

    def _fault(self, *, begins: bool) -> str | None:
        """In the middle of a stream only half as often, for nothing can be done about it there;
        and no garbage, which would look like the engine's own words."""
        if self._dice.random() >= (self.share if begins else self.share / 10):
            return None
        fault = self._dice.choice(self.FAULTS)
        return fault if begins or fault != "garbage" else "late"

"""A real `stoker router`, to be killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from stoker.router.managed.commands import free_port

_MAIN = "from stoker.cli.main import main; main()"


class RouterProcess:
    """Runs until it is killed, at the latest when the context ends; may be started again."""

    def __init__(
        self,
        directory: Path,
        config: dict[str, Any] | None,
        arguments: Sequence[str] = (),
        *,
        name: str = "router",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """With `config` in its file, or no file; `environment` beside this process' own."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        file = directory / f"{name}.yaml"
        if config is not None:
            file.write_text(json.dumps(config), encoding="utf-8")
        self._command = [
            *(sys.executable, "-c", _MAIN, "router", str(file), "--port", str(self.port)),
            *arguments,
        ]
        self._environment = {**os.environ, **(environment or {})}
        self._log = directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.client = httpx.AsyncClient(base_url=self.url, timeout=60)

    async def start(self) -> None:
        process = self._process = self._popen()
        async with asyncio.timeout(60):
            while True:
                assert process.poll() is None, self._log.read_text()
                try:
                    await self.client.get("/health")
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
                else:
                    return

    def _popen(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(self._command, stdout=log, stderr=log, env=self._environment)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            self.end()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.client.aclose()
        self.end()

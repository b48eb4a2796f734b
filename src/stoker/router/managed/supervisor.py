"""Keeps managed engines running: starts them, restarts those that end or hang, stops them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stoker.router.config import EngineConfig, Supervision
from stoker.router.managed import guard
from stoker.router.managed.logs import EngineLog
from stoker.router.managed.memory import resident_bytes

log = logging.getLogger(__name__)

# An engine that ran this long before it ended is restarted without delay.
_STABLE_S = 60.0
_LINE_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Managed:
    """An engine to keep running: its configuration and the command that starts it."""

    config: EngineConfig
    command: Sequence[str]


class Supervisor:
    """One child process an engine, each under a guard that ends it when we end.

    `on_exit(name, reason)` is called when an engine's process has ended by itself.
    """

    def __init__(
        self, settings: Supervision, on_exit: Callable[[str, str], None], *, show_logs: bool
    ) -> None:
        self._settings = settings
        self._on_exit = on_exit
        self._show_logs = show_logs
        self._children: dict[str, _Child] = {}

    def start(self, engines: Iterable[Managed]) -> None:
        """Start engines; returns at once. One of a name that runs already is another process
        until `release` has ended the old."""
        directory = Path(self._settings.logs).expanduser()
        for one in engines:
            log_file = EngineLog(one.config.name, directory, show=self._show_logs)
            child = self._children[one.config.name] = _Child(one, log_file)
            child.task = asyncio.create_task(self._keep(child), name=f"engine {one.config.name}")

    def names(self) -> list[str]:
        """The engines that are kept running."""
        return list(self._children)

    def memory(self, name: str) -> int | None:
        """Bytes of memory that an engine's processes have; None while it does not run."""
        pid = self._children[name].pid if name in self._children else None
        return None if pid is None else resident_bytes(pid)

    def restart(self, name: str) -> None:
        """End an engine that runs but does not answer; it is started again."""
        self._children[name].terminate()

    def release(self, name: str) -> Callable[[], Awaitable[None]]:
        """Stop keeping an engine; calling the result ends its process and waits for that."""
        child = self._children.pop(name)
        return child.stop

    async def stop(self) -> None:
        """Stop every engine and wait until their processes are gone."""
        await asyncio.gather(*(child.stop() for child in self._children.values()))

    async def _keep(self, child: _Child) -> None:
        """Run an engine, again and again, with growing pauses while it does not last."""
        settings = self._settings
        name = child.managed.config.name
        pause = settings.backoff
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            status = await child.run(settings.grace)
            reason = _describe(status)
            log.warning("engine %s ended: %s; its log is %s", name, reason, child.log.path)
            for line in child.log.last_lines():
                log.warning("  %s", line)
            self._on_exit(name, reason)
            if loop.time() - started >= _STABLE_S:
                pause = settings.backoff
            await asyncio.sleep(pause)
            pause = min(pause * 2, settings.backoff_max)


class _Child:
    """An engine's process, through its guard."""

    def __init__(self, managed: Managed, log: EngineLog) -> None:
        self.managed = managed
        self.log = log
        self.task: asyncio.Task[None] | None = None
        """What keeps it running."""
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, grace: float) -> int:
        """Start the engine and wait until it ends; its exit status."""
        assert guard.__file__ is not None
        process = self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", guard.__file__, str(grace)),
            *self.managed.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self.managed.config.env},
            start_new_session=True,  # a Ctrl+C at the terminal is ours to pass on
            limit=_LINE_LIMIT,
        )
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                continue  # a line longer than the limit is dropped
            if not line:
                break
            self.log.write(line)
        return await process.wait()

    @property
    def pid(self) -> int | None:
        """The guard's; None while nothing runs."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    def terminate(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    async def stop(self) -> None:
        """Ask it to stop; the guard kills what does not."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        process = self._process
        if process is not None and process.returncode is None:
            self.terminate()
            assert process.stdout is not None
            while line := await process.stdout.read(_LINE_LIMIT):
                self.log.write(line)
            await process.wait()
        self.log.close()


def _describe(status: int) -> str:
    if status > 128:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(status - 128).name}"
    return f"exit status {status}"

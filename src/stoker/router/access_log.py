"""The access log: a JSON object a line for every request that was meant for an engine.

Lines are made on the event loop, a few at a time, and written by a thread, so that a slow disk
delays no request. What waits to be written is bounded: beyond that lines are lost, and counted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from stoker.errors import ConfigError
from stoker.router.usage import Usage

log = logging.getLogger(__name__)

_WRITE_EVERY_S = 0.1
_MAX_WAITING = 100_000
# Entries are kept until there are so many, and made lines of together.
_AT_ONCE = 64


class AccessEntry(msgspec.Struct, gc=False):
    """One line. Never what was asked or answered, and a key's name, never the key."""

    time: float
    """Seconds since 1970, when the answer ended."""
    id: str
    key: str
    model: str | None
    engine: str | None
    """Who answered; null for an answer of the router's own."""
    reason: str
    """Why that engine, or why none."""
    status: int
    """499 when the client left."""
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    """As the engine told; null where it did not."""
    first_byte_ms: float | None
    total_ms: float


class AccessLog:
    """Appends to a file, or writes to standard output (`-`)."""

    def __init__(self, path: str) -> None:
        """Raises `ConfigError` when the file cannot be written."""
        self.path = path
        self.lost = 0
        """Lines that were not written because the disk was too slow or full."""
        self._encode = msgspec.json.Encoder().encode_lines
        self._entries: list[AccessEntry] = []
        self._lines: list[bytes] = []
        self._waiting = 0
        """How many lines there are in both."""
        self._file = _open(path)
        self._writer = ThreadPoolExecutor(1, "access log")
        self._moved = False
        self._failing = False

    def note(
        self,
        request_id: bytes,
        key: str,
        model: str | None,
        engine: str | None,
        reason: str,
        status: int,
        usage: Usage | None,
        first_byte_s: float | None,
        total_s: float,
    ) -> None:
        """A request is over."""
        if self._waiting >= _MAX_WAITING:
            self.lost += 1
            return
        self._waiting += 1
        prompt = cached = completion = None
        if usage is not None:
            prompt, cached = usage.prompt_tokens, usage.cached_tokens
            completion = usage.completion_tokens
        entry = AccessEntry(
            int(time.time() * 1e3) / 1e3,
            request_id.decode("latin-1"),
            key,
            model,
            engine,
            reason,
            status,
            prompt,
            cached,
            completion,
            # Whole microseconds; `round` would take as long as all the rest.
            None if first_byte_s is None else int(first_byte_s * 1e6 + 0.5) / 1e3,
            int(total_s * 1e6 + 0.5) / 1e3,
        )
        self._entries.append(entry)
        if len(self._entries) >= _AT_ONCE:
            self._make_lines()

    def _make_lines(self) -> None:
        self._lines.append(self._encode(self._entries))
        self._entries.clear()

    async def run(self) -> None:
        """Write, every moment, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_WRITE_EVERY_S)
            if self._waiting:
                writing = loop.run_in_executor(self._writer, self._write, *self._take())
                await asyncio.shield(writing)  # what was begun is finished by `close`

    def reopen(self) -> None:
        """Go on in a new file of the same name, if the old one was moved away."""
        self._moved = True

    def close(self) -> None:
        """Write what waits, and close."""
        self._writer.shutdown()
        if self._waiting:
            self._write(*self._take())
        _close(self._file)

    def _take(self) -> tuple[bytes, int]:
        """All that waits, and how many lines that are."""
        if self._entries:
            self._make_lines()
        data, count = b"".join(self._lines), self._waiting
        self._lines.clear()
        self._waiting = 0
        return data, count

    def _write(self, data: bytes, count: int) -> None:
        try:
            if self._moved:
                self._moved = False
                old, self._file = self._file, _open(self.path)
                _close(old)
            while data:
                data = data[os.write(self._file, data) :]
        except (OSError, ConfigError) as error:
            self.lost += count
            if not self._failing:
                self._failing = True
                log.warning("the access log %s cannot be written: %s", self.path, error)
        else:
            self._failing = False


def _open(path: str) -> int:
    if path == "-":
        return sys.stdout.fileno()
    try:
        return os.open(Path(path).expanduser(), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    except OSError as error:
        raise ConfigError(f"router.access_log: {path}: {error.strerror}") from error


def _close(file: int) -> None:
    if file > 2:
        os.close(file)

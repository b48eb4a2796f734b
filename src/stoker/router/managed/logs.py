"""What managed engines print: kept in a file each, shown with the engine's name before it."""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path

_ROTATE_BYTES = 16 * 1024 * 1024
_REMEMBERED_LINES = 20


class EngineLog:
    """One engine's output. The file before the present one is kept as `NAME.log.1`."""

    def __init__(self, name: str, directory: Path, *, show: bool) -> None:
        self._label = name
        self._show = show
        self._path = directory / f"{name}.log"
        directory.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab")
        self._last: deque[str] = deque(maxlen=_REMEMBERED_LINES)

    @property
    def path(self) -> Path:
        return self._path

    def write(self, line: bytes) -> None:
        """Take one line, its end included or not."""
        text = line.rstrip(b"\r\n")
        self._file.write(text + b"\n")
        self._file.flush()
        if self._file.tell() > _ROTATE_BYTES:
            self._rotate()
        shown = "".join(c for c in text.decode("utf-8", "replace") if c.isprintable() or c == "\t")
        self._last.append(shown)
        if self._show:
            print(f"[{self._label}] {shown}", file=sys.stderr, flush=True)

    def last_lines(self) -> list[str]:
        """The newest lines, for telling why an engine ended."""
        return list(self._last)

    def close(self) -> None:
        self._file.close()

    def _rotate(self) -> None:
        self._file.close()
        self._path.replace(self._path.with_suffix(".log.1"))
        self._file = self._path.open("ab")

"""Server-sent events, read from pieces that break anywhere."""

from __future__ import annotations

from collections.abc import Iterator


class EventReader:
    """Yields the data of each event as soon as it is whole. Comments and other fields are
    passed over, and so is an event that grows larger than `limit`."""

    def __init__(self, limit: int = 8 * 1024 * 1024) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._limit = limit

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The events that `chunk` completes."""
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            line = line.removesuffix(b"\r")
            if not line:
                if self._data:
                    data, self._data = b"\n".join(self._data), []
                    yield data
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
        if len(self._rest) + sum(len(piece) for piece in self._data) > self._limit:
            self._rest, self._data = b"", []

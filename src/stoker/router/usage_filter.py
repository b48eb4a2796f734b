"""Takes out of an event stream the usage that the router asked for and the client did not."""

from __future__ import annotations

import re

from stoker.router.usage import Usage, read_usage

_USAGE = b'"usage"'
_EVENT_END = re.compile(rb"\r?\n\r?\n")
_EMPTY_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')
# Unescaped quotes cannot stand inside a JSON string, so this is a field.
_NULL_USAGE = re.compile(rb',\s*"usage"\s*:\s*null')
# An event that grows larger is passed on as it comes.
_LIMIT = 1024 * 1024


class UsageFilter:
    """Feeds on pieces that break anywhere; every byte that is not usage comes out again, in
    order. What is not yet a whole event is held until it is."""

    __slots__ = ("_rest", "usage")

    def __init__(self) -> None:
        self._rest = b""
        self.usage: Usage | None = None
        """What the stream said was used, once it did."""

    def feed(self, chunk: bytes) -> bytes:
        """What of the stream so far the client may see now."""
        if not self._rest and chunk.endswith(b"\n\n") and _USAGE not in chunk:
            return chunk
        data = self._rest + chunk
        ends = [match.end() for match in _EVENT_END.finditer(data)]
        whole = ends[-1] if ends else 0
        self._rest = data[whole:]
        if len(self._rest) > _LIMIT:
            whole, self._rest = len(data), b""
        if _USAGE not in data:
            return data[:whole]
        out, begin = [], 0
        for end in ends:
            out.append(self._without_usage(data[begin:end]))
            begin = end
        out.append(data[begin:whole])
        return b"".join(out)

    def rest(self) -> bytes:
        """The stream is over: what was held."""
        held, self._rest = self._rest, b""
        return held

    def _without_usage(self, event: bytes) -> bytes:
        if _USAGE not in event:
            return event
        if _EMPTY_CHOICES.search(event):
            usage = read_usage(event.strip().removeprefix(b"data:"))
            if usage is not None:
                self.usage = usage
                return b""
        return _NULL_USAGE.sub(b"", event)

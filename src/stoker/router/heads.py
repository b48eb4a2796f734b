"""Heads that repeat. A client sends the same head with each of its requests, and an engine with
its answers, but for the length of the body; so a head that was parsed is known by its bytes the
next time, and need not be parsed again.
"""

from __future__ import annotations

import re
from typing import Generic, TypeVar

from stoker.router.wire import Headers

# The digits of the one field in a head that may differ.
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,15})(?=[ \t]*\r\n)", re.IGNORECASE)
_MOST_DIGITS = 15


T = TypeVar("T")


class KnownHead(Generic[T]):
    """A head's bytes before the digits of its Content-Length, those after them, and what the
    head was parsed to.

    Made only of heads that were parsed and found right, so that whoever knows one may take the
    same bytes with other digits as another message of the same kind.
    """

    __slots__ = ("__weakref__", "_after", "_before", "_digits_at", "_num_digits", "meaning")

    def __init__(self, before: bytes, after: bytes, meaning: T) -> None:
        self._before = before
        self._after = after
        self._digits_at = len(before)
        self._num_digits = 3
        """As many as the last length had, which are tried first."""
        self.meaning = meaning

    def body_of(self, data: bytes) -> tuple[int, int] | None:
        """Where in `data` the body begins and how long it will be, if `data` begins with this
        head, whole."""
        if not data.startswith(self._before):
            return None
        at, after = self._digits_at, self._after
        end = at + self._num_digits
        if not data.startswith(after, end):
            end = data.find(b"\r", at, at + _MOST_DIGITS + 1)
            if not data.startswith(after, end):
                return None
            self._num_digits = end - at
        digits = data[at:end]
        if not digits.isdigit():
            return None
        return end + len(self._after), int(digits)


def split_head(data: bytes, headers: Headers) -> tuple[bytes, bytes, int] | None:
    """The head that `data` begins with, for `KnownHead`, and where the body begins. `headers` is
    what it was parsed to. None where more than the body's length may change from one to the next,
    or where the body's end is told in another way."""
    end = data.find(b"\r\n\r\n") + 4
    names = [name for name, _ in headers]
    if end < 4 or names.count(b"content-length") != 1 or b"transfer-encoding" in names:
        return None
    found = _LENGTH.search(data, 0, end)
    if found is None:
        return None
    begin, stop = found.span(1)
    return data[:begin], data[stop:end], end

"""HTTP/1.1 as the router writes it: heads, error bodies, and which fields stay on one hop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from http import HTTPStatus
from typing import overload

from stoker.api.errors import ApiError

Headers = Sequence[tuple[bytes, bytes]]
"""Field names in lower case, with their values."""

JSON = (b"content-type", b"application/json")

# Fields that describe one connection, not the message (RFC 9110, 7.6.1), and those that the
# router sets itself on the next hop.
HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    )
)
# Engines answer uncompressed: the router reads token usage as the bytes pass.
NOT_FORWARDED = HOP_BY_HOP | {b"host", b"content-length", b"expect", b"accept-encoding"}
NOT_RETURNED = HOP_BY_HOP | {b"content-length", b"x-request-id"}

STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode())
    for status in HTTPStatus
}


def status_line(status: int) -> bytes:
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d Status\r\n" % status


def end_to_end(
    headers: Headers, connection: bytes | None, dropped: frozenset[bytes]
) -> list[tuple[bytes, bytes]]:
    """The fields that pass to the next hop: not those `dropped`, nor those that `connection`,
    the value of the Connection field, names."""
    if connection is not None and connection.lower() not in (b"close", b"keep-alive"):
        dropped = dropped | {part.strip().lower() for part in connection.split(b",")}
    return [field for field in headers if field[0] not in dropped]


class WrittenHeaders(Sequence[tuple[bytes, bytes]]):
    """Fields that are kept as they are written, and taken apart only for who reads them."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def _fields(self) -> list[tuple[bytes, bytes]]:
        lines = self.raw.split(b"\r\n")[:-1]
        return [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]

    def __len__(self) -> int:
        return self.raw.count(b"\r\n")

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self._fields())

    @overload
    def __getitem__(self, index: int) -> tuple[bytes, bytes]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[bytes, bytes]]: ...
    def __getitem__(self, index: int | slice) -> tuple[bytes, bytes] | list[tuple[bytes, bytes]]:
        return self._fields()[index]


def join_headers(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    if type(headers) is WrittenHeaders:
        return headers.raw
    return b"".join([b"%b: %b\r\n" % field for field in headers])


def own_headers(request_id: bytes, reason: str, engine: str = "-") -> list[tuple[bytes, bytes]]:
    """What every response says: which request it answers, which engine did, and why that one."""
    return [
        (b"x-request-id", request_id),
        (b"x-stoker-engine", engine.encode()),
        (b"x-stoker-reason", header_text(reason)),
    ]


def error_headers(error: ApiError) -> list[tuple[bytes, bytes]]:
    """The fields of a response whose body is `error.body()`."""
    fields = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    return [JSON, *fields]


def header_text(text: str) -> bytes:
    """`text` as a field value: one line of visible ASCII, whatever it came from."""
    if text.isascii() and text.isprintable():
        return text.encode()
    if not text.isprintable():
        text = "".join(c if c.isprintable() else "?" for c in text)
    return text.encode("ascii", "replace")

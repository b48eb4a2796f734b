"""A request of the router's own to an engine, awaited."""

from __future__ import annotations

import asyncio

from stoker.router.engines.handle import EngineHandle
from stoker.router.upstream import Pool, ResponseHead, UpstreamFailure
from stoker.router.wire import join_headers

_LIMIT = 8 * 1024 * 1024


async def fetch(
    pool: Pool, engine: EngineHandle, path: str, *, within: float, body: bytes | None = None
) -> tuple[int, bytes]:
    """GET `path`, or POST `body` to it: status and body of the answer.

    A GET has a connection of its own, so that it tells whether one can be had. Raises
    `UpstreamFailure` when there is no whole answer within so many seconds.
    """
    receiver = _Collector()
    connection = None
    try:
        async with asyncio.timeout(within):
            connection = (pool.idle() if body is not None else None) or await pool.open()
            connection.send(_head(engine, path, body), body or b"", receiver, last=body is None)
            return await receiver.answer
    except TimeoutError:
        raise UpstreamFailure(f"no answer within {within:g} s", timed_out=True) from None
    finally:
        # Once the answer is over, the connection is closed or belongs to whoever took it from
        # the pool since.
        if connection is not None and not receiver.over:
            connection.abort()


def _head(engine: EngineHandle, path: str, body: bytes | None) -> bytes:
    line = b"%b %b%b HTTP/1.1\r\n" % (
        b"GET" if body is None else b"POST",
        engine.path_prefix,
        path.encode("ascii"),
    )
    fields = [(b"host", engine.host_header), (b"accept", b"*/*")]
    if engine.authorization is not None:
        fields.append((b"authorization", engine.authorization))
    if body is None:
        fields.append((b"connection", b"close"))
    else:
        fields.append((b"content-type", b"application/json"))
        fields.append((b"content-length", b"%d" % len(body)))
    return line + join_headers(fields) + b"\r\n"


class _Collector:
    """Gathers an answer into a future."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self.over = False
        """Whether the connection has no more to do with this answer."""
        self._status = 0
        self._chunks: list[bytes] = []
        self._size = 0

    def on_answer(self, head: ResponseHead, body: bytes) -> None:
        self.on_head(head)
        self.on_body(body)
        self.on_end()

    def on_head(self, head: ResponseHead) -> None:
        self._status = head.status

    def on_body(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size <= _LIMIT:
            self._chunks.append(chunk)

    def on_end(self) -> None:
        self.over = True
        if self._size > _LIMIT:
            self.on_failed(UpstreamFailure(f"the answer is larger than {_LIMIT} bytes"))
        elif not self.answer.done():
            self.answer.set_result((self._status, b"".join(self._chunks)))

    def on_failed(self, failure: UpstreamFailure) -> None:
        self.over = True
        if not self.answer.done():
            self.answer.set_exception(failure)

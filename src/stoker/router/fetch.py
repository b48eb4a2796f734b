"""A request of the router's own to an engine, awaited."""

from __future__ import annotations

import asyncio

from stoker.router.engines.handle import EngineHandle
from stoker.router.upstream import Pool, ResponseHead, UpstreamFailure

_LIMIT = 8 * 1024 * 1024


async def fetch(pool: Pool, engine: EngineHandle, path: str, *, within: float) -> tuple[int, bytes]:
    """GET `path` over a connection of its own: status and body.

    Raises `UpstreamFailure` when there is no whole answer `within` so many seconds.
    """
    receiver = _Collector()
    connection = None
    try:
        async with asyncio.timeout(within):
            connection = await pool.open()
            authorization = (
                b"authorization: %b\r\n" % engine.authorization if engine.authorization else b""
            )
            head = (
                b"GET %b%b HTTP/1.1\r\nhost: %b\r\naccept: */*\r\nconnection: close\r\n%b\r\n"
                % (
                    engine.path_prefix,
                    path.encode("ascii"),
                    engine.host_header,
                    authorization,
                )
            )
            connection.send(head, b"", receiver)
            return await receiver.answer
    except TimeoutError:
        raise UpstreamFailure(f"no answer within {within:g} s", timed_out=True) from None
    finally:
        if connection is not None:
            connection.abort()


class _Collector:
    """Gathers an answer into a future."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._status = 0
        self._chunks: list[bytes] = []
        self._size = 0

    def on_head(self, head: ResponseHead) -> None:
        self._status = head.status

    def on_body(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size <= _LIMIT:
            self._chunks.append(chunk)

    def on_end(self) -> None:
        if self._size > _LIMIT:
            self.on_failed(UpstreamFailure(f"the answer is larger than {_LIMIT} bytes"))
        elif not self.answer.done():
            self.answer.set_result((self._status, b"".join(self._chunks)))

    def on_failed(self, failure: UpstreamFailure) -> None:
        if not self.answer.done():
            self.answer.set_exception(failure)

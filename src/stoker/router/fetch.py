"""A request of the router's own to an engine, awaited."""

from __future__ import annotations

import asyncio

from stoker.router.answer import AwaitedAnswer
from stoker.router.engines.handle import EngineHandle
from stoker.router.upstream import Pool, UpstreamFailure
from stoker.router.wire import join_headers

_LIMIT = 8 * 1024 * 1024


async def fetch(
    pool: Pool, engine: EngineHandle, path: str, *, within: float, body: bytes | None = None
) -> tuple[int, bytes]:
    """GET `path`, or POST `body` to it: status and body of the answer.

    A GET has a connection of its own, so that it tells whether one can be had. Raises
    `UpstreamFailure` when there is no whole answer within so many seconds.
    """
    answer = AwaitedAnswer()
    connection = None
    try:
        async with asyncio.timeout(within):
            connection = (pool.idle() if body is not None else None) or await pool.open()
            connection.send(_head(engine, path, body), body or b"", answer, last=body is None)
            head = await answer.head
            return head.status, await answer.whole(_LIMIT)
    except TimeoutError:
        raise UpstreamFailure(f"no answer within {within:g} s", timed_out=True) from None
    finally:
        if connection is not None and not answer.over:
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

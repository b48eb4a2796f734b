"""An engine's answer, for a coroutine that awaits it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from stoker.router.upstream import ResponseHead, UpstreamFailure


class AwaitedAnswer:
    """A `Receiver` whose head is awaited, and then its body: with `chunks` or with `whole`."""

    def __init__(self) -> None:
        self.head: asyncio.Future[ResponseHead] = asyncio.get_running_loop().create_future()
        """`UpstreamFailure` when the engine sends none."""
        self.over = False
        """Whether the connection has no more to do with this answer: it is closed, or belongs to
        whoever took it from the pool since."""
        self._queue: asyncio.Queue[bytes | UpstreamFailure | None] = asyncio.Queue()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body's pieces as they come. Raises `UpstreamFailure` when it breaks off."""
        while (item := await self._queue.get()) is not None:
            if isinstance(item, UpstreamFailure):
                raise item
            yield item

    async def whole(self, limit: int | None = None) -> bytes:
        """The body. Raises `UpstreamFailure` when it breaks off or has more than `limit` bytes."""
        pieces: list[bytes] = []
        size = 0
        async for chunk in self.chunks():
            size += len(chunk)
            if limit is not None and size > limit:
                raise UpstreamFailure(f"the answer is larger than {limit} bytes")
            pieces.append(chunk)
        return b"".join(pieces)

    async def end_within(self, seconds: float) -> None:
        """Pass over what is left of the body, for so long."""
        with contextlib.suppress(TimeoutError, UpstreamFailure):
            async with asyncio.timeout(seconds):
                async for _ in self.chunks():
                    pass

    # -- Receiver

    def on_answer(self, head: ResponseHead, body: bytes) -> None:
        self.on_head(head)
        self.on_body(body)
        self.on_end()

    def on_head(self, head: ResponseHead) -> None:
        if not self.head.done():  # whoever awaited it may just have been cancelled
            self.head.set_result(head)

    def on_body(self, chunk: bytes) -> None:
        self._queue.put_nowait(chunk)

    def on_end(self) -> None:
        self.over = True
        self._queue.put_nowait(None)

    def on_failed(self, failure: UpstreamFailure) -> None:
        self.over = True
        if self.head.done():
            self._queue.put_nowait(failure)
        else:
            self.head.set_exception(failure)

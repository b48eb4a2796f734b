"""A response that is made whether or not somebody listens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from stoker.api.errors import from_exception, internal_error, timed_out
from stoker.engine.async_engine import RequestStream
from stoker.errors import StokerError
from stoker.server.responses.builder import ResponseBuilder

log = logging.getLogger(__name__)


class BackgroundResponse:
    """Makes a response and remembers its events, for those who come to listen."""

    def __init__(
        self, builder: ResponseBuilder, stream: RequestStream, *, timeout: float | None
    ) -> None:
        """Begins at once. `timeout`: seconds after which it fails."""
        self.builder = builder
        self.events: list[bytes] = []
        """Event `i` has sequence number `i`."""
        self.ended = False
        self._stream = stream
        self._timeout = timeout
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def listen(self, after: int = -1) -> AsyncIterator[bytes]:
        """The events after sequence number `after`, those to come included."""
        position = after + 1
        while True:
            if position < len(self.events):
                yield b"".join(self.events[position:])
                position = len(self.events)
            elif self.ended:
                return
            else:
                await self._news.wait()

    async def cancel(self) -> None:
        """End it as it is. Does nothing if it has ended."""
        await asyncio.sleep(0)  # a task that has not begun could not clean up
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        builder = self.builder
        try:
            self._add(builder.begin())
            async with asyncio.timeout(self._timeout):
                async for output in self._stream:
                    self._add(builder.take(output))
            last = builder.end()
        except asyncio.CancelledError:
            last = builder.cancel()
        except TimeoutError:
            last = builder.fail(timed_out(self._timeout or 0.0))
        except StokerError as error:
            last = builder.fail(from_exception(error))
        except Exception:
            log.exception("response %s failed", builder.response.id)
            last = builder.fail(internal_error(builder.response.id))
        await self._stream.aclose()
        self.ended = True
        self._add(last)

    def _add(self, events: list[bytes]) -> None:
        self.events += events
        news, self._news = self._news, asyncio.Event()
        news.set()

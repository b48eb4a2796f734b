"""Responses that are kept, to be fetched and followed up: in memory, bounded, for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stoker.api.response_items import InputItem
from stoker.api.responses import ResponseResource

if TYPE_CHECKING:
    from stoker.server.responses.background import BackgroundResponse


@dataclass(slots=True)
class StoredResponse:
    """A response and what belongs to it."""

    response: ResponseResource
    items: Sequence[InputItem]
    """What it was made from, the items of earlier responses included."""
    background: BackgroundResponse | None = None

    @property
    def current(self) -> ResponseResource:
        """The response as it is now."""
        return self.response if self.background is None else self.background.builder.response

    @property
    def size(self) -> int:
        """Bytes as JSON."""
        size = len(self.response.model_dump_json())
        size += sum(len(item.model_dump_json()) for item in self.items)
        if self.background is not None:
            size += sum(map(len, self.background.events))
        return size


@dataclass(slots=True)
class _Entry:
    stored: StoredResponse
    size: int
    expires: float


class ResponseStore:
    """Stored responses by id. The oldest go when there are too many bytes of them."""

    def __init__(
        self, max_bytes: int, lifetime: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`max_bytes`: of the responses and their inputs as JSON. `lifetime`: seconds from a
        response's last change."""
        self._max_bytes = max_bytes
        self._lifetime = lifetime
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        """Those that were changed longest ago come first."""
        self.size = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, stored: StoredResponse) -> None:
        """Keep a response, or what it has become."""
        self.remove(stored.response.id)
        size = stored.size
        entry = _Entry(stored, size, self._clock() + self._lifetime)
        self._entries[stored.response.id] = entry
        self.size += size
        while self.size > self._max_bytes:
            self.remove(next(iter(self._entries)))

    def get(self, response_id: str) -> StoredResponse | None:
        self._expire()
        entry = self._entries.get(response_id)
        return None if entry is None else entry.stored

    def remove(self, response_id: str) -> None:
        """Unknown ids are ignored."""
        entry = self._entries.pop(response_id, None)
        if entry is not None:
            self.size -= entry.size

    def _expire(self) -> None:
        now = self._clock()
        while self._entries:
            response_id, entry = next(iter(self._entries.items()))
            if entry.expires > now:
                return
            self.remove(response_id)

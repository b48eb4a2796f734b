"""What happens to cached blocks, for whoever keeps an index of prefixes elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BlockStored:
    """Full blocks entered the prefix cache, each the parent of the next."""

    block_hashes: tuple[bytes, ...]
    parent_block_hash: bytes | None
    token_ids: tuple[int, ...]
    block_size: int
    cache_salt: bytes = b""
    """Of the first block of a prompt that has one: its prefix is shared with that salt only."""


@dataclass(frozen=True, slots=True)
class BlockRemoved:
    """Blocks left the prefix cache."""

    block_hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class AllBlocksCleared:
    """The prefix cache was emptied."""


KVEvent = BlockStored | BlockRemoved | AllBlocksCleared
KVEventListener = Callable[[list[KVEvent]], None]
"""Called in the engine's thread with the events of each step that had any, in their order; must
return at once."""

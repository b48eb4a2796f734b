"""What engines' caches can still hold of the prompts they were sent.

An approximation for engines that do not tell: a cache as large as the engine says, filled by what
this router sent there; the least recently used goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from stoker.router.engines.handle import EngineHandle
from stoker.router.policies.prompt_blocks import TOKENS_IN, block_hashes
from stoker.router.request import Features

UNKNOWN_TOKENS = 1 << 20
"""Taken for the size of a cache whose engine does not tell it."""
MAX_BLOCKS = 1 << 15
"""What is remembered of one engine: about 4 MB."""


class CacheModel:
    """A model of each engine's cache, in the blocks of `prompt_blocks`."""

    def __init__(self, max_blocks: int = MAX_BLOCKS) -> None:
        self._max_blocks = max_blocks
        self._caches: dict[EngineHandle, _Cache] = {}

    def __len__(self) -> int:
        """The blocks remembered, of all engines together."""
        return sum(len(cache) for cache in self._caches.values())

    def match(self, features: Features, engines: Sequence[EngineHandle]) -> list[int]:
        """For each of `engines`, how many of the prompt's first tokens it may hold."""
        caches, hashes = self._caches, block_hashes(features)
        known = []
        for engine in engines:
            cache, depth = caches.get(engine), 0
            if cache is not None:
                blocks = cache.blocks
                for block in hashes:
                    if block not in blocks:
                        break
                    depth += 1
            known.append(TOKENS_IN[depth])
        return known

    def add(self, features: Features, engine: EngineHandle) -> None:
        """The engine was sent this prompt."""
        cache = self._caches.get(engine)
        if cache is None:
            cache = self._caches[engine] = _Cache()
        load = engine.load
        size = None if load is None else load.cache_tokens
        hashes = features.block_hashes
        if hashes is None:
            hashes = block_hashes(features)
        cache.add(hashes, size or UNKNOWN_TOKENS, self._max_blocks)

    def forget(self, engine: EngineHandle) -> None:
        """The engine's cache is gone."""
        self._caches.pop(engine, None)


class _Cache:
    """One engine's: hashes of blocks with their tokens, the least recently sent first."""

    def __init__(self) -> None:
        # Not a dict: to find the first key of one whose first keys were removed takes time in
        # proportion to those.
        self.blocks: OrderedDict[int, int] = OrderedDict()
        self._tokens = 0

    def __len__(self) -> int:
        return len(self.blocks)

    def add(self, hashes: Sequence[int], size: int, max_blocks: int) -> None:
        """`size` of the cache in tokens."""
        blocks = self.blocks
        # The last block first: when the oldest are dropped, a prefix outlives what follows it.
        for depth in range(len(hashes), 0, -1):
            block = hashes[depth - 1]
            if block in blocks:
                blocks.move_to_end(block)
            else:
                tokens = TOKENS_IN[depth] - TOKENS_IN[depth - 1]
                self._tokens += tokens
                blocks[block] = tokens
        while self._tokens > size or len(blocks) > max_blocks:
            self._tokens -= blocks.popitem(last=False)[1]

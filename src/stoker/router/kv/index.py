"""Which engines hold which blocks of tokens.

Engines hash blocks each in their own way, so their hashes are only used to tell which block an
event means. A block is known here by a hash of its own: of its tokens and the block before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stoker.router.engines.handle import EngineHandle
from stoker.router.kv.events import BlockHash, Cleared, Event, Removed, Stored

# How long blocks that a request just sent will leave on an engine count as being there, until
# the engine's own word comes.
EXPECTED_S = 2.0


class _Held:
    """One engine's cache."""

    __slots__ = ("block_size", "counts", "expected", "keys")

    def __init__(self) -> None:
        self.block_size: int | None = None
        self.keys: dict[BlockHash, int] = {}
        """The engine's hash of a block → ours."""
        self.counts: dict[int, int] = {}
        """Ours → how many of the engine's blocks have it (the same text, twice computed)."""
        self.expected: dict[int, float] = {}
        """Ours → until when it is expected."""


class KvIndex:
    """The caches of all engines that publish events. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._engines: dict[EngineHandle, _Held] = {}

    def follows(self, engine: EngineHandle) -> bool:
        """Whether anything is known of the engine's cache."""
        held = self._engines.get(engine)
        return held is not None and held.block_size is not None

    def blocks(self, engine: EngineHandle) -> int:
        """How many blocks the engine is known to hold."""
        held = self._engines.get(engine)
        return 0 if held is None else len(held.keys)

    def apply(self, engine: EngineHandle, event: Event) -> None:
        """Take in what an engine published."""
        held = self._engines.setdefault(engine, _Held())
        match event:
            case Stored():
                self._store(held, event)
            case Removed():
                for block in event.hashes:
                    self._remove(held, block)
            case Cleared():
                self.clear(engine)

    def clear(self, engine: EngineHandle) -> None:
        """The engine's cache is empty, or what is known of it cannot be trusted."""
        held = self._engines.get(engine)
        if held is not None:
            held.keys.clear()
            held.counts.clear()
            held.expected.clear()

    def drop(self, engine: EngineHandle) -> None:
        """The engine is no longer followed."""
        self._engines.pop(engine, None)

    def match(
        self, tokens: Sequence[int], lora: str | None, engines: Sequence[EngineHandle]
    ) -> list[int]:
        """For each of `engines`, how many of the first tokens are in its cache."""
        now = self._clock()
        chains: dict[int, list[int]] = {}
        found = []
        for engine in engines:
            held = self._engines.get(engine)
            size = None if held is None else held.block_size
            if held is None or size is None:
                found.append(0)
                continue
            if size not in chains:
                chains[size] = block_keys(tokens, size, lora)
            depth = 0
            for key in chains[size]:
                if key not in held.counts and held.expected.get(key, now) <= now:
                    break
                depth += 1
            found.append(depth * size)
        return found

    def expect(self, tokens: Sequence[int], lora: str | None, engine: EngineHandle) -> None:
        """The engine was sent these tokens: it will hold their blocks before it says so."""
        held = self._engines.get(engine)
        if held is None or held.block_size is None:
            return
        now = self._clock()
        until = now + EXPECTED_S
        for key in block_keys(tokens, held.block_size, lora):
            held.expected.pop(key, None)
            held.expected[key] = until
        while held.expected:
            oldest = next(iter(held.expected))
            if held.expected[oldest] > now:
                break
            del held.expected[oldest]

    def _store(self, held: _Held, event: Stored) -> None:
        if event.block_size < 1:
            return
        held.block_size = event.block_size
        if event.parent is None:
            key = _root(event.lora)
        elif event.parent in held.keys:
            key = held.keys[event.parent]
        else:
            return  # its beginning was never told: no prompt can be matched with it
        for number, block in enumerate(event.hashes):
            start = number * event.block_size
            tokens = event.tokens[start : start + event.block_size]
            if len(tokens) < event.block_size:
                return
            key = hash((key, tokens))
            if block in held.keys:
                self._remove(held, block)
            held.keys[block] = key
            held.counts[key] = held.counts.get(key, 0) + 1
            held.expected.pop(key, None)

    @staticmethod
    def _remove(held: _Held, block: BlockHash) -> None:
        key = held.keys.pop(block, None)
        if key is not None:
            held.counts[key] -= 1
            if held.counts[key] == 0:
                del held.counts[key]


def block_keys(tokens: Sequence[int], block_size: int, lora: str | None) -> list[int]:
    """Our hashes of the full blocks of a prompt."""
    key = _root(lora)
    keys = []
    for end in range(block_size, len(tokens) + 1, block_size):
        key = hash((key, tuple(tokens[end - block_size : end])))
        keys.append(key)
    return keys


def _root(lora: str | None) -> int:
    return hash(("root", lora))

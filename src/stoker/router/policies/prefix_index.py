"""Which engine was sent which beginnings of prompts: an approximation of their caches.

A prompt is cut into blocks of bytes, each hashed together with the hash before it, so that a
block's hash stands for the whole text up to its end. What is not the conversation but shapes
the prompt all the same (model or LoRA adapter, tools, system text) is in the first hash.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from stoker.router.engines.handle import EngineHandle
from stoker.router.request import BYTES_PER_TOKEN, Features

BLOCK_BYTES = 256
"""The first blocks' length. Later ones grow with what precedes them, to between a 32nd and a 16th
of it, so that a long prompt has hundreds of blocks and not thousands."""
MAX_BLOCKS = 1 << 17
"""What the index remembers; the least recently used goes first. About 20 MB."""


def _block_ends() -> Iterator[int]:
    """Where blocks end in a prompt, in bytes."""
    end = 0
    while end < _LONGEST:
        end += max(BLOCK_BYTES, 1 << (end.bit_length() - 5 if end else 0))
        yield end


_LONGEST = 1 << 32
_ENDS = tuple(_block_ends())


def block_hashes(features: Features) -> list[int]:
    """The chained hashes of a prompt's full blocks; kept in `features` for the next caller."""
    hashes = features.block_hashes
    if hashes is None:
        prompt = features.prompt
        parent = hash((features.model, features.preamble))
        hashes, begin, length = [], 0, len(prompt)
        for end in _ENDS:
            if end > length:
                break
            parent = hash((parent, prompt[begin:end]))
            hashes.append(parent)
            begin = end
        features.block_hashes = hashes
    return hashes


def tokens_in(blocks: int) -> int:
    """Roughly how many tokens a prompt's first so many blocks are."""
    return _ENDS[blocks - 1] // BYTES_PER_TOKEN if blocks else 0


class PrefixIndex:
    """Block hashes and the engines that were sent them, least recently used first."""

    def __init__(self, max_blocks: int = MAX_BLOCKS) -> None:
        self._max_blocks = max_blocks
        self._blocks: dict[int, int] = {}
        """Hash → the engines' bits. Python's dicts keep the order of insertion."""
        self._bits: dict[EngineHandle, int] = {}
        self._next_bit = 1

    def __len__(self) -> int:
        return len(self._blocks)

    def match(self, features: Features, engines: Sequence[EngineHandle]) -> list[int]:
        """For each of `engines`, how many of the prompt's first blocks it has seen."""
        depths = [0] * len(engines)
        bits, left = [], 0
        for engine in engines:
            bit = self._bits.get(engine, 0)
            bits.append(bit)
            left |= bit
        if not left:
            return depths
        blocks, depth = self._blocks, 0
        for block in block_hashes(features):
            still = left & blocks.get(block, 0)
            if still != left:
                lost = left ^ still
                for number, bit in enumerate(bits):
                    if lost & bit:
                        depths[number] = depth
                if not still:
                    return depths
                left = still
            depth += 1
        for number, bit in enumerate(bits):
            if left & bit:
                depths[number] = depth
        return depths

    def add(self, features: Features, engine: EngineHandle) -> None:
        """The engine was sent this prompt."""
        bit = self._bits.get(engine)
        if bit is None:
            bit = self._bits[engine] = self._next_bit
            self._next_bit <<= 1
        blocks = self._blocks
        # The last block first: when the oldest are dropped, a prefix outlives what follows it.
        for block in reversed(block_hashes(features)):
            blocks[block] = blocks.pop(block, 0) | bit
        if len(blocks) > self._max_blocks:
            for block in list(islice(blocks, len(blocks) - self._max_blocks)):
                del blocks[block]

    def forget(self, engine: EngineHandle) -> None:
        """The engine's cache is gone. Its bit is not used again until all are handed out anew."""
        if self._bits.pop(engine, None) is not None and self._next_bit.bit_length() > 1024:
            self._blocks.clear()
            self._bits.clear()
            self._next_bit = 1

"""Every block of the key-value cache: who uses it, what it holds, and which is reused next.

A block is *in use* (reference count above 0) or *free*. A full block whose keys and values are
computed may carry a content hash; it is then *cached*, in use or free, and a prompt with the same
prefix takes a reference on it instead of computing it again.

Free blocks stand in one queue from which blocks are taken at the head. Blocks without a hash
enter at the head, cached ones at the tail, the last block of a sequence first: what is lost first
is what nobody can find, then the least recently freed prefix, from its end.

PagedAttention: Kwon et al., "Efficient Memory Management for Large Language Model Serving with
PagedAttention", SOSP 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from stoker.engine.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, KVEvent

_HASH_BYTES = 32


def hash_block(
    parent: bytes | None, token_ids: NDArray[np.int32], extra_keys: bytes = b""
) -> bytes:
    """The content hash of a full block: of all tokens up to its end, through its parent's hash.

    `extra_keys` (a cache salt) enters the first block only, and through it all that follow.
    """
    if parent is None:
        start = blake2b(extra_keys, digest_size=_HASH_BYTES).digest()
        return blake2b(start + token_ids.tobytes(), digest_size=_HASH_BYTES).digest()
    return blake2b(parent + token_ids.tobytes(), digest_size=_HASH_BYTES).digest()


class OutOfBlocksError(Exception):
    """Fewer blocks are free than were asked for; nothing was changed."""


class BlockPool:
    """Reference counts, content hashes and the free queue of `num_blocks` blocks.

    All operations take constant time per block.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        listener: Callable[[KVEvent], None] | None = None,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.listener = listener
        self.num_free = num_blocks
        """Blocks that can be allocated, cached ones included."""
        self.num_releases = 0
        """Grows whenever a block becomes free."""
        self._ref_counts = [0] * num_blocks
        self._hashes: list[bytes | None] = [None] * num_blocks
        self._block_of_hash: dict[bytes, int] = {}
        # The free queue: a doubly linked ring over block numbers, closed by a sentinel.
        self._end = num_blocks
        self._next = [*range(1, num_blocks + 1), 0]
        self._previous = [num_blocks, *range(num_blocks)]

    @property
    def num_used(self) -> int:
        """Blocks referenced by a sequence."""
        return self.num_blocks - self.num_free

    @property
    def num_cached(self) -> int:
        """Blocks that carry a hash, in use or free."""
        return len(self._block_of_hash)

    def ref_count(self, block: int) -> int:
        """How many sequences use the block."""
        return self._ref_counts[block]

    def hash_of(self, block: int) -> bytes | None:
        """The block's content hash, if it is cached."""
        return self._hashes[block]

    def lookup(self, block_hash: bytes) -> int | None:
        """The block that holds this content, if any."""
        return self._block_of_hash.get(block_hash)

    def longest_prefix(self, block_hashes: Iterable[bytes]) -> list[int]:
        """The cached blocks of the longest prefix of a chain of hashes."""
        blocks = []
        for block_hash in block_hashes:
            block = self._block_of_hash.get(block_hash)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def num_unused(self, blocks: Iterable[int]) -> int:
        """How many of the blocks are free: taking references on them uses up free blocks."""
        return sum(self._ref_counts[block] == 0 for block in blocks)

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks for one user each, from the head of the free queue.

        Raises:
            OutOfBlocksError: fewer are free; nothing was changed.
        """
        if count > self.num_free:
            raise OutOfBlocksError(f"{count} blocks wanted, {self.num_free} free")
        blocks = []
        evicted = []
        for _ in range(count):
            block = self._next[self._end]
            self._unlink(block)
            self._ref_counts[block] = 1
            block_hash = self._hashes[block]
            if block_hash is not None:
                self._hashes[block] = None
                del self._block_of_hash[block_hash]
                evicted.append(block_hash)
            blocks.append(block)
        if evicted and self.listener is not None:
            self.listener(BlockRemoved(tuple(evicted)))
        return blocks

    def acquire(self, blocks: Iterable[int]) -> None:
        """Add a user to each block; free ones leave the free queue."""
        ref_counts = self._ref_counts
        for block in blocks:
            if ref_counts[block] == 0:
                self._unlink(block)
            ref_counts[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Take a user away from each block of a sequence, its last block first."""
        ref_counts = self._ref_counts
        for block in reversed(blocks):
            ref_counts[block] -= 1
            if ref_counts[block] == 0:
                self._link(block)
            elif ref_counts[block] < 0:
                raise RuntimeError(f"block {block} was released more often than acquired")

    def register(
        self,
        block: int,
        block_hash: bytes,
        parent: bytes | None,
        token_ids: NDArray[np.int32],
        extra_keys: bytes = b"",
    ) -> int:
        """Enter a full, computed block into the prefix cache, as `hash_block` hashed it.

        Returns the block that now stands for this content: another one where it was already
        cached. The caller should use that one and release its own.
        """
        known = self._block_of_hash.get(block_hash)
        if known is not None:
            return known
        self._hashes[block] = block_hash
        self._block_of_hash[block_hash] = block
        if self.listener is not None:
            salt = extra_keys if parent is None else b""
            tokens = tuple(token_ids.tolist())
            self.listener(BlockStored((block_hash,), parent, tokens, self.block_size, salt))
        return block

    def forget_prefixes(self) -> bool:
        """Drop all hashes; False (and nothing done) while a block is in use."""
        if self.num_used:
            return False
        self._block_of_hash.clear()
        self._hashes = [None] * self.num_blocks
        if self.listener is not None:
            self.listener(AllBlocksCleared())
        return True

    def check(self, block_tables: Iterable[Sequence[int]]) -> None:
        """Verify every invariant against the block tables of all sequences.

        Raises:
            RuntimeError: naming the first one that does not hold.
        """
        users = [0] * self.num_blocks
        for table in block_tables:
            for block in table:
                users[block] += 1
        for block, (count, expected) in enumerate(zip(self._ref_counts, users, strict=True)):
            if count != expected:
                raise RuntimeError(f"block {block}: {count} references, {expected} users")
        free: list[int] = []
        block = self._next[self._end]
        while block != self._end:
            if self._previous[self._next[block]] != block or len(free) > self.num_blocks:
                raise RuntimeError(f"the free queue is broken at block {block}")
            free.append(block)
            block = self._next[block]
        if sorted(free) != [block for block, count in enumerate(users) if count == 0]:
            raise RuntimeError("the free queue does not hold exactly the unused blocks")
        if len(free) != self.num_free:
            raise RuntimeError(f"{self.num_free} blocks counted free, {len(free)} are")
        cached = [self._hashes[block] is not None for block in free]
        if cached != sorted(cached):
            raise RuntimeError("a cached block would be reused before one without a hash")
        hashed = {h: block for block, h in enumerate(self._hashes) if h is not None}
        if hashed != self._block_of_hash:
            raise RuntimeError("the hash index disagrees with the blocks")

    def _unlink(self, block: int) -> None:
        before, after = self._previous[block], self._next[block]
        self._next[before] = after
        self._previous[after] = before
        self.num_free -= 1

    def _link(self, block: int) -> None:
        end = self._end
        if self._hashes[block] is None:
            before, after = end, self._next[end]
        else:
            before, after = self._previous[end], end
        self._next[before] = self._previous[after] = block
        self._previous[block], self._next[block] = before, after
        self.num_free += 1
        self.num_releases += 1

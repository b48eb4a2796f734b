"""The block pool under random use, and its events."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stoker.engine.block_pool import BlockPool, OutOfBlocksError, hash_block
from stoker.engine.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, KVEvent

TOKENS = np.array([1, 2], np.int32)


def chain(length: int, salt: bytes = b"") -> list[bytes]:
    hashes: list[bytes] = []
    for i in range(length):
        parent = hashes[-1] if hashes else None
        hashes.append(hash_block(parent, np.array([i, i], np.int32), salt))
    return hashes


def test_a_second_block_with_known_content_gives_way_to_the_first() -> None:
    pool = BlockPool(4, 2)
    first, second = pool.allocate(2)
    assert pool.register(first, b"h", None, TOKENS) == first
    assert pool.register(second, b"h", None, TOKENS) == first
    assert pool.hash_of(second) is None
    assert pool.num_cached == 1


def test_the_longest_prefix_ends_at_the_first_block_that_is_missing() -> None:
    pool = BlockPool(4, 2)
    hashes = chain(4)
    blocks = pool.allocate(4)
    for i in (0, 1, 3):
        pool.register(blocks[i], hashes[i], hashes[i - 1] if i else None, TOKENS)
    assert pool.longest_prefix(hashes) == blocks[:2]
    assert pool.longest_prefix(chain(4, b"salt")) == []


def test_the_least_recently_freed_prefix_is_evicted_first_and_from_its_end() -> None:
    pool = BlockPool(4, 2)
    old, new = pool.allocate(2), pool.allocate(2)
    for i, block in enumerate(old + new):
        pool.register(block, bytes([i]), None, TOKENS)
    pool.release(old)
    pool.release(new)
    assert pool.allocate(4) == [old[1], old[0], new[1], new[0]]


def test_a_block_released_too_often_is_an_error() -> None:
    pool = BlockPool(2, 2)
    blocks = pool.allocate(1)
    pool.release(blocks)
    with pytest.raises(RuntimeError, match="released more often than acquired"):
        pool.release(blocks)


def test_prefixes_are_forgotten_only_while_nothing_is_in_use() -> None:
    events: list[KVEvent] = []
    pool = BlockPool(2, 2, events.append)
    blocks = pool.allocate(1)
    pool.register(blocks[0], b"h", None, TOKENS)
    assert not pool.forget_prefixes()
    assert pool.num_cached == 1
    pool.release(blocks)
    assert pool.forget_prefixes()
    assert pool.num_cached == 0
    assert events == [BlockStored((b"h",), None, (1, 2), 2), AllBlocksCleared()]
    pool.check([])


def test_events_tell_what_is_stored_and_removed() -> None:
    events: list[KVEvent] = []
    pool = BlockPool(2, 2, events.append)
    blocks = pool.allocate(2)
    pool.register(blocks[0], b"a", None, TOKENS)
    pool.register(blocks[1], b"b", b"a", TOKENS)
    pool.release(blocks)
    assert len(events) == 2
    pool.allocate(2)
    assert events[1:] == [BlockStored((b"b",), b"a", (1, 2), 2), BlockRemoved((b"b", b"a"))]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("_ref_counts", "references"),
        ("_next", "free queue"),
        ("_hashes", "hash index"),
        ("num_free", "counted free"),
    ],
)
def test_check_notices_damage(damage: str, message: str) -> None:
    pool = BlockPool(3, 2)
    blocks = pool.allocate(1)
    pool.check([blocks])
    match damage:
        case "_ref_counts":
            pool._ref_counts[blocks[0]] = 2
        case "_next":
            pool._next[1] = 1
        case "_hashes":
            pool._hashes[blocks[0]] = b"h"
        case _:
            pool.num_free = 3
    with pytest.raises(RuntimeError, match=message):
        pool.check([blocks])


class PoolMachine(RuleBasedStateMachine):
    """Tables come, share, fill and go; a plain model says what must be free and cached."""

    @initialize(num_blocks=st.integers(1, 10))
    def start(self, num_blocks: int) -> None:
        self.pool = BlockPool(num_blocks, 2)
        self.tables: list[list[int]] = []

    @rule(count=st.integers(0, 4))
    def allocate(self, count: int) -> None:
        used = {block for table in self.tables for block in table}
        if count > self.pool.num_blocks - len(used):
            with pytest.raises(OutOfBlocksError):
                self.pool.allocate(count)
            return
        blocks = self.pool.allocate(count)
        assert not used & set(blocks)
        assert all(self.pool.hash_of(block) is None for block in blocks)
        self.tables.append(blocks)

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), name=st.integers(0, 5))
    def fill(self, data: st.DataObject, name: int) -> None:
        table = data.draw(st.sampled_from(self.tables))
        for i, block in enumerate(table):
            if self.pool.hash_of(block) is None and self.pool.ref_count(block) == 1:
                known = self.pool.register(block, bytes([name, i]), None, TOKENS)
                assert known == self.pool.lookup(bytes([name, i]))

    @rule(name=st.integers(0, 5))
    def hit(self, name: int) -> None:
        blocks = self.pool.longest_prefix(bytes([name, i]) for i in range(4))
        if blocks:
            free, unused = self.pool.num_free, self.pool.num_unused(blocks)
            self.pool.acquire(blocks)
            assert self.pool.num_free == free - unused
            self.tables.append(blocks)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        table = self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1)))
        self.pool.release(table)

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "pool"):
            self.pool.check(self.tables)


PoolMachine.TestCase.settings = settings(max_examples=60, deadline=None)
TestPool = PoolMachine.TestCase

"""The index against what an engine's cache holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stoker.router.kv.events import Cleared, Removed, Stored
from stoker.router.kv.index import EXPECTED_S, KvIndex
from tests.router.policies.fleets import fleet

SIZE = 2


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Engine:
    """A prefix cache that publishes what happens to it; its hashes are its own affair."""

    def __init__(self, index: KvIndex) -> None:
        self.handle = fleet(0)[0]
        self.index = index
        self.cached: dict[tuple[int, ...], bytes] = {}
        self._count = 0

    def serve(self, tokens: tuple[int, ...]) -> None:
        """Cache the full blocks of a prompt that are not cached yet."""
        for end in range(SIZE, len(tokens) + 1, SIZE):
            if tokens[:end] not in self.cached:
                self._count += 1
                own = b"%d" % self._count
                parent = self.cached.get(tokens[: end - SIZE])
                self.cached[tokens[:end]] = own
                block = tokens[end - SIZE : end]
                self.index.apply(self.handle, Stored((own,), parent, block, SIZE, None))

    def evict(self, prefix: tuple[int, ...]) -> None:
        """Drop a block, and those that follow from it."""
        for other in [one for one in self.cached if one[: len(prefix)] == prefix]:
            self.index.apply(self.handle, Removed((self.cached.pop(other),)))

    def known(self, tokens: tuple[int, ...]) -> int:
        found = 0
        while (end := found + SIZE) <= len(tokens) and tokens[:end] in self.cached:
            found = end
        return found


prompts = st.lists(st.integers(0, 2), max_size=12).map(tuple)


@given(
    st.lists(st.tuples(st.sampled_from(["serve", "evict", "clear"]), prompts), max_size=40), prompts
)
def test_it_says_what_the_engine_holds(
    steps: list[tuple[str, tuple[int, ...]]], asked: tuple[int, ...]
) -> None:
    index = KvIndex(Clock())
    engine = Engine(index)
    for action, tokens in steps:
        if action == "serve":
            engine.serve(tokens)
        elif action == "evict" and tokens in engine.cached:
            engine.evict(tokens)
        elif action == "clear":
            engine.cached.clear()
            index.apply(engine.handle, Cleared())
        assert index.match(asked, None, [engine.handle]) == [engine.known(asked)]
        assert index.blocks(engine.handle) == len(engine.cached)


def test_what_was_just_sent_counts_for_a_moment() -> None:
    clock = Clock()
    index = KvIndex(clock)
    engine = Engine(index)
    engine.serve((9, 9))
    tokens = (1, 2, 3, 4, 5)
    index.expect(tokens, None, engine.handle)
    assert index.match(tokens, None, [engine.handle]) == [4]
    clock.now += EXPECTED_S
    assert index.match(tokens, None, [engine.handle]) == [0]
    engine.serve(tokens)
    assert index.match(tokens, None, [engine.handle]) == [4]
    for number in range(1000):  # and takes no memory afterwards
        clock.now += EXPECTED_S
        index.expect((number, number), None, engine.handle)
    assert len(index._engines[engine.handle].expected) <= 2


def test_adapters_are_told_apart() -> None:
    index, (engine,) = KvIndex(Clock()), fleet(0)
    index.apply(engine, Stored((b"x",), None, (1, 2), SIZE, "adapter"))
    assert index.match([1, 2], "adapter", [engine]) == [2]
    assert index.match([1, 2], None, [engine]) == [0]


def test_a_block_whose_beginning_was_missed_matches_nothing() -> None:
    index, (engine,) = KvIndex(Clock()), fleet(0)
    index.apply(engine, Stored((b"y",), b"missed", (3, 4), SIZE, None))
    assert index.match([3, 4], None, [engine]) == [0]
    assert index.blocks(engine) == 0


def test_the_same_text_twice_is_there_until_both_are_gone() -> None:
    index, (engine,) = KvIndex(Clock()), fleet(0)
    for own in (b"x", b"y"):
        index.apply(engine, Stored((own,), None, (1, 2), SIZE, None))
    index.apply(engine, Removed((b"x",)))
    assert index.match([1, 2], None, [engine]) == [2]
    index.apply(engine, Removed((b"y", b"y", b"never")))
    assert index.match([1, 2], None, [engine]) == [0]


def test_engines_with_blocks_of_different_sizes() -> None:
    index, (small, large, silent) = KvIndex(Clock()), fleet(0, 0, 0)
    index.apply(small, Stored((1, 2), None, (1, 2, 3, 4), 2, None))
    index.apply(large, Stored((1,), None, (1, 2, 3, 4), 4, None))
    assert index.match([1, 2, 3, 9, 9], None, [small, large, silent]) == [2, 0, 0]
    assert index.match([1, 2, 3, 4, 9], None, [small, large, silent]) == [4, 4, 0]
    assert [index.follows(engine) for engine in (small, large, silent)] == [True, True, False]

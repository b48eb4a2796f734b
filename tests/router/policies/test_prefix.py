"""What the router remembers of prompts, and the choices made of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stoker.router.engines.load import EngineLoad
from stoker.router.policies.base import Decision
from stoker.router.policies.cache_model import CacheModel
from stoker.router.policies.cost import Cost
from stoker.router.policies.prefix import Prefix
from stoker.router.policies.prompt_blocks import BLOCK_BYTES, TOKENS_IN, block_hashes

from .fleets import chat, engine, fleet

SYSTEM = "You are helpful. " * 60


def test_hashes_chain_so_that_each_stands_for_all_before_it() -> None:
    one = block_hashes(chat("a" * 2000))
    two = block_hashes(chat("a" * 1000 + "b" + "a" * 999))
    same = [x == y for x, y in zip(one, two, strict=True)]
    changed = same.index(False)
    assert 1000 // BLOCK_BYTES <= changed <= 1000 // BLOCK_BYTES + 1
    assert not any(same[changed:])


def test_model_tools_and_system_text_are_part_of_the_key() -> None:
    plain = block_hashes(chat("a" * 600))
    assert plain
    tool = {"type": "function", "function": {"name": "f"}}
    for other in (
        chat("a" * 600, model="lora"),
        chat("a" * 600, tools=[tool]),
        chat("a" * 600, system="s"),
        chat("a" * 600, instructions="i"),
    ):
        assert not set(block_hashes(other)) & set(plain)


@given(st.lists(st.text("ab", max_size=900), min_size=1, max_size=6), st.integers(1, 12))
def test_a_match_is_the_longest_common_run_of_blocks(prompts: list[str], limit: int) -> None:
    caches, (first, second) = CacheModel(), fleet(0, 0)
    sent: list[list[int]] = []
    for prompt in prompts:
        features = chat(prompt)
        expected = 0
        for other in sent:
            run = 0
            for ours, theirs in zip(block_hashes(features), other, strict=False):
                if ours != theirs:
                    break
                run += 1
            expected = max(expected, run)
        assert caches.match(features, [first, second]) == [TOKENS_IN[expected], 0]
        caches.add(features, first)
        sent.append(block_hashes(features))


@given(st.lists(st.text("ab", max_size=3000), max_size=20), st.integers(1, 20))
def test_memory_is_bounded(prompts: list[str], limit: int) -> None:
    caches, (one,) = CacheModel(max_blocks=limit), fleet(0)
    for prompt in prompts:
        caches.add(chat(prompt), one)
        assert len(caches) <= limit


def test_a_prefix_outlives_what_follows_it() -> None:
    caches, (one,) = CacheModel(max_blocks=10), fleet(0)
    long = chat("a" * BLOCK_BYTES * 8)
    caches.add(long, one)
    caches.add(chat("b" * BLOCK_BYTES * 4), one)
    assert 0 < caches.match(long, [one])[0] < TOKENS_IN[len(block_hashes(long))]


def test_a_forgotten_engine_knows_nothing_and_learns_anew() -> None:
    caches, engines = CacheModel(), fleet(0, 0)
    features = chat("a" * 1000)
    for one in engines:
        caches.add(features, one)
    caches.forget(engines[0])
    tokens = TOKENS_IN[len(block_hashes(features))]
    assert caches.match(features, engines) == [0, tokens]
    caches.add(features, engines[0])
    assert caches.match(features, engines) == [tokens, tokens]
    assert len(caches) == 2 * len(block_hashes(features))


def test_the_next_turn_of_a_conversation_returns_to_its_engine() -> None:
    policy, engines = Prefix(), fleet(0, 0, 0, 0)
    turns = [SYSTEM + "one"]
    home = policy.choose(chat(*turns), engines).engine
    policy.placed(chat(*turns), home)
    for number in range(5):
        turns.append(f"answer and question {number}")
        decision = policy.choose(chat(*turns), engines)
        assert decision.engine is home
        policy.placed(chat(*turns), home)
    assert decision.reason == "prefix: 256 of 332 prompt tokens known"


def test_a_crowded_engine_is_passed_over() -> None:
    policy, engines = Prefix(), fleet(0, 0)
    features = chat(SYSTEM)
    policy.placed(features, engines[0])
    for _ in range(8):
        assert policy.choose(features, engines).engine is engines[0]
        engines[0].take(10, 10, now=0.0)
    decision = policy.choose(features, engines)
    assert decision.engine is engines[1]
    assert decision.reason == (
        "prefix: 1 that know it have too much; least_work: 0.00 s of work before it"
    )


def test_a_miss_goes_by_load() -> None:
    policy, engines = Prefix(), fleet(3, 1, 2)
    decision = policy.choose(chat(SYSTEM), engines)
    assert decision == Decision(
        engines[1], "prefix: none knows it; least_work: 1.88 s of work before it"
    )


def test_cost_weighs_what_is_known_against_the_queue() -> None:
    policy = Cost()
    knows = engine("knows", speed={"decode": 100, "prefill": 1000})
    free = engine("free", speed={"decode": 100, "prefill": 1000})
    features = chat("a" * 40_000, max_tokens=1)
    policy.placed(features, knows)
    knows.take(100, 9500, now=0.0)  # 95.1 s of work; reading the prompt anew takes 10 s
    decision = policy.choose(features, [knows, free])
    assert decision == Decision(knows, "cost: 9728 of 10009 prompt tokens known", 9728)
    knows.take(100, 500, now=0.0)  # 100.2 s
    assert policy.choose(features, [knows, free]).engine is free


def test_cost_passes_over_an_engine_that_is_crowded_or_declared_much_slower() -> None:
    knows, free = engine("knows"), engine("free")
    policy, features = Cost(), chat("a" * 4000, max_tokens=1000)
    policy.placed(features, knows)
    for _ in range(8):
        assert policy.choose(features, [knows, free]).engine is knows
        knows.take(100, 100, now=0.0)
    assert policy.choose(features, [knows, free]).engine is free
    slow, fast = engine("slow", speed={"decode": 49}), engine("fast", speed={"decode": 100})
    policy.placed(features, slow)
    assert policy.choose(features, [slow, fast]).engine is fast
    alike = engine("alike", speed={"decode": 51})
    policy.placed(features, alike)
    assert policy.choose(features, [alike, fast]).engine is alike


def test_a_little_known_is_weighed_and_not_followed() -> None:
    policy, engines = Cost(), [engine("knows", in_flight=7), engine("free")]
    beginning = chat("a" * 1024)
    policy.placed(beginning, engines[0])
    longer = chat("a" * 1024, "b" * 4000, max_tokens=1)
    assert policy.choose(longer, engines).engine is engines[1]


def test_an_engines_cache_is_taken_for_no_larger_than_it_says() -> None:
    caches, (one,) = CacheModel(), fleet(0)
    one.load = EngineLoad(0.0, 0, 0, None, num_blocks=64, block_size=16)  # 1024 tokens
    first, second, third = (chat(letter * 2048) for letter in "abc")  # 512 tokens each
    for features in (first, second):
        caches.add(features, one)
    assert caches.match(first, [one]) == caches.match(second, [one]) == [512]
    caches.add(first, one)  # used again, so it goes last
    caches.add(third, one)
    assert caches.match(first, [one]) == [512]
    assert caches.match(second, [one]) == [0]
    caches.forget(one)
    assert caches.match(first, [one]) == [0]


@given(st.lists(st.tuples(st.text("ab", max_size=3000), st.integers(1, 40)), max_size=20))
def test_a_modelled_cache_is_counted_right(sent: list[tuple[str, int]]) -> None:
    caches, (one,) = CacheModel(), fleet(0)
    for prompt, blocks in sent:
        one.load = EngineLoad(0.0, 0, 0, None, num_blocks=blocks, block_size=16)
        features = chat(prompt)
        caches.add(features, one)
        [held] = caches.match(features, [one])
        count = len(block_hashes(features))
        fitting = (TOKENS_IN[depth] for depth in range(count, -1, -1))
        assert held == next(tokens for tokens in fitting if tokens <= blocks * 16)


def test_cost_without_reuse_is_least_work() -> None:
    engines = [engine("busy", in_flight=3), engine("idle", in_flight=1)]
    decision = Cost().choose(chat("x" * 400, max_tokens=64), engines)
    assert decision.engine.name == "idle"

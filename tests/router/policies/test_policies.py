"""What every policy owes, and what each one chooses."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.router.config import PolicyName
from stoker.router.engines.handle import EngineHandle
from stoker.router.engines.load import EngineLoad
from stoker.router.policies import POLICIES, Policy
from stoker.router.policies.base import Decision
from stoker.router.policies.least_in_flight import LeastInFlight
from stoker.router.policies.least_work import LeastWork
from stoker.router.policies.power_of_two import PowerOfTwo
from stoker.router.policies.round_robin import RoundRobin
from stoker.router.request import Features

from .fleets import chat, engine, fleet, fleets

TEXTS = st.sampled_from(["hi", "a" * 600, "a" * 1200, "b" * 600])


def names(policy: Policy, features: Features, engines: list[EngineHandle], count: int) -> list[str]:
    """The choices for `count` requests, each placed and never finished."""
    chosen = []
    for _ in range(count):
        decision = policy.choose(features, engines)
        policy.placed(features, decision.engine)
        decision.engine.take(features.prompt_tokens, features.output_tokens, now=0.0)
        chosen.append(decision.engine.name)
    return chosen


@pytest.mark.parametrize("name", POLICIES)
@given(engines=fleets(), texts=st.lists(TEXTS, min_size=1, max_size=8))
def test_a_choice_is_among_the_engines_pure_and_explained(
    name: PolicyName, engines: list[EngineHandle], texts: list[str]
) -> None:
    policy = POLICIES[name]()
    for text in texts:
        features = chat(text, user=text[:1])
        decision = policy.choose(features, engines)
        assert decision.engine in engines
        assert decision.reason.startswith(f"{name}: ")
        assert policy.choose(features, engines) == decision
        policy.placed(features, decision.engine)


@pytest.mark.parametrize("name", POLICIES)
def test_a_quiet_fleet_of_equals_is_used_evenly(name: PolicyName) -> None:
    policy = POLICIES[name]()
    chosen: Counter[str] = Counter()
    engines = fleet(0, 0, 0, 0)
    for number in range(400):
        features = chat(f"question {number}", headers={"x-session-id": str(number)})
        decision = policy.choose(features, engines)
        policy.placed(features, decision.engine)
        chosen[decision.engine.name] += 1
    assert len(chosen) == 4
    assert max(chosen.values()) <= 140


@pytest.mark.parametrize("name", POLICIES)
def test_it_survives_that_an_engine_is_forgotten(name: PolicyName) -> None:
    policy = POLICIES[name]()
    engines = fleet(0, 0)
    names(policy, chat("a" * 600), engines, 3)
    policy.forget(engines[0])
    assert policy.choose(chat("a" * 600), engines).engine in engines


def test_round_robin_keeps_its_turns_when_an_engine_drops_out() -> None:
    policy, engines = RoundRobin(), fleet(0, 0, 0)
    assert names(policy, chat("x"), engines, 4) == ["e0", "e1", "e2", "e0"]
    assert names(policy, chat("x"), [engines[0], engines[2]], 3) == ["e2", "e0", "e2"]
    assert names(policy, chat("x"), engines, 2) == ["e0", "e1"]


def test_round_robin_has_a_turn_for_each_model() -> None:
    policy, engines = RoundRobin(), fleet(0, 0)
    chosen = [names(policy, chat("x", model=model), engines, 1)[0] for model in "abababab"]
    assert chosen == ["e0", "e0", "e1", "e1"] * 2


def test_least_in_flight_goes_by_share_of_capacity() -> None:
    small = engine("small", in_flight=3, max_in_flight=4)
    large = engine("large", in_flight=100, max_in_flight=256)
    assert LeastInFlight().choose(chat("x"), [small, large]).engine is large


@given(engines=fleets())
def test_least_in_flight_is_least(engines: list[EngineHandle]) -> None:
    chosen = LeastInFlight().choose(chat("x"), engines).engine
    assert chosen.in_flight / chosen.capacity == min(e.in_flight / e.capacity for e in engines)


def test_least_work_counts_tokens_not_requests() -> None:
    few_long, many_short = engine("few-long"), engine("many-short")
    few_long.take(30, 4000, now=0.0)
    for _ in range(5):
        many_short.take(30, 50, now=0.0)
    assert LeastWork().choose(chat("x"), [few_long, many_short]).engine is many_short


def test_least_work_knows_that_a_faster_engine_is_sooner_done() -> None:
    fast = engine("fast", in_flight=4, speed={"decode": 1000})
    slow = engine("slow", in_flight=1, speed={"decode": 50})
    decision = LeastWork().choose(chat("x"), [fast, slow])
    # 4 × (100 / 5000 + 100 / 1000) against 100 / 250 + 100 / 50
    assert decision == Decision(fast, "least_work: 0.48 s of work before it")


def test_least_work_shuns_a_full_cache() -> None:
    engines = fleet(1, 1)
    engines[0].load = EngineLoad(at=0, running=1, waiting=0, kv_usage=0.95)
    assert LeastWork().choose(chat("x"), engines).engine is engines[1]
    assert LeastWork().choose(chat("x"), engines[::-1]).engine is engines[1]


def test_power_of_two_never_takes_the_busiest_of_two_and_sees_all() -> None:
    policy = PowerOfTwo()
    engines = fleet(50, 0, 0, 0)
    chosen = []
    for _ in range(200):
        decision = policy.choose(chat("x"), engines)
        policy.placed(chat("x"), decision.engine)
        chosen.append(decision.engine.name)
    counts = Counter(chosen)
    assert counts["e0"] == 0
    assert min(counts[name] for name in ("e1", "e2", "e3")) > 30

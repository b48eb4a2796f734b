"""Sessions stay where they are, within what an engine can bear."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.router.engines.handle import EngineHandle
from stoker.router.policies.base import Decision
from stoker.router.policies.ring import HashRing, stable_hash
from stoker.router.policies.session import Session, load_limit

from .fleets import chat, engine, fleet, fleets

KEYS = [f"session-{number}" for number in range(300)]


def test_a_session_stays_on_its_engine_whatever_the_others_do() -> None:
    policy, engines = Session(), fleet(0, 0, 0, 0)
    features = chat("x", headers={"x-session-id": "s"})
    home = policy.choose(features, engines).engine
    for other in engines:
        if other is not home:
            other.take(10, 10, now=0.0)
    for _ in range(5):
        assert policy.choose(features, engines) == Decision(home, "session: its engine")


def test_the_user_field_is_a_session_too() -> None:
    policy, engines = Session(), fleet(0, 0, 0, 0)
    assert {policy.choose(chat("x", user="u"), engines).reason for _ in range(3)} == {
        "session: its engine"
    }
    assert policy.choose(chat("x"), engines).reason.startswith("session: no session named")


@given(engines=fleets(), key=st.sampled_from(KEYS))
def test_no_engine_gets_more_than_its_bound(engines: list[EngineHandle], key: str) -> None:
    chosen = Session().choose(chat("x", user=key), engines).engine
    assert chosen.in_flight + 1 <= load_limit(chosen, engines)


def test_a_hot_key_spills_over_to_the_same_next_engine() -> None:
    policy, engines = Session(), fleet(0, 0, 0, 0)
    features = chat("x", user="hot")
    chosen = []
    for _ in range(20):
        decision = policy.choose(features, engines)
        decision.engine.take(10, 10, now=0.0)
        chosen.append(decision.engine.name)
    # 64 in capacity: eight at ease each, so eight at home, eight next door, then the third.
    walk = list(policy._ring.walk("hot"))
    assert chosen == [walk[0]] * 8 + [walk[1]] * 8 + [walk[2]] * 4


def homes(count: int) -> dict[str, str]:
    """Where each session lives in a quiet fleet of so many engines."""
    policy, engines = Session(), fleet(*[0] * count)
    return {key: policy.choose(chat("x", user=key), engines).engine.name for key in KEYS}


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_new_engine_takes_keys_and_moves_no_others(count: int) -> None:
    before, after = homes(count), homes(count + 1)
    moved = [key for key in KEYS if before[key] != after[key]]
    assert {after[key] for key in moved} == {f"e{count}"}
    share = len(KEYS) / (count + 1)
    assert share / 2 < len(moved) < share * 2


def test_an_engine_away_for_a_moment_gets_its_sessions_back() -> None:
    policy, engines = Session(), fleet(0, 0, 0)
    before = {key: policy.choose(chat("x", user=key), engines).engine.name for key in KEYS}
    without = [e for e in engines if e.name != "e1"]
    meanwhile = {key: policy.choose(chat("x", user=key), without).engine.name for key in KEYS}
    assert all(meanwhile[key] == home for key, home in before.items() if home != "e1")
    assert {key: policy.choose(chat("x", user=key), engines).engine.name for key in KEYS} == before


def test_hashes_are_the_same_in_every_process() -> None:
    assert stable_hash("session-1") == 12558777036138866604


def test_a_ring_walk_meets_every_name_once() -> None:
    ring = HashRing()
    for name in ("a", "b", "c"):
        ring.add(name)
    ring.add("a")
    assert sorted(ring.walk("key")) == ["a", "b", "c"]
    ring.remove("b")
    assert sorted(ring.walk("key")) == ["a", "c"]


def test_a_larger_engine_may_have_more() -> None:
    small, large = engine("small", max_in_flight=8), engine("large", max_in_flight=256)
    assert (load_limit(small, [small, large]), load_limit(large, [small, large])) == (1, 32)

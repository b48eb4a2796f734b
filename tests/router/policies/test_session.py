"""Sessions stay where they are, within what an engine can bear."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.router.engines.handle import Elsewhere, EngineHandle
from stoker.router.policies.base import Decision
from stoker.router.policies.moves import LIFETIME_S, MAX_MOVES, Moves
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


@given(data=st.data(), key=st.sampled_from(KEYS))
def test_two_routers_that_know_each_others_load_choose_alike(data: st.DataObject, key: str) -> None:
    count = data.draw(st.integers(1, 8))
    loads = st.lists(st.integers(0, 20), min_size=count, max_size=count)
    mine, theirs = data.draw(loads), data.draw(loads)
    chosen = []
    for own, others in ((mine, theirs), (theirs, mine)):
        engines = fleet(*own)
        for handle, in_flight in zip(engines, others, strict=True):
            handle.hear(Elsewhere(2, in_flight))
        data.draw(st.randoms()).shuffle(engines)  # whatever the order in their files
        decision = Session().choose(chat("x", user=key), engines)
        chosen.append((decision.engine.name, decision.reason))
    assert chosen[0] == chosen[1]


@given(data=st.data(), key=st.sampled_from(KEYS))
def test_two_routers_that_know_nothing_choose_alike_in_quiet_times(
    data: st.DataObject, key: str
) -> None:
    count = data.draw(st.integers(1, 8))
    ease = st.lists(st.integers(0, 7), min_size=count, max_size=count)  # 64 // 8 is too much
    one, two = fleet(*data.draw(ease)), fleet(*data.draw(ease))
    features = chat("x", user=key)
    assert Session().choose(features, one).engine.name == (
        Session().choose(features, two[::-1]).engine.name
    )


def test_a_session_that_moved_stays_until_it_is_too_much_there() -> None:
    clock = 0.0
    policy, engines = Session(), fleet(0, 0, 0)
    moves = policy.moves = Moves(lambda: clock)
    features = chat("x", user="u")

    def place() -> Decision:
        decision = policy.choose(features, engines)
        assert policy.choose(features, engines) == decision
        policy.placed(features, decision.engine)
        return decision

    home = place().engine
    assert (len(moves), moves.take_untold(9)) == (0, [])
    leases = [home.take(10, 10, now=0.0) for _ in range(8)]
    moved = place().engine
    assert moved is not home
    [(session, name)] = moves.take_untold(9)
    assert name == moved.name
    for lease in leases:
        lease.give_back(0.0)
    assert place() == Decision(moved, "session: where it was last")
    assert moves.take_untold(9) == []  # all know that
    clock = LIFETIME_S / 2
    place()
    assert moves.take_untold(9) == [(session, moved.name)]  # lest they forget
    for _ in range(8):
        moved.take(10, 10, now=0.0)
    assert place() == Decision(home, "session: its engine")
    assert moves.take_untold(9) == [(session, "")]
    assert len(moves) == 0
    # Another router placed it there an hour ago, and another a minute ago.
    moves.heard(session, moved.name, 3600.0)
    assert moves.engine_of(session) is None
    moves.heard(session, moved.name, 60.0)
    assert moves.engine_of(session) == moved.name
    clock += LIFETIME_S - 59
    assert moves.engine_of(session) is None


def test_what_is_remembered_of_moves_has_an_end() -> None:
    moves = Moves(lambda: 0.0)
    for session in range(MAX_MOVES + 10):
        moves.placed(session, "e1", home=False)
    assert len(moves) == MAX_MOVES
    assert moves.engine_of(9) is None
    untold = moves.take_untold(3)
    assert len(untold) == 3
    moves.not_told(untold)
    assert moves.take_untold(3) == untold


def test_an_engine_that_leaves_is_on_the_ring_no_more() -> None:
    policy, engines = Session(), fleet(0, 0, 0)
    for key in KEYS:
        policy.choose(chat("x", user=key), engines)
    policy.forget(engines[1])
    assert sorted(policy._ring.walk("key")) == ["e0", "e2"]


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

"""What an engine has room for, with other routers before it."""

from __future__ import annotations

from stoker.router.engines.handle import Elsewhere

from ..policies.fleets import engine


def test_room_for_what_all_routers_have_together() -> None:
    handle = engine("e", max_in_flight=8)
    leases = [handle.take(1, 1, now=0.0) for _ in range(4)]
    assert handle.has_place
    assert handle.busy == 0.5
    handle.hear(Elsewhere(2, in_flight=3))
    assert handle.has_place
    assert (handle.in_flight, handle.in_flight_everywhere) == (4, 7)
    handle.hear(Elsewhere(2, in_flight=4))
    assert not handle.has_place
    assert handle.busy == 1.0
    leases.pop().give_back(0.0)
    assert handle.has_place


def test_a_router_is_never_kept_out_of_its_share() -> None:
    handle = engine("e", max_in_flight=8)
    handle.hear(Elsewhere(3, in_flight=8))
    handle.take(1, 1, now=0.0)
    assert handle.has_place
    handle.take(1, 1, now=0.0)
    assert not handle.has_place
    small = engine("s", max_in_flight=1)
    small.hear(Elsewhere(3, in_flight=1))
    assert small.has_place

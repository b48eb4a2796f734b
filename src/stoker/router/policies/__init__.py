"""Policies: which engine a request goes to, and why. `base` says what one is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stoker.router.config import PolicyName
from stoker.router.policies.auto import Auto
from stoker.router.policies.base import Decision, Policy
from stoker.router.policies.cost import Cost
from stoker.router.policies.kv import Kv
from stoker.router.policies.least_in_flight import LeastInFlight
from stoker.router.policies.least_work import LeastWork
from stoker.router.policies.power_of_two import PowerOfTwo
from stoker.router.policies.prefix import Prefix
from stoker.router.policies.round_robin import RoundRobin
from stoker.router.policies.session import Session

POLICIES: Mapping[PolicyName, Callable[[], Policy]] = {
    "auto": Auto,
    "round_robin": RoundRobin,
    "least_in_flight": LeastInFlight,
    "least_work": LeastWork,
    "power_of_two": PowerOfTwo,
    "session": Session,
    "prefix": Prefix,
    "cost": Cost,
    "kv": Kv,
}

__all__ = ["POLICIES", "Decision", "Policy"]

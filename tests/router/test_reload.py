"""Another configuration while requests are under way."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from stoker.router.config import Config, parse_config

from .fakes import FakeEngine, Fleet, after, until


def config(fleet: Fleet, *engines: FakeEngine, **settings: Any) -> Config:
    base = {
        "router": {"port": 0, "drain": 1, "policy": "round_robin"},
        "health": {"interval": 0.25, "timeout": 0.5},
        "engines": [
            {"name": engine.name, "kind": engine.kind, "url": engine.url} for engine in engines
        ],
    }
    return parse_config(json.dumps(base | settings), environment={})


async def test_engines_come_and_go_and_no_request_is_dropped() -> None:
    old, new = FakeEngine("old"), FakeEngine("new")
    gate = asyncio.Event()
    old.default = after(gate)
    async with new, Fleet(old) as fleet:
        under_way = [asyncio.create_task(fleet.post()) for _ in range(3)]
        await until(lambda: old.in_flight == 3)
        [gone] = await fleet.server.reload(config(fleet, new))
        assert gone.name == "old"
        later = [await fleet.post() for _ in range(3)]
        assert [one.headers["x-stoker-engine"] for one in later] == ["new"] * 3
        assert gone.in_flight == 3
        gate.set()
        finished = await asyncio.gather(*under_way)
        assert [one.status_code for one in finished] == [200] * 3
        assert [one.headers["x-stoker-engine"] for one in finished] == ["old"] * 3
        assert gone.in_flight == 0


async def test_an_engine_that_stays_keeps_its_state() -> None:
    one, two = FakeEngine("one"), FakeEngine("two")
    async with two, Fleet(one) as fleet:
        kept = fleet.handle("one")
        await fleet.server.reload(config(fleet, one, two))
        # The health rules changed from the fakes' to these, so everything is watched anew,
        changed = fleet.handle("one")
        await fleet.server.reload(config(fleet, one, two, timeouts={"idle": 9}))
        # but a time limit is no reason to.
        assert fleet.handle("one") is changed
        assert kept.draining is (kept is not changed)
        assert fleet.server.dispatcher.config.timeouts.idle == 9
        assert [(await fleet.post()).status_code for _ in range(4)] == [200] * 4


async def test_policy_aliases_and_limits_change() -> None:
    engine = FakeEngine("one")
    async with Fleet(engine) as fleet:
        settings = {"aliases": {"other": "m"}, "router": {"port": 0, "policy": "session"}}
        await fleet.server.reload(config(fleet, engine, **settings))
        body = {"model": "other", "messages": [], "user": "u"}
        response = await fleet.post(body)
        assert response.headers["x-stoker-reason"] == "session: its engine"

"""The queue: order, fairness, bounds, and what those who cannot wait are told."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.router.admission import DrainRate, FairQueue
from stoker.router.request import Urgency

from .fakes import FakeEngine, Fleet, Seen, after, hang, slow, until


def drain(queue: FairQueue[str]) -> list[str]:
    items = []
    while (item := queue.pop()) is not None:
        items.append(item)
    return items


def test_callers_take_turns_and_keep_their_own_order() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        queue.push(item, Urgency.NORMAL, item[0])
    assert drain(queue) == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_the_urgent_go_first() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("low", Urgency.LOW, "a")
    queue.push("normal", Urgency.NORMAL, "a")
    queue.push("high", Urgency.HIGH, "a")
    assert drain(queue) == ["high", "normal", "low"]


@given(
    st.lists(st.tuples(st.sampled_from(Urgency), st.sampled_from("abc"))),
    st.data(),
)
def test_everything_pushed_comes_out_once_in_order(
    pushed: list[tuple[Urgency, str]], data: st.DataObject
) -> None:
    queue: FairQueue[int] = FairQueue()
    for number, (urgency, caller) in enumerate(pushed):
        queue.push(number, urgency, caller)
    removed = data.draw(st.sets(st.sampled_from(range(len(pushed))))) if pushed else set()
    for number in removed:
        queue.remove(number)
    out = []
    while (item := queue.pop()) is not None:
        out.append(item)
    assert sorted(out) == sorted(set(range(len(pushed))) - removed)
    assert len(queue) == 0
    levels = [pushed[number][0] for number in out]
    assert levels == sorted(levels)
    for level in Urgency:
        for caller in "abc":
            own = [number for number in out if pushed[number] == (level, caller)]
            assert own == sorted(own)


@given(st.lists(st.sampled_from("abcd"), min_size=1))
def test_no_caller_gets_two_turns_while_another_waits(callers: list[str]) -> None:
    queue: FairQueue[int] = FairQueue()
    for number, caller in enumerate(callers):
        queue.push(number, Urgency.NORMAL, caller)
    left = Counter(callers)
    served: Counter[str] = Counter()
    while (item := queue.pop()) is not None:
        served[callers[item]] += 1
        left[callers[item]] -= 1
        waiting = [served[caller] for caller, count in left.items() if count > 0]
        if waiting:
            assert max(served.values()) <= min(waiting) + 1


def test_retry_after_is_the_time_the_queue_takes() -> None:
    rate = DrainRate(now=0.0)
    assert rate.seconds_for(1) == 120.0  # nothing has finished yet
    for second in range(1, 200):
        for _ in range(5):
            rate.finished += 1
        rate.update(float(second))
    assert rate.per_second == pytest.approx(5.0)
    assert rate.seconds_for(50) == pytest.approx(10.0)
    assert rate.seconds_for(1) == 1.0


def one_at_a_time(engine: FakeEngine, **settings: object) -> Fleet:
    return Fleet(engine, engine_settings={engine.name: {"max_in_flight": 1}}, **settings)


async def test_an_engine_never_gets_more_than_it_takes() -> None:
    engine = FakeEngine("one")
    most = 0

    async def watch(fake: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        nonlocal most
        most = max(most, fake.in_flight)
        return await slow(0.01)(fake, seen, writer)

    engine.default = watch
    settings = {"one": {"max_in_flight": 3}}
    async with Fleet(engine, engine_settings=settings) as fleet:
        responses = await asyncio.gather(*(fleet.post() for _ in range(20)))
        assert [response.status_code for response in responses] == [200] * 20
        assert most == 3
        assert fleet.server.dispatcher.waiting == 0


async def test_an_urgent_request_overtakes_those_that_wait() -> None:
    engine = FakeEngine("one")
    gate = asyncio.Event()
    engine.default = after(gate)
    async with one_at_a_time(engine) as fleet:
        active = fleet.server.dispatcher.active
        asks: list[asyncio.Task[httpx.Response]] = []
        for urgency in ("normal", "low", "normal", "high"):
            headers = {"x-stoker-urgency": urgency, "x-request-id": f"{len(asks)}-{urgency}"}
            asks.append(asyncio.create_task(fleet.post(**headers)))
            await until(lambda: len(active) == len(asks))
        gate.set()
        await asyncio.gather(*asks)
    order = [seen.headers["x-request-id"] for seen in engine.seen]
    assert order == ["0-normal", "3-high", "2-normal", "1-low"]


async def test_a_full_queue_is_a_429_with_retry_after() -> None:
    engine = FakeEngine("one")
    engine.default = hang
    async with one_at_a_time(engine, admission={"max_queue": 1}) as fleet:
        waiting = [asyncio.create_task(fleet.post()) for _ in range(2)]
        await until(lambda: fleet.server.dispatcher.waiting == 1)
        response = await fleet.post()
        assert response.status_code == 429
        assert response.json()["error"]["message"] == "All engines are busy and 1 requests wait."
        assert 1 <= int(response.headers["retry-after"]) <= 120
        for task in waiting:
            task.cancel()
        await fleet.settled()


async def test_waiting_has_an_end_and_is_never_sent_after_it() -> None:
    engine = FakeEngine("one")
    gate = asyncio.Event()
    engine.default = after(gate)
    async with one_at_a_time(engine, admission={"max_wait": 0.15}) as fleet:
        first = asyncio.create_task(fleet.post())
        await until(lambda: engine.in_flight == 1)
        late = await fleet.post()
        assert late.status_code == 429
        assert late.json()["error"]["message"] == "No engine had room within 0.15 s."
        gate.set()
        assert (await first).status_code == 200
    assert len(engine.seen) == 1


async def test_one_who_leaves_the_queue_is_forgotten() -> None:
    engine = FakeEngine("one")
    gate = asyncio.Event()
    engine.default = after(gate)
    async with one_at_a_time(engine) as fleet:
        first = asyncio.create_task(fleet.post())
        await until(lambda: engine.in_flight == 1)
        second = asyncio.create_task(fleet.post())
        await until(lambda: fleet.server.dispatcher.waiting == 1)
        second.cancel()
        await until(lambda: fleet.server.dispatcher.waiting == 0)
        gate.set()
        assert (await first).status_code == 200
    assert len(engine.seen) == 1


async def test_requests_wait_for_an_engine_that_comes_back() -> None:
    engine = FakeEngine("one")
    async with Fleet(engine) as fleet:
        await engine.kill()
        await until(lambda: not fleet.handle("one").health.healthy)
        asks = [asyncio.create_task(fleet.post()) for _ in range(3)]
        await until(lambda: fleet.server.dispatcher.waiting == 3)
        await engine.start()
        assert [response.status_code for response in await asyncio.gather(*asks)] == [200] * 3


async def test_an_unknown_urgency_is_refused() -> None:
    async with Fleet(FakeEngine("one")) as fleet:
        response = await fleet.post(**{"x-stoker-urgency": "asap"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "x-stoker-urgency"

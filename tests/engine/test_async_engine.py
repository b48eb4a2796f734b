"""The thread and the event loop: streams, cancellation, failure, health, and an orderly end."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from stoker.engine.async_engine import AsyncEngine
from stoker.engine.engine import Engine
from stoker.engine.outputs import RequestOutput
from stoker.engine.sampling_params import BeamSearchParams, RequestOutputKind, SamplingParams
from stoker.errors import EngineOverloaded, EngineStopped, InvalidRequest
from stoker.runner.base import Batch, StepResult
from tests.engine.doubles import Clock, ContextRunner, answer_alone, make_engine

PROMPT = list(range(60, 75))


class GatedRunner(ContextRunner):
    """Computes a step only when it is let through."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.gate = threading.Semaphore(0)
        self.entered = threading.Event()
        self.entries = 0

    def run(self, batch: Batch) -> StepResult:
        self.entries += 1
        self.entered.set()
        self.gate.acquire()
        return super().run(batch)


class FailingRunner(ContextRunner):
    def run(self, batch: Batch) -> StepResult:
        raise MemoryError("no more")


@asynccontextmanager
async def running(engine: Engine, **options: Any) -> AsyncIterator[AsyncEngine]:
    async_engine = AsyncEngine(engine, **options)
    try:
        yield async_engine
    finally:
        runner = engine.runner
        if isinstance(runner, GatedRunner):
            runner.gate.release(1000)
        await async_engine.shutdown()


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to be")


def delta(max_tokens: int = 8, **fields: Any) -> SamplingParams:
    given: dict[str, Any] = {
        "temperature": 0,
        "ignore_eos": True,
        "output_kind": RequestOutputKind.DELTA,
    }
    return SamplingParams(**(given | {"max_tokens": max_tokens} | fields))


async def collect(stream: AsyncIterator[RequestOutput]) -> list[RequestOutput]:
    return [output async for output in stream]


def joined(outputs: list[RequestOutput]) -> RequestOutput:
    for later in outputs[1:]:
        outputs[0].merge(later)
    return outputs[0]


async def test_thirty_two_streams_get_the_answers_they_get_alone() -> None:
    prompts = [[i % 7, *PROMPT[: i % 11], i] for i in range(32)]
    params = [delta(4 + i % 9, seed=i, temperature=i % 2) for i in range(32)]
    async with running(make_engine(64, 4, max_num_seqs=8)) as engine:
        streams = [
            engine.generate(prompt, wanted, request_id=str(i))
            for i, (prompt, wanted) in enumerate(zip(prompts, params, strict=True))
        ]
        done = [joined(outputs) for outputs in await asyncio.gather(*map(collect, streams))]
        assert engine.stats().num_used_blocks == 0
        assert engine.stats().finished == {"length": 32}
    for output, prompt, wanted in zip(done, prompts, params, strict=True):
        assert output.finished
        assert output.outputs == answer_alone(prompt, wanted).outputs


async def test_cumulative_and_final_streams() -> None:
    async with running(make_engine()) as engine:
        for kind in (RequestOutputKind.CUMULATIVE, RequestOutputKind.FINAL_ONLY):
            outputs = await collect(
                engine.generate(PROMPT, delta(6, output_kind=kind), request_id="a")
            )
            assert outputs[-1].finished
            assert len(outputs[-1].outputs[0].token_ids) == 6
            if kind is RequestOutputKind.FINAL_ONLY:
                assert len(outputs) == 1
        beams = BeamSearchParams(beam_width=2, max_tokens=3)
        (final,) = await collect(engine.generate(PROMPT, beams, request_id="b"))
        assert final.outputs == answer_alone(PROMPT, beams).outputs


async def test_deltas_that_nobody_has_read_are_merged() -> None:
    runner = GatedRunner()
    async with running(make_engine(runner=runner)) as engine:
        stream = engine.generate(PROMPT, delta(6), request_id="a")
        runner.gate.release(3)
        await until(lambda: engine.stats().steps == 3)
        await asyncio.sleep(0)
        first = await anext(stream)
        assert len(first.outputs[0].token_ids) == 3
        runner.gate.release(3)
        whole = joined([first, *await collect(stream)])
    assert whole.outputs == answer_alone(PROMPT, delta(6)).outputs


async def test_what_takes_the_outputs_leaves_the_reader_only_what_it_refuses() -> None:
    runner = GatedRunner()
    async with running(make_engine(runner=runner)) as engine:
        stream = engine.generate(PROMPT, delta(6), request_id="a")
        taken: list[RequestOutput] = []
        refused: list[int] = []

        def take(output: RequestOutput) -> bool:
            if len(taken) >= 2 and not refused:
                refused.append(len(output.outputs[0].token_ids))
                return False
            taken.append(output)
            return True

        stream.offer_to(take)
        runner.gate.release(4)
        await until(lambda: runner.entries == 5)  # so four steps' outputs are on their way
        await asyncio.sleep(0)
        # The third was refused. While it waits for the reader, the fourth joins it: order is kept.
        assert (len(taken), refused) == (2, [1])
        middle = await anext(stream)
        assert len(middle.outputs[0].token_ids) == 2
        runner.gate.release(2)
        assert await collect(stream) == []
        assert len(taken) == 4
        assert taken[-1].finished
        whole = joined([*taken[:2], middle, *taken[2:]])
    assert whole.outputs == answer_alone(PROMPT, delta(6)).outputs


async def test_what_a_taker_raises_reaches_the_reader_and_closing_frees_the_blocks() -> None:
    def take(output: RequestOutput) -> bool:
        raise ValueError("no room")

    runner = GatedRunner()
    async with running(make_engine(runner=runner)) as engine:
        async with engine.generate(PROMPT, delta(8), request_id="a") as stream:
            stream.offer_to(take)
            runner.gate.release(2)
            with pytest.raises(ValueError, match="no room"):
                await anext(stream)
            assert engine.engine.has_unfinished
        runner.gate.release(1)
        await until(lambda: not engine.engine.has_unfinished)
        assert engine.stats().num_used_blocks == 0


async def test_errors_come_before_anything_is_queued() -> None:
    async with running(make_engine(max_num_seqs=1, max_waiting_requests=1)) as engine:
        with pytest.raises(InvalidRequest, match="empty"):
            engine.generate([], delta(), request_id="a")
        runner = engine.engine.runner
        assert isinstance(runner, ContextRunner)
        assert runner.batches == []
    gated = GatedRunner()
    async with running(make_engine(runner=gated, max_num_seqs=1, max_waiting_requests=1)) as engine:
        stream = engine.generate(PROMPT, delta(), request_id="a")
        with pytest.raises(ValueError, match="'a' is in use"):
            engine.generate(PROMPT, delta(), request_id="a")
        await until(gated.entered.is_set)
        waiting = engine.generate(PROMPT, delta(), request_id="b")
        with pytest.raises(EngineOverloaded):
            engine.generate(PROMPT, delta(), request_id="c")
        gated.gate.release(1000)
        await asyncio.gather(collect(stream), collect(waiting))


async def test_cancelling_the_reader_frees_the_blocks_within_a_step() -> None:
    runner = GatedRunner()
    async with running(make_engine(runner=runner)) as engine:
        stream = engine.generate(PROMPT, delta(50), request_id="a")
        task = asyncio.create_task(collect(stream))
        runner.gate.release(2)
        await until(lambda: engine.stats().steps == 2)
        await until(lambda: runner.gate._value == 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        runner.gate.release(1)  # the step in flight
        await until(lambda: engine.stats().num_used_blocks == 0)
        assert engine.stats().steps == 3
        assert engine.stats().finished == {"abort": 1}


@pytest.mark.parametrize("way", ["aclose", "with", "drop"])
async def test_a_stream_that_is_closed_or_dropped_is_aborted(way: str) -> None:
    async with running(make_engine()) as engine:
        stream: Any = engine.generate(PROMPT, delta(200), request_id="a")
        match way:
            case "aclose":
                await stream.aclose()
            case "with":
                async with stream:
                    await anext(stream)
            case _:
                await anext(stream)
                del stream
                gc.collect()
        await until(lambda: engine.stats().finished == {"abort": 1})
        assert engine.stats().num_used_blocks == 0
        # The id is free again.
        assert (await collect(engine.generate(PROMPT, delta(2), request_id="a")))[-1].finished


async def test_an_abort_from_elsewhere_ends_the_stream() -> None:
    runner = GatedRunner()
    async with running(make_engine(runner=runner)) as engine:
        stream = engine.generate(PROMPT, delta(50), request_id="a")
        task = asyncio.create_task(collect(stream))
        runner.gate.release(3)
        await until(lambda: engine.stats().steps == 3)
        engine.abort("a")
        engine.abort("unknown")
        runner.gate.release(1)
        outputs = await task
        assert outputs[-1].finished
        assert outputs[-1].outputs[0].finish_reason == "abort"


async def test_a_failing_step_ends_every_stream_and_the_health() -> None:
    runner = FailingRunner()
    async with running(make_engine(runner=runner)) as engine:
        assert engine.is_healthy()
        streams = [engine.generate(PROMPT, delta(), request_id=name) for name in "ab"]
        for stream in streams:
            with pytest.raises(EngineStopped, match="MemoryError: no more"):
                await collect(stream)
        assert not engine.is_healthy()
        assert not engine.is_accepting
        assert engine.health().error == "MemoryError: no more"
        with pytest.raises(EngineStopped, match="has failed"):
            engine.generate(PROMPT, delta(), request_id="c")
        await until(lambda: runner.closed)


async def test_health_tells_a_stalled_step_from_an_idle_engine() -> None:
    clock = Clock()
    runner = GatedRunner()
    async with running(make_engine(runner=runner), clock=clock) as engine:
        clock.now = 100.0
        health = engine.health()
        assert (health.running, health.busy, health.seconds_since_progress) == (True, False, 0.0)
        stream = engine.generate(PROMPT, delta(2), request_id="a")
        await until(runner.entered.is_set)
        clock.now = 129.0
        assert engine.is_healthy(30.0)
        clock.now = 131.0
        assert not engine.is_healthy(30.0)
        assert engine.health().seconds_since_progress == 31.0
        runner.gate.release(2)
        await collect(stream)
        assert engine.is_healthy(30.0)


async def test_an_idle_engine_sleeps() -> None:
    waits: list[Any] = []
    engine = AsyncEngine(make_engine())
    wait = engine._condition.wait

    def counted(timeout: float | None = None) -> bool:
        waits.append(timeout)
        return wait(timeout)

    engine._condition.wait = counted  # type: ignore[method-assign]
    await collect(engine.generate(PROMPT, delta(3), request_id="a"))
    await until(lambda: bool(waits))
    await asyncio.sleep(0.05)
    assert waits == [None]  # one wait, without a time limit: nothing wakes it but work
    await engine.shutdown()


async def test_shutdown_lets_requests_finish() -> None:
    runner = GatedRunner()
    engine = AsyncEngine(make_engine(runner=runner))
    stream = engine.generate(PROMPT, delta(5), request_id="a")
    ending = asyncio.create_task(engine.shutdown(drain_timeout=30))
    await until(lambda: not engine.is_accepting)
    with pytest.raises(EngineStopped, match="shutting down"):
        engine.generate(PROMPT, delta(), request_id="b")
    runner.gate.release(5)
    outputs = await collect(stream)
    assert outputs[-1].outputs[0].finish_reason == "length"
    await ending
    assert runner.closed
    assert not engine.health().running


async def test_shutdown_aborts_what_does_not_finish_in_time() -> None:
    runner = GatedRunner()
    engine = AsyncEngine(make_engine(runner=runner))
    stream = engine.generate(PROMPT, delta(50), request_id="a")
    await until(runner.entered.is_set)
    ending: Awaitable[None] = asyncio.create_task(engine.shutdown(drain_timeout=0.01))
    await until(lambda: engine._stopping)
    runner.gate.release(1)
    outputs = await collect(stream)
    assert outputs[-1].outputs[0].finish_reason == "abort"
    await ending
    assert runner.closed
    assert engine.stats().num_used_blocks == 0


async def test_the_prefix_cache_is_reset_between_requests() -> None:
    async with running(make_engine()) as engine:
        await collect(engine.generate(PROMPT, delta(2), request_id="a"))
        assert engine.stats().num_cached_blocks > 0
        assert await engine.reset_prefix_cache()
        assert engine.stats().num_cached_blocks == 0


async def test_an_engine_that_fails_ends_those_who_wait_for_embeddings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(prompt: object, pooling: object) -> None:
        raise RuntimeError("a fault")

    async with running(make_engine()) as engine:
        monkeypatch.setattr(engine.engine, "embed", fail)
        waiting = [asyncio.create_task(engine.embed([PROMPT], "last")) for _ in range(3)]
        for one in waiting:
            with pytest.raises(EngineStopped, match="a fault"):
                await asyncio.wait_for(one, 60)
    assert not engine._embedding


async def test_one_event_loop_only() -> None:
    async with running(make_engine()) as engine:
        await collect(engine.generate(PROMPT, delta(1), request_id="a"))

        async def elsewhere() -> None:
            engine.generate(PROMPT, delta(1), request_id="b")

        with pytest.raises(RuntimeError, match="one event loop"):
            await asyncio.to_thread(asyncio.run, elsewhere())

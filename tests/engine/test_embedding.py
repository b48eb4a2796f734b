"""Embeddings of a decoder: pooled states, in chunks or whole, and the blocks given back."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest

from stoker.engine.async_engine import AsyncEngine
from stoker.engine.config import EngineConfig
from stoker.engine.embedding import Pooling
from stoker.engine.engine import Engine
from stoker.engine.factory import make_runner
from stoker.engine.sampling_params import SamplingParams
from stoker.engine.stats import StepStats
from stoker.errors import ContextOverflow, EngineOverloaded
from stoker.model.loader import open_model
from stoker.runner.base import CacheConfig, Float32Array
from tests.engine.doubles import byte_tokenizer

GOLDEN = Path(__file__).parent.parent / "golden" / "llama3"
PROMPT = np.load(GOLDEN.with_suffix(".npz"))["ids_40"].tolist()


def embedded(one: Engine, pooling: Pooling) -> Float32Array:
    vector = one.embed(PROMPT, pooling)
    assert vector is not None
    return vector


def engine(
    runner: str = "cpu", chunk: int = 64, blocks: int = 4, max_waiting_requests: int = 0
) -> Engine:
    config = EngineConfig.from_mapping(
        {
            "runner": runner,
            "max_num_batched_tokens": chunk,
            "max_num_seqs": 4,
            "max_waiting_requests": max_waiting_requests,
            "threads": 1,
        }
    )
    cache = CacheConfig(blocks, dtype="float32")
    return Engine(make_runner(open_model(GOLDEN), config, cache), byte_tokenizer(), config)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_in_chunks_or_whole_and_as_the_reference(pooling: Pooling) -> None:
    whole = embedded(engine(), pooling)
    np.testing.assert_allclose(embedded(engine(chunk=7), pooling), whole, rtol=1e-6, atol=1e-6)
    reference = embedded(engine("reference"), pooling)
    similarity = whole @ reference / np.linalg.norm(whole) / np.linalg.norm(reference)
    assert similarity > 0.999
    assert whole.shape == (64,)


@pytest.mark.parametrize("runner", ["cpu", "reference"])
def test_between_the_steps_of_an_answer(runner: str) -> None:
    """An answer goes on from its own last step, not from what was embedded since."""
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)

    def answer(embedding: bool) -> list[int]:
        one = engine(runner, blocks=8)
        one.submit("a", PROMPT[:5], params)
        tokens = []
        while one.has_unfinished:
            for output in one.step():
                tokens = output.outputs[0].token_ids
            if embedding:
                embedded(one, "last")
        return tokens

    assert answer(True) == answer(False)


def test_blocks_are_given_back_and_without_enough_there_is_no_vector() -> None:
    one = engine()
    one.embed(PROMPT, "mean")
    assert one.pool.num_used == 0
    one.submit("a", PROMPT, SamplingParams(temperature=0, max_tokens=4))
    one.step()
    assert one.embed(PROMPT, "mean") is None
    one.check()
    while one.has_unfinished:
        one.step()
    embedded(one, "mean")
    one.check()


class Gate:
    """Stops the engine's thread at the end of each step until it is let through."""

    def __init__(self, one: Engine) -> None:
        self._stepped = threading.Semaphore(0)
        self._open = threading.Semaphore(0)
        one.step_listener = self._step

    def _step(self, stats: StepStats) -> None:
        self._stepped.release()
        self._open.acquire(timeout=60)

    async def step(self) -> None:
        """Wait until a step has ended."""
        assert await asyncio.to_thread(self._stepped.acquire, timeout=60)

    def let(self, steps: int = 1000) -> None:
        self._open.release(steps)


async def test_an_embedding_waits_its_turn_and_goes_before_later_requests() -> None:
    one = engine()
    gate = Gate(one)
    served = AsyncEngine(one)
    order: list[str] = []

    async def answer(name: str) -> None:
        params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
        async for output in served.generate(PROMPT, params, request_id=name):
            if output.finished:
                order.append(name)

    async def embed(name: str) -> Float32Array:
        vectors = await served.embed([PROMPT], "mean")
        order.append(name)
        return vectors

    tasks = [asyncio.create_task(answer("first"))]
    await gate.step()
    tasks += [asyncio.create_task(answer(name)) for name in ("second", "third")]
    left, embedding = (asyncio.create_task(embed(name)) for name in ("left", "embedding"))
    await asyncio.sleep(0)
    left.cancel()
    gate.let()
    vectors = await asyncio.wait_for(embedding, 60)
    await asyncio.wait_for(asyncio.gather(*tasks), 60)
    await served.shutdown()
    np.testing.assert_array_equal(vectors, [embedded(engine(), "mean")])
    # The cache has room for one of them at a time.
    assert order == ["first", "embedding", "second", "third"]
    assert one.stats().num_used_blocks == 0


async def test_embeddings_count_among_what_waits() -> None:
    one = engine(max_waiting_requests=1)
    gate = Gate(one)
    served = AsyncEngine(one)
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    stream = served.generate(PROMPT, params, request_id="a")
    await gate.step()
    waiting = asyncio.create_task(served.embed([PROMPT], "mean"))
    await asyncio.sleep(0)
    gate.let(1)
    await gate.step()
    with pytest.raises(EngineOverloaded, match="1 requests are waiting, 1 may"):
        await served.embed([PROMPT], "mean")
    with pytest.raises(EngineOverloaded, match="1 requests are waiting, 1 may"):
        served.generate(PROMPT, params, request_id="b")
    await stream.aclose()
    gate.let()
    assert (await asyncio.wait_for(waiting, 60)).shape == (1, 64)
    await served.shutdown()


def test_an_input_must_fit_the_context() -> None:
    for prompt in ([], [1] * 65):
        with pytest.raises(ContextOverflow, match="from 1 to 64"):
            engine().embed(prompt, "last")

"""Embeddings of a decoder: pooled states, in chunks or whole, and the blocks given back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stoker.engine.config import EngineConfig
from stoker.engine.embedding import Pooling
from stoker.engine.engine import Engine
from stoker.engine.factory import make_runner
from stoker.engine.sampling_params import SamplingParams
from stoker.errors import ContextOverflow, EngineOverloaded
from stoker.model.loader import open_model
from stoker.runner.base import CacheConfig
from tests.engine.doubles import byte_tokenizer

GOLDEN = Path(__file__).parent.parent / "golden" / "llama3"
PROMPT = np.load(GOLDEN.with_suffix(".npz"))["ids_40"].tolist()


def engine(runner: str = "cpu", chunk: int = 64, blocks: int = 4) -> Engine:
    config = EngineConfig.from_mapping(
        {"runner": runner, "max_num_batched_tokens": chunk, "max_num_seqs": 4, "threads": 1}
    )
    cache = CacheConfig(blocks, dtype="float32")
    return Engine(make_runner(open_model(GOLDEN), config, cache), byte_tokenizer(), config)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_in_chunks_or_whole_and_as_the_reference(pooling: Pooling) -> None:
    whole = engine().embed(PROMPT, pooling)
    np.testing.assert_allclose(engine(chunk=7).embed(PROMPT, pooling), whole, rtol=1e-6, atol=1e-6)
    reference = engine("reference").embed(PROMPT, pooling)
    similarity = whole @ reference / np.linalg.norm(whole) / np.linalg.norm(reference)
    assert similarity > 0.999
    assert whole.shape == (64,)


def test_blocks_are_given_back_and_none_left_is_an_overload() -> None:
    one = engine()
    one.embed(PROMPT, "mean")
    assert one.pool.num_used == 0
    one.submit("a", PROMPT, SamplingParams(temperature=0, max_tokens=4))
    one.step()
    with pytest.raises(EngineOverloaded, match="3 blocks wanted, 1 free"):
        one.embed(PROMPT, "mean")
    while one.has_unfinished:
        one.step()
    one.embed(PROMPT, "mean")
    one.check()


def test_an_input_must_fit_the_context() -> None:
    for prompt in ([], [1] * 65):
        with pytest.raises(ContextOverflow, match="from 1 to 64"):
            engine().embed(prompt, "last")

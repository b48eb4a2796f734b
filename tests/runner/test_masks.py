"""Masks that are filled while the model runs."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from stoker.runner.base import Batch, CacheConfig, ModelRunner, SampleExtras
from stoker.runner.cpu import CPURunner
from stoker.runner.reference import ReferenceRunner
from tests.runner.steps import batch, greedy, ids, spec, tokens, weights

OF = spec()
CACHE = CacheConfig(16)


def _runner(kind: str) -> ModelRunner:
    if kind == "reference":
        return ReferenceRunner(OF, weights(OF), CACHE)
    return CPURunner(OF, weights(OF), CACHE, max_num_batched_tokens=64, max_num_seqs=4, threads=2)


def _masked(mask: NDArray[np.uint32]) -> Batch:
    step = batch((tokens(20), 0, ids(0, 1)))
    sample = dataclasses.replace(greedy(19), extras=[SampleExtras(allowed_mask=mask)])
    return dataclasses.replace(step, sample=sample)


@pytest.mark.parametrize("kind", ["reference", "cpu"])
def test_a_mask_may_be_filled_up_to_the_sampling(kind: str) -> None:
    mask = np.zeros(-(-OF.vocab_size // 32), np.uint32)
    calls = []

    def fill() -> None:
        calls.append(threading.current_thread())
        mask[2] = 1 << 5

    step = _masked(mask)
    step.before_sampling = fill
    assert _runner(kind).run(step).token_ids.tolist() == [69]
    assert calls == [threading.current_thread()]


@pytest.mark.parametrize("kind", ["reference", "cpu"])
def test_what_fails_while_filling_fails_the_step(kind: str) -> None:
    def fail() -> None:
        raise LookupError("no masks today")

    runner = _runner(kind)
    step = _masked(np.full(-(-OF.vocab_size // 32), 0xFFFFFFFF, np.uint32))
    step.before_sampling = fail
    with pytest.raises(LookupError, match="no masks today"):
        runner.run(step)
    step.before_sampling = None
    assert runner.run(step).token_ids[0] >= 0

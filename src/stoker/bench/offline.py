"""The engine without a server: how much it computes in all, and how long one batch takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from stoker.bench.dataset import SampleRequest
from stoker.bench.steps import StepMeter, StepSplit, measuring
from stoker.engine.engine import Engine
from stoker.engine.sampling_params import BeamSearchParams, RequestOutputKind, SamplingParams

PERCENTAGES = (10, 25, 50, 75, 90, 99)


@dataclass(frozen=True, slots=True)
class Throughput:
    """What one run over many requests came to."""

    num_requests: int
    elapsed: float
    prompt_tokens: int
    output_tokens: int
    split: StepSplit

    def lines(self) -> list[str]:
        """As `vllm bench throughput` prints it, and the split of the steps."""
        total = self.prompt_tokens + self.output_tokens
        return [
            f"Throughput: {self.num_requests / self.elapsed:.2f} requests/s, "
            f"{total / self.elapsed:.2f} total tokens/s, "
            f"{self.output_tokens / self.elapsed:.2f} output tokens/s",
            f"Total num prompt tokens:  {self.prompt_tokens}",
            f"Total num output tokens:  {self.output_tokens}",
            *self.split.lines(),
        ]

    def as_json(self) -> dict[str, Any]:
        total = self.prompt_tokens + self.output_tokens
        return {
            "elapsed_time": self.elapsed,
            "num_requests": self.num_requests,
            "total_num_tokens": total,
            "requests_per_second": self.num_requests / self.elapsed,
            "tokens_per_second": total / self.elapsed,
            "output_tokens_per_second": self.output_tokens / self.elapsed,
            "steps": self.split.as_json(),
        }


@dataclass(frozen=True, slots=True)
class Latency:
    """How long the same batch took, time after time. Seconds."""

    latencies: Sequence[float]
    split: StepSplit

    def lines(self) -> list[str]:
        """As `vllm bench latency` prints it, and the split of the steps."""
        return [
            f"Avg latency: {np.mean(self.latencies):.6f} seconds",
            *(f"{p}% percentile latency: {v:.6f} seconds" for p, v in self._percentiles().items()),
            *self.split.lines(),
        ]

    def as_json(self) -> dict[str, Any]:
        return {
            "avg_latency": float(np.mean(self.latencies)),
            "latencies": list(self.latencies),
            "percentiles": {str(p): v for p, v in self._percentiles().items()},
            "steps": self.split.as_json(),
        }

    def _percentiles(self) -> dict[int, float]:
        return {p: float(np.percentile(self.latencies, p)) for p in PERCENTAGES}


def measure_throughput(
    engine: Engine, requests: Sequence[SampleRequest], *, n: int = 1, num_warmups: int = 0
) -> Throughput:
    """Submit all requests at once and step until they are answered, `n` times each."""
    with measuring(engine) as meter:
        if num_warmups:
            _run_all(engine, meter, requests[:num_warmups], n)
            meter.reset()
        before = engine.stats()
        elapsed = _run_all(engine, meter, requests, n)
        after = engine.stats()
        return Throughput(
            len(requests),
            elapsed,
            after.prompt_tokens - before.prompt_tokens,
            after.generation_tokens - before.generation_tokens,
            meter.split(),
        )


def measure_latency(
    engine: Engine,
    *,
    input_len: int,
    output_len: int,
    batch_size: int,
    n: int = 1,
    use_beam_search: bool = False,
    num_iters: int,
    num_iters_warmup: int,
    on_done: Callable[[], None] = lambda: None,
) -> Latency:
    """Time a batch of random prompts `num_iters` times, after some for warming up."""
    params: SamplingParams | BeamSearchParams
    if use_beam_search:
        params = BeamSearchParams(beam_width=n, max_tokens=output_len, ignore_eos=True)
    else:
        params = _answer(n, output_len)
    ids = count()
    prompts = np.random.default_rng(0).integers(
        0, min(10_000, engine.tokenizer.vocab_size), (batch_size, input_len)
    )
    latencies = []
    with measuring(engine) as meter:
        for iteration in range(num_iters_warmup + num_iters):
            if iteration == num_iters_warmup:
                meter.reset()
            for prompt in prompts.tolist():
                engine.submit(str(next(ids)), prompt, params)
            seconds = meter.run_to_completion()
            if iteration >= num_iters_warmup:
                latencies.append(seconds)
            on_done()
        return Latency(latencies, meter.split())


def _run_all(engine: Engine, meter: StepMeter, requests: Sequence[SampleRequest], n: int) -> float:
    for number, request in enumerate(requests):
        ids = engine.tokenizer.encode(request.prompt)
        engine.submit(str(number), ids, _answer(n, request.output_len))
    return meter.run_to_completion()


def _answer(n: int, max_tokens: int) -> SamplingParams:
    return SamplingParams(
        n=n,
        temperature=1.0,
        top_p=1.0,
        ignore_eos=True,
        max_tokens=max_tokens,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )

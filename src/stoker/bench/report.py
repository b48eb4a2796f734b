"""Figures from the times of a load, under the names `vllm bench serve` prints and saves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from stoker.bench.load import Outcome
from stoker.errors import InvalidRequest

Metric = Literal["ttft", "tpot", "itl", "e2el"]
METRICS: tuple[Metric, ...] = get_args(Metric)
_TITLES: Mapping[Metric, str] = {
    "ttft": "Time to First Token",
    "tpot": "Time per Output Token (excl. 1st token)",
    "itl": "Inter-token Latency",
    "e2el": "End-to-end Latency",
}
WIDTH = 50


@dataclass(frozen=True, slots=True)
class Spread:
    """How one time is spread over the requests, in milliseconds."""

    mean: float
    median: float
    std: float
    percentiles: Mapping[float, float]

    @classmethod
    def of(cls, seconds: Sequence[float], percentiles: Sequence[float]) -> Spread:
        values = np.array(seconds or [0.0]) * 1000
        return cls(
            float(values.mean()),
            float(np.median(values)),
            float(values.std()),
            {p: float(np.percentile(values, p)) for p in percentiles},
        )


@dataclass(frozen=True, slots=True)
class Report:
    """A load's figures. Rates per second of the whole load."""

    outcomes: Sequence[Outcome]
    duration: float
    request_rate: float
    max_concurrency: int | None
    goodput: Mapping[Metric, float]
    completed: int
    total_input_tokens: int
    total_output_tokens: int
    good: int
    """Requests within all of `goodput`'s limits."""
    peak_output_tokens: int
    """Most tokens that came within one second."""
    peak_concurrency: int
    """Most requests in flight within one second."""
    spreads: Mapping[Metric, Spread]

    @property
    def failed(self) -> int:
        return len(self.outcomes) - self.completed

    def lines(self) -> list[str]:
        """The report as `vllm bench serve` prints it."""
        lines = [_rule(" Serving Benchmark Result ", "=")]

        def row(name: str, value: float | str) -> None:
            text = f"{value:<10.2f}" if isinstance(value, float) else f"{value:<10}"
            lines.append(f"{name:<40} {text}".rstrip())

        row("Successful requests:", self.completed)
        row("Failed requests:", self.failed)
        if self.max_concurrency is not None:
            row("Maximum request concurrency:", self.max_concurrency)
        if not math.isinf(self.request_rate):
            row("Request rate configured (RPS):", self.request_rate)
        row("Benchmark duration (s):", self.duration)
        row("Total input tokens:", self.total_input_tokens)
        row("Total generated tokens:", self.total_output_tokens)
        row("Request throughput (req/s):", self.completed / self.duration)
        if self.goodput:
            row("Request goodput (req/s):", self.good / self.duration)
        row("Output token throughput (tok/s):", self.total_output_tokens / self.duration)
        row("Peak output token throughput (tok/s):", float(self.peak_output_tokens))
        row("Peak concurrent requests:", float(self.peak_concurrency))
        row("Total token throughput (tok/s):", self._total_tokens / self.duration)
        for name, spread in self.spreads.items() if self.completed else ():
            lines.append(_rule(_TITLES[name], "-"))
            label = f"{name.upper()} (ms):"
            row(f"Mean {label}", spread.mean)
            row(f"Median {label}", spread.median)
            for percent, value in spread.percentiles.items():
                row(f"P{percent:g} {label}", value)
        lines.append("=" * WIDTH)
        return lines

    def as_json(self, *, detailed: bool) -> dict[str, Any]:
        """The same as JSON; `detailed` with the times of every request."""
        result: dict[str, Any] = {
            "duration": self.duration,
            "completed": self.completed,
            "failed": self.failed,
            "total_input_tokens": self.total_input_tokens,
            "total_output_tokens": self.total_output_tokens,
            "request_throughput": self.completed / self.duration,
            "request_goodput": self.good / self.duration if self.goodput else None,
            "output_throughput": self.total_output_tokens / self.duration,
            "total_token_throughput": self._total_tokens / self.duration,
            "max_output_tokens_per_s": self.peak_output_tokens,
            "max_concurrent_requests": self.peak_concurrency,
        }
        if detailed:
            result |= {
                "input_lens": [outcome.prompt_len for outcome in self.outcomes],
                "output_lens": [outcome.output_len for outcome in self.outcomes],
                "ttfts": [outcome.ttft for outcome in self.outcomes],
                "itls": [outcome.itl for outcome in self.outcomes],
                "latencies": [outcome.latency for outcome in self.outcomes],
                "start_times": [outcome.start for outcome in self.outcomes],
                "generated_texts": [outcome.text for outcome in self.outcomes],
                "errors": [outcome.error or "" for outcome in self.outcomes],
            }
        for name, spread in self.spreads.items():
            result |= {
                f"mean_{name}_ms": spread.mean,
                f"median_{name}_ms": spread.median,
                f"std_{name}_ms": spread.std,
                **{f"p{p:g}_{name}_ms": value for p, value in spread.percentiles.items()},
            }
        return result

    @property
    def _total_tokens(self) -> int:
        return self.total_input_tokens + self.total_output_tokens


def make_report(
    outcomes: Sequence[Outcome],
    duration: float,
    *,
    request_rate: float = math.inf,
    max_concurrency: int | None = None,
    metrics: Sequence[Metric] = METRICS,
    percentiles: Sequence[float] = (99,),
    goodput: Mapping[Metric, float] | None = None,
) -> Report:
    """The figures of a load. `goodput`: the limits, in milliseconds, that a good request keeps."""
    done = [outcome for outcome in outcomes if outcome.succeeded]
    times: dict[Metric, list[float]] = {
        "ttft": [o.ttft for o in done],
        "tpot": [_per_token(o) for o in done if o.output_len > 1],
        "itl": [gap for o in done for gap in o.itl],
        "e2el": [o.latency for o in done],
    }
    limits = dict(goodput or {})
    peak_tokens, peak_requests = _peaks(done)
    return Report(
        outcomes=outcomes,
        duration=duration,
        request_rate=request_rate,
        max_concurrency=max_concurrency,
        goodput=limits,
        completed=len(done),
        total_input_tokens=sum(o.prompt_len for o in done),
        total_output_tokens=sum(o.output_len for o in done),
        good=sum(_is_good(o, limits) for o in done),
        peak_output_tokens=peak_tokens,
        peak_concurrency=peak_requests,
        spreads={name: Spread.of(times[name], percentiles) for name in metrics},
    )


def parse_goodput(texts: Sequence[str]) -> dict[Metric, float]:
    """`ttft:200 tpot:50` → limits in milliseconds. Raises `InvalidRequest`."""
    limits: dict[Metric, float] = {}
    for part in " ".join(texts).replace(",", " ").split():
        name, _, number = part.partition(":")
        try:
            limit = float(number)
        except ValueError:
            limit = math.nan
        metric = _metric(name, of=("ttft", "tpot", "e2el"))
        if metric is None or not limit >= 0:
            raise InvalidRequest(
                f"--goodput {part}: expected ttft, tpot or e2el with milliseconds, as in ttft:200",
                param="goodput",
            )
        limits[metric] = limit
    return limits


def parse_metrics(text: str) -> list[Metric]:
    """`ttft,itl` → metrics. Raises `InvalidRequest`."""
    metrics = []
    for part in text.replace(" ", "").split(","):
        metric = _metric(part, of=METRICS)
        if metric is None:
            raise InvalidRequest(
                f"--percentile-metrics: {part!r} is none of {', '.join(METRICS)}",
                param="percentile_metrics",
            )
        metrics.append(metric)
    return metrics


def parse_percentiles(text: str) -> list[float]:
    """`50,99.9` → numbers. Raises `InvalidRequest`."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(0 <= number <= 100 for number in numbers):
        raise InvalidRequest(
            f"--metric-percentiles must be numbers from 0 to 100, as in 25,50,99; got {text!r}",
            param="metric_percentiles",
        )
    return numbers


def _metric(name: str, *, of: Sequence[Metric]) -> Metric | None:
    return next((metric for metric in of if metric == name), None)


def _per_token(outcome: Outcome) -> float:
    if outcome.output_len < 2:
        return 0.0
    return (outcome.latency - outcome.ttft) / (outcome.output_len - 1)


def _is_good(outcome: Outcome, limits: Mapping[Metric, float]) -> bool:
    times = {"ttft": outcome.ttft, "tpot": _per_token(outcome), "e2el": outcome.latency}
    return all(times[name] * 1000 <= limit for name, limit in limits.items())


def _peaks(done: Sequence[Outcome]) -> tuple[int, int]:
    """Most tokens and most requests in flight in any second, seconds counted from the start."""
    if not done:
        return 0, 0
    begin = min(outcome.start for outcome in done)
    seconds = int(max(outcome.start + outcome.latency for outcome in done) - begin) + 1
    tokens, requests = np.zeros(seconds, np.int64), np.zeros(seconds, np.int64)
    for outcome in done:
        first = outcome.start - begin
        pieces = first + np.cumsum([outcome.ttft, *outcome.itl])
        np.add.at(tokens, np.minimum(pieces.astype(np.int64), seconds - 1), 1)
        requests[int(first) : int(first + outcome.latency) + 1] += 1
    return int(tokens.max()), int(requests.max())


def _rule(text: str, fill: str) -> str:
    return text.center(WIDTH, fill)

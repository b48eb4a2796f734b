"""What `stoker top` draws."""

from __future__ import annotations

from rich.console import Console

from stoker.cli.top.view import page
from stoker.client.scrape import Percentiles
from stoker.client.vitals import EngineVitals, RoutedEngine, RouterVitals, Vitals


def drawn(figures: Vitals, seconds: float = 10.0) -> list[str]:
    console = Console(width=150, file=None, no_color=True)
    with console.capture() as capture:
        console.print(page("http://h:1", figures, seconds))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_an_engine() -> None:
    figures = EngineVitals(
        models=("smollm2",),
        uptime=3725.0,
        memory_bytes=400 * 2**20,
        running=12,
        waiting=3,
        kv_usage=0.5,
        kv_tokens=123456,
        prefix_hit_rate=0.615,
        prompt_tokens_per_s=2120.4,
        generation_tokens_per_s=843.0,
        requests_per_s=3.25,
        preemptions=0,
        ttft=Percentiles(0.0123, 0.25, 1.5),
        itl=Percentiles(0.0005, 0.002, 0.01),
        e2e=None,
    )
    assert drawn(figures) == [
        "smollm2 on http://h:1 · up 1 h 2 min · 400 MiB   last 10 s",
        "",
        "running 12       waiting 3        requests/s 3.25     preempted 0",
        "prompt tokens/s 2,120    generated tokens/s 843      prefix hits 62 %",
        "KV cache  ███████████████░░░░░░░░░░░░░░░ 50 % of 123,456 tokens",
        "",
        "                           P50        P90        P99",
        "time to first token    12.3 ms     250 ms     1.50 s",
        "between tokens          500 µs    2.00 ms    10.0 ms",
        "whole request                –          –          –",
    ]


def test_a_router() -> None:
    def engine(name: str, *, healthy: bool, reason: str | None = None) -> RoutedEngine:
        return RoutedEngine(
            name=name,
            kind="vllm",
            models=("m",),
            healthy=healthy,
            reason=reason,
            breaker="closed",
            in_flight=4,
            running=3 if healthy else None,
            waiting=1 if healthy else None,
            kv_usage=0.25 if healthy else None,
            prefix_hit_rate=0.75 if healthy else None,
            generation_tokens_per_s=50.0,
            requests_per_s=0.5,
            first_byte=Percentiles(0.1, 0.2, 0.3) if healthy else None,
            latency=None,
        )

    figures = RouterVitals(
        models=("m", "n"),
        uptime=None,
        memory_bytes=None,
        running=8,
        waiting=0,
        prefix_hit_rate=0.5,
        prompt_tokens_per_s=10.0,
        generation_tokens_per_s=100.0,
        requests_per_s=1.0,
        retries_per_s=0.0,
        rejected_per_s=0.0,
        first_byte=Percentiles(0.1, 0.2, 0.3),
        latency=Percentiles(1.0, 2.0, 30.0),
        engines=(engine("a", healthy=True), engine("b", healthy=False, reason="refused")),
    )
    lines = drawn(figures, 2.4)
    assert lines[0] == "m, n on http://h:1   last 2 s"
    assert lines[2].split() == [
        *("at", "engines", "8", "waiting", "0", "requests/s", "1.00"),
        *("retries/s", "0", "refused/s", "0"),
    ]
    assert lines[6].split() == ["to", "the", "first", "byte", "100", "ms", "200", "ms", "300", "ms"]
    one, other = (" ".join(line.split()) for line in lines[-2:])
    assert one == "a vllm ok 4 3 1 25 % 75 % 50.0 0.50 100 ms 300 ms"
    assert other == "b vllm refused 4 – – – – 50.0 0.50 – –"

"""A server's figures on a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stoker.cli import units
from stoker.client.scrape import Percentiles
from stoker.client.vitals import EngineVitals, RoutedEngine, RouterVitals, Vitals

_BAR = 30


def page(url: str, figures: Vitals, seconds: float) -> RenderableType:
    """All of it. `seconds`: what rates and percentiles are of."""
    up = [f"up {units.duration(figures.uptime)}"] if figures.uptime is not None else []
    if figures.memory_bytes is not None:
        up.append(units.memory(figures.memory_bytes))
    head = Text.assemble(
        (", ".join(figures.models) or "no model", "bold"),
        " on ",
        (url, "cyan"),
        *(f" · {part}" for part in up),
        (f"   last {seconds:.0f} s", "dim"),
    )
    body = _router(figures) if isinstance(figures, RouterVitals) else _engine(figures)
    return Group(head, Text(), *body)


def away(url: str, problem: str) -> RenderableType:
    """What there is to see while the server does not answer."""
    return Group(
        Text.assemble((url, "cyan"), " ", ("does not answer", "bold red")),
        Text(problem, style="dim"),
        Text("It is asked again until it does; Ctrl+C leaves."),
    )


def _engine(figures: EngineVitals) -> list[RenderableType]:
    counts = _row(
        ("running", units.count(figures.running)),
        ("waiting", units.count(figures.waiting)),
        ("requests/s", units.rate(figures.requests_per_s)),
        ("preempted", units.count(figures.preemptions)),
    )
    tokens = _row(
        ("prompt tokens/s", units.rate(figures.prompt_tokens_per_s)),
        ("generated tokens/s", units.rate(figures.generation_tokens_per_s)),
        ("prefix hits", units.share(figures.prefix_hit_rate)),
    )
    room = "" if figures.kv_tokens is None else f" of {units.count(figures.kv_tokens)} tokens"
    cache = Text.assemble(("KV cache  ", "dim"), _bar(figures.kv_usage), room)
    latencies = {
        "time to first token": figures.ttft,
        "between tokens": figures.itl,
        "whole request": figures.e2e,
    }
    return [counts, tokens, cache, Text(), _percentiles(latencies)]


def _router(figures: RouterVitals) -> list[RenderableType]:
    counts = _row(
        ("at engines", units.count(figures.running)),
        ("waiting", units.count(figures.waiting)),
        ("requests/s", units.rate(figures.requests_per_s)),
        ("retries/s", units.rate(figures.retries_per_s)),
        ("refused/s", units.rate(figures.rejected_per_s)),
    )
    tokens = _row(
        ("prompt tokens/s", units.rate(figures.prompt_tokens_per_s)),
        ("generated tokens/s", units.rate(figures.generation_tokens_per_s)),
        ("prefix hits", units.share(figures.prefix_hit_rate)),
    )
    latencies = {"to the first byte": figures.first_byte, "whole request": figures.latency}
    return [counts, tokens, Text(), _percentiles(latencies), Text(), _engines(figures.engines)]


def _engines(engines: tuple[RoutedEngine, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("ENGINE", "KIND", "STATE"):
        table.add_column(name)
    names = ("IN FLIGHT", "RUNNING", "WAITING", "KV USE", "PREFIX HITS", "TOKENS/S", "REQUESTS/S")
    for name in (*names, "FIRST BYTE P50", "P99"):
        table.add_column(name, justify="right")
    for engine in engines:
        state = Text(_state(engine), style="" if engine.healthy else "red")
        first = engine.first_byte
        table.add_row(
            engine.name,
            engine.kind,
            state,
            units.count(engine.in_flight),
            units.count(engine.running),
            units.count(engine.waiting),
            units.share(engine.kv_usage),
            units.share(engine.prefix_hit_rate),
            units.rate(engine.generation_tokens_per_s),
            units.rate(engine.requests_per_s),
            units.latency(None if first is None else first.p50),
            units.latency(None if first is None else first.p99),
        )
    return table


def _state(engine: RoutedEngine) -> str:
    if not engine.healthy:
        return engine.reason or "unhealthy"
    return "ok" if engine.breaker == "closed" else f"breaker {engine.breaker}"


def _percentiles(rows: dict[str, Percentiles | None]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in ("P50", "P90", "P99"):
        table.add_column(name, justify="right", min_width=9)
    for name, values in rows.items():
        cells = (None, None, None) if values is None else (values.p50, values.p90, values.p99)
        table.add_row(Text(name, style="dim"), *(units.latency(value) for value in cells))
    return table


def _row(*figures: tuple[str, str]) -> Text:
    line = Text()
    for name, value in figures:
        line.append(f"{name} ", "dim").append(f"{value:<9}", "bold")
    return line


def _bar(value: float | None) -> Text:
    if value is None:
        return Text(units.NOTHING)
    full = min(_BAR, round(value * _BAR))
    colour = "green" if value < 0.7 else "yellow" if value < 0.9 else "red"
    bar = Text("█" * full, colour)
    return bar.append("░" * (_BAR - full), "dim").append(f" {units.share(value)}", "bold")

"""What a comparison of engines measured: kept as JSON, shown as a table and as a plot."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

FIRST_TOKEN = "first token of"
"""How a figure in milliseconds begins; all others are tokens per second."""


@dataclass(frozen=True, slots=True)
class Share:
    """A ceiling: what of it one token per second takes."""

    of: str
    per_token: float


@dataclass(slots=True)
class Comparison:
    """Samples of every figure and engine, `{label: {engine: [samples]}}`."""

    machine: str
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    start_s: dict[str, float] = field(default_factory=dict)
    peak_rss_mib: dict[str, float] = field(default_factory=dict)
    shares: dict[str, Share] = field(default_factory=dict)
    """By label, or by its first word."""

    @classmethod
    def load(cls, path: Path) -> Comparison:
        data: dict[str, Any] = json.loads(path.read_text())
        known = {name: data[name] for name in ("machine", "samples", "start_s", "peak_rss_mib")}
        return cls(**known, shares={k: Share(**v) for k, v in data["shares"].items()})

    def save(self, path: Path, options: dict[str, str]) -> None:
        ratios = {label: self.ratios(label) for label in self.samples}
        medians = {label: self.medians(label) for label in self.samples}
        data = asdict(self) | {"medians": medians, "ratios": ratios, "options": options}
        path.write_text(json.dumps(data, indent=1) + "\n")

    def add(self, label: str, engine: str, samples: list[float]) -> None:
        self.samples.setdefault(label, {}).setdefault(engine, []).extend(samples)

    def note(self, engine: str, start_s: float | None, rss_mib: float | None) -> None:
        """The start that took least and the memory that was most."""
        if start_s is not None:
            self.start_s[engine] = min(start_s, self.start_s.get(engine, start_s))
        if rss_mib is not None:
            self.peak_rss_mib[engine] = max(rss_mib, self.peak_rss_mib.get(engine, 0.0))

    @property
    def engines(self) -> list[str]:
        names = dict.fromkeys(name for row in self.samples.values() for name in row)
        return sorted(names, key=lambda n: (not n.startswith("stoker"), n.startswith("vllm")))

    def medians(self, label: str) -> dict[str, float]:
        return {name: statistics.median(s) for name, s in self.samples[label].items() if s}

    def ratios(self, label: str) -> dict[str, float]:
        """How many times better Stoker is than the best of llama.cpp's files, and than vLLM."""
        lower = label.startswith(FIRST_TOKEN)
        medians, best = self.medians(label), min if lower else max
        ours = [v for name, v in medians.items() if name.startswith("stoker")]
        result = {}
        for peer in ("llama.cpp", "vllm"):
            theirs = [v for name, v in medians.items() if name.startswith(peer)]
            if ours and theirs:
                ratio = best(ours) / best(theirs)
                result[peer] = 1 / ratio if lower else ratio
        return result

    def share(self, label: str) -> str:
        """Of the ceiling that this figure has, if any."""
        ours = [v for n, v in self.medians(label).items() if n.startswith("stoker")]
        share = self.shares.get(label) or self.shares.get(label.split()[0])
        return f"{max(ours) * share.per_token:.0%} {share.of}" if ours and share else ""


def table(comparison: Comparison, title: str) -> Table:
    """Medians, Stoker's ratio to the best llama.cpp file and to vLLM, its share of the ceiling."""
    engines = comparison.engines
    out = Table(title=title, title_justify="left")
    out.add_column("tokens/s")
    for heading in (*engines, "÷ best llama.cpp", "÷ vLLM", "share of the ceiling"):
        out.add_column(heading, justify="right")
    for label in comparison.samples:
        medians, ratios = comparison.medians(label), comparison.ratios(label)
        out.add_row(
            label,
            *(f"{medians[n]:,.0f}" if n in medians else "–" for n in engines),
            *(f"{ratios[p]:.2f}×" if p in ratios else "–" for p in ("llama.cpp", "vllm")),
            comparison.share(label),
        )
    for label, values, form in (
        ("start to first token, s", comparison.start_s, "{:.1f}"),
        ("peak memory, MiB", comparison.peak_rss_mib, "{:,.0f}"),
    ):
        out.add_row(label, *(form.format(values[n]) if n in values else "–" for n in engines))
    return out


def plot(comparison: Comparison, path: Path) -> None:
    """Bars of the medians, one group for each figure."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    labels, names = list(comparison.samples), comparison.engines
    figure, grid = pyplot.subplots(1, len(labels), figsize=(2.2 * len(labels), 3.2), squeeze=False)
    colours = ["#d9480f" if n.startswith("stoker") else "#adb5bd" for n in names]
    for axis, label in zip(grid[0], labels, strict=True):
        row = comparison.medians(label)
        axis.bar(range(len(names)), [row.get(n, 0.0) for n in names], color=colours)
        axis.set_title(label, fontsize=9)
        axis.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
        axis.tick_params(axis="y", labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel("tokens/s")
    figure.tight_layout()
    figure.savefig(path)

"""What a comparison of engines measured: kept as JSON, shown as a table and as a plot."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from peers import HTTP, MEMORY, less_is_better
from peers import OFFLINE as OFFLINE_LABEL
from peers_targets import CEILING, LLAMA, OFFLINE, SECONDS, START, VLLM, Target
from rich.table import Table

READING = "of reading memory"


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
    paired_shares: dict[str, list[float]] = field(default_factory=dict)
    """By label: each sample's share of a ceiling that was measured right around it."""

    @classmethod
    def load(cls, path: Path) -> Comparison:
        data: dict[str, Any] = json.loads(path.read_text())
        known = {name: data[name] for name in ("machine", "samples", "start_s", "peak_rss_mib")}
        shares = {k: Share(**v) for k, v in data["shares"].items()}
        return cls(**known, shares=shares, paired_shares=data.get("paired_shares", {}))

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
        lower = less_is_better(label)
        medians, best = self.medians(label), min if lower else max
        ours = [v for name, v in medians.items() if name.startswith("stoker")]
        result = {}
        for peer in (LLAMA, VLLM):
            theirs = [v for name, v in medians.items() if name.startswith(peer)]
            if ours and theirs:
                ratio = best(ours) / best(theirs)
                result[peer] = 1 / ratio if lower else ratio
        return result

    def best_llama(self, label: str) -> str | None:
        """Which of llama.cpp's files comes out best."""
        files = {n: v for n, v in self.medians(label).items() if n.startswith(LLAMA)}
        if not files:
            return None
        return (min if less_is_better(label) else max)(files, key=files.__getitem__)

    def share(self, label: str) -> tuple[float, str] | None:
        """Of the ceiling that this figure has, if any, and what that is."""
        ours = [v for n, v in self.medians(label).items() if n.startswith("stoker")]
        if label == HTTP and OFFLINE_LABEL in self.samples:
            return max(ours) / max(self.medians(OFFLINE_LABEL).values()), "of the offline rate"
        if self.paired_shares.get(label):
            return statistics.median(self.paired_shares[label]), READING
        share = self.shares.get(label) or self.shares.get(label.split()[0])
        return (max(ours) * share.per_token, share.of) if ours and share else None


def table(comparison: Comparison, title: str) -> Table:
    """Medians, Stoker's ratio to the best llama.cpp file and to vLLM, its share of the ceiling."""
    engines = comparison.engines
    out = Table(title=title, title_justify="left")
    out.add_column("tokens/s")
    for heading in (*engines, "÷ best llama.cpp", "÷ vLLM", "share of the ceiling"):
        out.add_column(heading, justify="right")
    for label in comparison.samples:
        medians, ratios = comparison.medians(label), comparison.ratios(label)
        share = comparison.share(label)
        out.add_row(
            label,
            *(f"{medians[n]:,.0f}" if n in medians else "–" for n in engines),
            *(f"{ratios[p]:.2f}×" if p in ratios else "–" for p in (LLAMA, VLLM)),
            f"{share[0]:.0%} {share[1]}" if share else "",
        )
    values = comparison.start_s
    out.add_row(START, *(f"{values[n]:.1f}" if n in values else "–" for n in engines))
    return out


def markdown(comparison: Comparison, targets: Sequence[Target]) -> str:
    """A table for a README: medians and ratios, and beside each that has a target the target."""
    lines = [
        "| | Stoker | llama.cpp, best file | vLLM | ÷ llama.cpp | ÷ vLLM | of the ceiling |",
        "|---|---|---|---|---|---|---|",
    ]

    def judged(label: str, beside: str, form: str, value: float | None) -> str:
        if value is None:
            return "–"
        target = next((t for t in targets if t.fits(label, beside)), None)
        if target is None:
            return form.format(value)
        sign, verdict = "≤" if target.at_most else "≥", "met" if target.is_met(value) else "missed"
        return f"{form.format(value)} ({sign} {form.format(target.wanted)}: {verdict})"

    for label in comparison.samples:
        medians, ratios = comparison.medians(label), comparison.ratios(label)
        lower, share = less_is_better(label), comparison.share(label)
        ours = [v for n, v in medians.items() if n.startswith("stoker")]
        llama = comparison.best_llama(label)
        vllm = next((v for n, v in medians.items() if n.startswith(VLLM)), None)
        cells = [
            label,
            f"{(min if lower else max)(ours):,.0f}" if ours else "–",
            f"{medians[llama]:,.0f} ({llama.removeprefix(LLAMA).strip()})" if llama else "–",
            "–" if vllm is None else f"{vllm:,.0f}",
        ]
        for peer in (LLAMA, VLLM):
            ratio = ratios.get(peer)
            # Memory is judged by what it takes of the peer's.
            inverse = label.startswith(MEMORY) and ratio is not None
            cells.append(judged(label, peer, "{:.2f}×", 1 / ratio if inverse and ratio else ratio))
        if share:
            beside = OFFLINE if label == HTTP else CEILING
            cells.append(f"{judged(label, beside, '{:.0%}', share[0])} {share[1]}")
        else:
            cells.append("")
        lines.append(f"| {' | '.join(cells)} |")
    starts = comparison.start_s
    ours = [v for n, v in starts.items() if n.startswith("stoker")]
    files = [v for n, v in starts.items() if n.startswith(LLAMA)]
    vllm = next((v for n, v in starts.items() if n.startswith(VLLM)), None)
    cells = [
        START,
        judged(START, SECONDS, "{:.1f}", min(ours, default=None)),
        f"{min(files):.1f}" if files else "–",
        "–" if vllm is None else f"{vllm:.0f}",
    ]
    lines.append(f"| {' | '.join(cells)} | | | |")
    return "\n".join(lines) + "\n"

"""The medians of a comparison as a plot: a panel for each figure, a bar for each engine."""

from __future__ import annotations

from pathlib import Path

from peers import FIRST_TOKEN, HTTP, MEMORY, OFFLINE
from peers_report import Comparison
from peers_targets import LLAMA, VLLM

_LEFT_OUT = (FIRST_TOKEN, MEMORY, HTTP, OFFLINE)
"""Figures that are no rates of all three."""
_COLOURS = {"Stoker": "#d9480f", "llama.cpp": "#495057", "vLLM": "#adb5bd"}
_NAMES = {"decode": "batch", "generate": "whole call,"}


def plot(comparison: Comparison, path: Path, title: str) -> None:
    """Draw rates (`.svg` or `.png` by the name); of llama.cpp the best file, which is named."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["font.family"] = "sans-serif"
    from matplotlib import pyplot

    labels = [x for x in comparison.samples if not x.startswith(_LEFT_OUT)]
    width = max(1.75 * len(labels), 6)
    figure, grid = pyplot.subplots(1, len(labels), figsize=(width, 3.1), squeeze=False)
    for axis, label in zip(grid[0], labels, strict=True):
        bars = _bars(comparison, label)
        values = [value for _, value, _ in bars]
        drawn = axis.bar(
            range(len(bars)), values, width=0.72, color=[_COLOURS[name] for name, _, _ in bars]
        )
        axis.bar_label(drawn, labels=[f"{value:,.0f}" for value in values], padding=2, fontsize=8)
        kind, _, rest = label.partition(" ")
        axis.set_title(f"{_NAMES.get(kind, kind)} {rest.lstrip('×')}", fontsize=10)
        axis.set_xticks(
            range(len(bars)), [f"{name}\n{file}" if file else name for name, _, file in bars]
        )
        axis.tick_params(axis="x", labelsize=7, length=0)
        axis.set_yticks([])
        axis.set_ylim(0, 1.15 * max(values, default=1))
        axis.spines[["top", "right", "left"]].set_visible(False)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    figure.text(0.01, 0.015, "tokens per second, medians; more is better", fontsize=7.5)
    figure.tight_layout(rect=(0, 0.04, 1, 0.99))
    figure.savefig(path, dpi=150, facecolor="white")


def _bars(comparison: Comparison, label: str) -> list[tuple[str, float, str]]:
    """`(engine, tokens per second, of which file)`."""
    medians = comparison.medians(label)
    ours = [value for name, value in medians.items() if name.startswith("stoker")]
    bars = [("Stoker", max(ours), "")] if ours else []
    best = comparison.best_llama(label)
    if best is not None:
        bars.append(("llama.cpp", medians[best], best.removeprefix(LLAMA).strip()))
    theirs = [value for name, value in medians.items() if name.startswith(VLLM)]
    if theirs:
        bars.append(("vLLM", max(theirs), "bf16"))
    return bars

"""How much of the key-value cache holds tokens under mixed load, and what answers share.

    python benchmarks/kv_use.py [--model smollm2] [--requests 64]

Waste is the share of the allocated cells that hold no token: what is left empty in the last
block of each sequence. A block that several sequences share is counted once.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from stoker.engine.config import EngineConfig
from stoker.engine.engine import Engine
from stoker.engine.factory import build_engine
from stoker.engine.sampling_params import BeamSearchParams, RequestOutputKind, SamplingParams

Params = SamplingParams | BeamSearchParams
LONG_PROMPT = 1000


@dataclass(frozen=True)
class Use:
    """The cache at one moment."""

    blocks: int
    cells: int
    filled: int

    @property
    def waste(self) -> float:
        return 1 - self.filled / self.cells if self.cells else 0.0


def use_of(engine: Engine) -> Use:
    """Count the filled cells of every block in use."""
    size = engine.pool.block_size
    filled: dict[int, int] = {}
    for sequence in engine.scheduler.running:
        for i, block in enumerate(sequence.block_table):
            cells = min(size, sequence.num_computed - i * size)
            filled[block] = max(filled.get(block, 0), cells)
    return Use(len(filled), len(filled) * size, sum(filled.values()))


def run(engine: Engine) -> list[Use]:
    """Step to the end; the use after every step."""
    uses = []
    while engine.has_unfinished:
        engine.step()
        uses.append(use_of(engine))
    return uses


def mixed_load(engine: Engine, count: int) -> list[Use]:
    """Requests of many lengths that come one after another while others run."""
    rng = random.Random(1)
    uses = []
    for i in range(count):
        prompt = [rng.randrange(1000, 40000) for _ in range(rng.choice((30, 120, 300, 700)))]
        params = SamplingParams(
            n=rng.choice((1, 1, 1, 2)),
            seed=i,
            ignore_eos=True,
            max_tokens=rng.choice((20, 60, 120, 200)),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        engine.submit(f"mixed {i}", prompt, params)
        engine.step()
        uses.append(use_of(engine))
    return uses + run(engine)


def print_waste(console: Console, uses: list[Use]) -> None:
    peak = max(uses, key=lambda use: use.blocks)
    busy = [use for use in uses if use.blocks * 2 >= peak.blocks]
    table = Table("", "blocks in use", "tokens held", "waste", title="Cache use under mixed load")
    table.add_row("at the peak", str(peak.blocks), str(peak.filled), f"{peak.waste:.2%}")
    mean = Use(0, sum(use.cells for use in busy), sum(use.filled for use in busy))
    table.add_row("mean while at least half full", "", "", f"{mean.waste:.2%}")
    console.print(table)


def print_sharing(console: Console, engine: Engine) -> None:
    rng = random.Random(2)
    size = engine.pool.block_size
    table = Table(
        *("", "blocks at the peak", "without sharing", "saved"),
        title=f"Answers to one prompt of {LONG_PROMPT} tokens, 100 tokens each",
    )
    requests: dict[str, Params] = {
        "n = 4": SamplingParams(n=4, seed=3, max_tokens=100, ignore_eos=True),
        "beam width 4": BeamSearchParams(beam_width=4, max_tokens=100, ignore_eos=True),
    }
    for name, params in requests.items():
        prompt = [rng.randrange(1000, 40000) for _ in range(LONG_PROMPT)]
        engine.submit(name, prompt, params)
        peak = max(use.blocks for use in run(engine))
        alone = 4 * -(-(LONG_PROMPT + 99) // size)
        table.add_row(name, str(peak), str(alone), f"{1 - peak / alone:.0%}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--requests", type=int, default=64)
    arguments = parser.parse_args()
    engine = build_engine(arguments.model, EngineConfig(max_model_len=2048)).engine
    console = Console()
    print_waste(console, mixed_load(engine, arguments.requests))
    print_sharing(console, engine)
    engine.check()
    stats = engine.stats()
    console.print(
        f"afterwards: {stats.num_blocks - stats.num_used_blocks} of {stats.num_blocks} blocks free "
        f"({stats.num_cached_blocks} of them cached prefixes), {stats.num_preemptions} preemptions"
    )
    engine.close()


if __name__ == "__main__":
    main()

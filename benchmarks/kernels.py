"""The matrix products against this machine's ceilings, for each instruction set and weight format.

Builds `benchmarks/native/kernels.cpp` and prints, for the shapes of SmolLM2-135M and of a model
with hidden size 2048: at one row of activations GB/s of weights read and the share of what plainly
reading the same memory reaches; at more rows, GMAC/s and the share of the processor's peak (its
best instruction on registers alone). The three are measured in turns, and medians are printed, so
a busy machine lowers all of them alike.

    python benchmarks/kernels.py                       # the best instruction set, all formats
    python benchmarks/kernels.py --isa avx2 --format q4 --m 1 --m 32
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from ceilings import build

SHAPES = [(576, 576), (192, 576), (1536, 576), (576, 1536), (49152, 576), (2048, 2048),
          (8192, 2048), (2048, 8192)]  # fmt: skip
ISAS = ["portable", "avx2", "avx512", "amx"]


@dataclass(frozen=True, slots=True)
class Case:
    isa: str
    format: str
    rows: int
    cols: int
    m: int
    threads: int


@dataclass(frozen=True, slots=True)
class Result:
    """Medians; `peak_gmac_per_s` is zero where the instruction set has no such instruction."""

    megabytes: float
    seconds: float
    gb_per_s: float
    gmac_per_s: float
    read_gb_per_s: float
    peak_gmac_per_s: float
    rounding_us: float


def measure(program: Path, case: Case, repeats: int) -> Result | None:
    """None when the instruction set cannot run here."""
    # Many copies at one row, as a model's weights would stream; fewer where arithmetic is long.
    megabytes = 256 if case.m == 1 else 64 if case.m <= 32 else 1
    if case.isa == "portable":
        megabytes = 16 if case.m == 1 else 1
    arguments = [case.isa, case.format, case.rows, case.cols, case.m, case.threads]
    done = subprocess.run(
        [program, *map(str, [*arguments, megabytes, repeats])],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 2:
        return None
    done.check_returncode()
    return Result(**json.loads(done.stdout))


def line(case: Case, result: Result) -> str:
    shape = f"{case.cols:5} → {case.rows:5}"
    read = f"{result.gb_per_s:7.1f} GB/s {100 * result.gb_per_s / result.read_gb_per_s:4.0f} %"
    compute = f"{result.gmac_per_s:8.1f} GMAC/s"
    if result.peak_gmac_per_s:
        compute += f" {100 * result.gmac_per_s / result.peak_gmac_per_s:4.0f} %"
    rounding = f"rounding {result.rounding_us:8.1f} µs"
    return f"{case.isa:9} {case.format:5} {shape}  M {case.m:4}  {read}  {compute}  {rounding}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Matrix products against the machine's ceilings.")
    parser.add_argument("--isa", action="append", choices=ISAS, help="default: the best here")
    parser.add_argument("--format", action="append", choices=["q4", "q8", "bf16"])
    parser.add_argument("--m", action="append", type=int, help="rows of activations")
    parser.add_argument("--shape", action="append", help="COLSxROWS, such as 576x1536")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args()
    shapes = SHAPES
    if options.shape:
        shapes = [(int(rows), int(cols)) for cols, rows in (s.split("x") for s in options.shape)]
    program = build()
    isas = options.isa
    if not isas:
        probe = [Case(isa, "q8", 16, 32, 1, 1) for isa in reversed(ISAS)]
        isas = [next(case.isa for case in probe if measure(program, case, 1))]
    print("GB/s: weights read, and the share of plainly reading the same memory.")
    print("GMAC/s: and the share of the peak of the instruction set's best instruction.")
    results: list[dict[str, object]] = []
    for isa in isas:
        for format_ in options.format or ["q4", "q8", "bf16"]:
            for rows, cols in shapes:
                for m in options.m or [1, 8, 32, 512]:
                    case = Case(isa, format_, rows, cols, m, options.threads)
                    result = measure(program, case, options.repeats)
                    if result is None:
                        sys.exit(f"{isa} cannot run on this machine")
                    print(line(case, result), flush=True)
                    results.append(asdict(case) | asdict(result))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What this machine can do at best: reading memory, and multiply-adds on registers alone.

python benchmarks/ceilings.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from stoker import _kernels
from stoker.runner.cpu import default_threads

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Of all threads together; a rate is 0 where there is no instruction to speak of."""

    read_gb_per_s: float
    int8_gmac_per_s: float
    bf16_gmac_per_s: float


def build() -> Path:
    """The program of `benchmarks/native/kernels.cpp`."""
    directory = ROOT / "build" / "kernels"
    options = ["-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}"]
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(directory), *options],
        ["cmake", "--build", str(directory), "--target", "kernel_bench"],
    ):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return directory / "kernel_bench"


def measure(megabytes: float, *, isa: str = "", threads: int = 0, repeats: int = 9) -> Ceilings:
    """The best of `repeats` with the best instruction of `isa` (by default the machine's best)
    on `threads` threads (all), reading `megabytes` over and over."""
    isa = isa or _kernels.available_isas()[-1]
    command = [str(build()), isa, str(threads or default_threads()), str(megabytes), str(repeats)]
    return Ceilings(**json.loads(subprocess.check_output(command, text=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--isa", default="", help="default: the best here")
    parser.add_argument("--threads", type=int, default=0, help="default: all processors")
    arguments = parser.parse_args()
    for megabytes in (1, 8, 32, 64, 128, 256, 512, 1024):
        found = measure(megabytes, isa=arguments.isa, threads=arguments.threads)
        print(f"reading {megabytes:5} MB: {found.read_gb_per_s:6.1f} GB/s")
    print(f"8-bit: {found.int8_gmac_per_s:.0f} GMAC/s, bfloat16: {found.bf16_gmac_per_s:.0f}")


if __name__ == "__main__":
    main()

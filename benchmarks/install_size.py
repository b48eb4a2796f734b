"""What the base install weighs: Stoker and its dependencies in an empty environment.

    python benchmarks/install_size.py

Builds the wheel, installs it with pip into a temporary environment, and sums the sizes of the
files by distribution. `pip` and `setuptools`, which `venv` brings, are not counted. Byte code is
shown by itself: `make serve` lets Python compile what is imported, where `pip install` alone
compiles everything that is installed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import Distribution, distributions
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
BROUGHT_BY_VENV = {"pip", "setuptools"}
SHOWN = 12


def sizes(distribution: Distribution) -> tuple[int, int]:
    """Bytes of a distribution's files: all but byte code, and byte code."""
    plain = compiled = 0
    for name in distribution.files or ():
        path = Path(str(distribution.locate_file(name)))
        if not path.is_file():
            continue
        if path.suffix == ".pyc":
            compiled += path.stat().st_size
        else:
            plain += path.stat().st_size
    return plain, compiled


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as directory:
        environment = Path(directory) / "env"
        with Console(stderr=True).status("installing into an empty environment"):
            venv.create(environment, with_pip=True)
            subprocess.run(
                [environment / "bin" / "pip", "install", "--quiet", str(ROOT)],
                check=True,
                stderr=subprocess.DEVNULL,
            )
        [site] = environment.glob("lib/python*/site-packages")
        rows = sorted(
            (
                (*sizes(found), found.metadata["Name"])
                for found in distributions(path=[str(site)])
                if found.metadata["Name"] not in BROUGHT_BY_VENV
            ),
            reverse=True,
        )
    table = Table(title=f"Stoker's base install on Python {sys.version.split()[0]}, MB (10⁶ bytes)")
    table.add_column("package")
    table.add_column("files", justify="right")
    table.add_column("byte code of everything", justify="right")
    rest = rows[SHOWN:]
    for plain, compiled, name in [
        *rows[:SHOWN],
        (sum(r[0] for r in rest), sum(r[1] for r in rest), f"{len(rest)} others"),
        (sum(r[0] for r in rows), sum(r[1] for r in rows), "together"),
    ]:
        table.add_row(name, f"{plain / 1e6:.1f}", f"{compiled / 1e6:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()

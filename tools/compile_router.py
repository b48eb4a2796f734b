"""Compile the router's request path with mypyc: `python tools/compile_router.py SOURCE OUTPUT`.

SOURCE is `src`; the modules' native twins are left under OUTPUT, in the places where an
installation has them. CMake runs this when STOKER_COMPILED is on (`make compiled`).

The files stay ordinary Python. What mypyc asks of them beyond mypy, and the router's tests find:

- a class is known to the compiler, so none of these files has `msgspec.Struct`, weak references,
  classes made anew (`dataclass(slots=True)`) or fields that only `dataclasses.field` knows;
- the truth of one of these classes is that it is there: whether it is empty is `len`'s to say.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MODULES = (
    *("admission", "dispatcher", "downstream", "exchange", "forwarding"),
    *("long_strings", "metrics", "protocol", "responder", "retries", "settlement", "upstream"),
    *("usage_filter", "wire"),
    *("engines/breaker", "engines/handle", "engines/load", "engines/meter", "engines/tariff"),
    *("ledger/account", "ledger/book", "ledger/keys", "ledger/ledger", "ledger/purse"),
    *("ledger/route", "ledger/window"),
    *("policies/auto", "policies/cache_model", "policies/cost", "policies/kv"),
    *("policies/least_in_flight", "policies/least_work", "policies/moves"),
    *("policies/power_of_two", "policies/prefix", "policies/prompt_blocks", "policies/ring"),
    *("policies/round_robin", "policies/session", "policies/work"),
)
"""What a request passes through, under `stoker/router`."""


def compile_router(source: Path, output: Path) -> None:
    """Raises `CalledProcessError` when mypyc refuses; it has said why."""
    shutil.rmtree(output, ignore_errors=True)
    with tempfile.TemporaryDirectory() as directory:
        # A copy, because mypyc leaves what it makes beside the sources, where it would be imported
        # in their place.
        work = Path(directory) / "src"
        shutil.copytree(source, work, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        files = [f"stoker/router/{module}.py" for module in MODULES]
        subprocess.run(
            [sys.executable, "-m", "mypyc", "--strict", *files],
            cwd=work,
            env={**os.environ, "MYPYPATH": "."},
            check=True,
        )
        shutil.rmtree(work / "build")
        for native in work.rglob("*.so"):
            target = output / native.relative_to(work)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(native, target)


if __name__ == "__main__":
    compile_router(Path(sys.argv[1]), Path(sys.argv[2]))

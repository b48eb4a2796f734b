"""Where the programs that judge a server are: one environment each, made by `make conformance`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def judge(environment: str, program: str) -> str:
    """The path of `program` in one of the environments under `STOKER_JUDGES`; skips without it."""
    judges = Path(os.environ.get("STOKER_JUDGES", ""))
    found = shutil.which(program, path=judges / environment / "bin")
    if found is None:
        pytest.skip(
            f"{program} is not in STOKER_JUDGES/{environment}/bin; make conformance puts it there"
        )
    return found

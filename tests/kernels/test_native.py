"""The kernels' own test, in C++ and under the address and undefined-behaviour sanitizers.

It covers what Python cannot reach: the variants of an instruction set that this processor would
not choose, AMX in software, and reads or writes beyond a buffer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stoker import _kernels

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "sanitize"


def run(*command: str | Path) -> str:
    # A preloaded library would come before the sanitizers' own, which they refuse.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("cmake") is None, reason="building needs cmake")
def test_products_under_the_sanitizers() -> None:
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    options = ["-DSTOKER_SANITIZE=ON", f"-DPython_EXECUTABLE={sys.executable}"]
    run("cmake", "-S", ROOT, "-B", BUILD, *generator, *options)
    run("cmake", "--build", BUILD, "--target", "matmul_test", "--parallel", "2")
    tested = run(BUILD / "matmul_test").splitlines()
    assert "tested: portable" in tested
    if "avx512" in _kernels.available_isas():
        assert {"tested: avx2", "tested: avx512", "tested: amx, emulated"} <= set(tested)

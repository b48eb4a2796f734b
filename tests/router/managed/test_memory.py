"""A process's memory, with that of what it started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from stoker.router.managed.memory import resident_bytes

HOLD = """
import subprocess, sys
block = bytearray(40_000_000)
if len(sys.argv) > 1:
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=sys.stdin)
    child.wait()
else:
    print("there", flush=True)
    sys.stdin.read()
"""


def test_children_count_too() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    found = resident_bytes(process.pid)
    process.communicate()
    assert found is not None
    assert 80_000_000 < found < 400_000_000
    assert resident_bytes(process.pid) is None


def test_without_proc_nothing_can_be_told(tmp_path: Path) -> None:
    assert resident_bytes(os.getpid(), tmp_path) is None

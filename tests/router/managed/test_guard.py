"""Nothing an engine started is left behind, however its parent ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.router.managed import guard

GUARD = [sys.executable, "-I", str(guard.__file__)]
FAMILY = """
import subprocess, sys, signal
{trap}
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
child.wait()
"""


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not happen in 10 s"
        time.sleep(0.01)


def start(program: str, grace: str = "5") -> tuple[subprocess.Popen[str], int]:
    """A guard over a program that has a child of its own: the guard, the grandchild's id."""
    guard = subprocess.Popen(
        [*GUARD, grace, sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert guard.stdout is not None
    return guard, int(guard.stdout.readline())


def finish(guard: subprocess.Popen[str]) -> int:
    for pipe in (guard.stdin, guard.stdout):
        assert pipe is not None
        pipe.close()
    return guard.wait(10)


@pytest.mark.parametrize(
    "trap", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"], ids=["willing", "stubborn"]
)
@pytest.mark.parametrize("how", ["the parent is gone", "SIGTERM"])
def test_the_whole_family_ends(trap: str, how: str) -> None:
    guard, grandchild = start(FAMILY.format(trap=trap), grace="0.2")
    assert running(grandchild)
    if how == "SIGTERM":
        guard.send_signal(signal.SIGTERM)
        status = guard.wait(10)
    else:
        status = finish(guard)
    until(lambda: not running(grandchild))
    assert status == 128 + (signal.SIGKILL if trap else signal.SIGTERM)
    finish(guard)


def test_a_stopped_command_ends_too() -> None:
    program = "import os; print(os.getpid(), flush=True); import time; time.sleep(600)"
    guard, pid = start(program, grace="5")
    os.kill(pid, signal.SIGSTOP)
    assert finish(guard) == 128 + signal.SIGTERM
    until(lambda: not running(pid))


def test_what_a_command_leaves_behind_is_ended_with_it() -> None:
    guard, grandchild = start(FAMILY.format(trap="").replace("child.wait()", "sys.exit(7)"))
    assert guard.wait(10) == 7
    until(lambda: not running(grandchild))
    finish(guard)


def test_a_command_that_is_not_there() -> None:
    result = subprocess.run(
        [*GUARD, "1", "/no/such/program"], stdin=subprocess.PIPE, capture_output=True, check=False
    )
    assert result.returncode == 127
    assert result.stderr == b"cannot start /no/such/program: No such file or directory\n"

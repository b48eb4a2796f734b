"""Runs one command and takes it down with the process that asked for it.

    python guard.py GRACE COMMAND…

Standard input is a pipe that the parent holds and never writes to. When it closes, however the
parent ended (kill -9 too), the command's whole process group is asked to stop and, after GRACE
seconds, killed: nothing it started is left behind. SIGTERM does the same. Exits with the
command's status, or 128 + the signal that ended it. Knows nothing of Stoker, so that it starts
in a few milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time


def main(arguments: list[str]) -> int:
    """Run until the command or the parent ends; the exit status."""
    grace, command = float(arguments[0]), arguments[1:]
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(f"cannot start {command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    while child.poll() is None:
        ready, _, _ = select.select([sys.stdin.fileno(), wake], [], [])
        asked = wake in ready and any(
            number in (signal.SIGTERM, signal.SIGINT) for number in os.read(wake, 64)
        )
        if asked or (sys.stdin.fileno() in ready and not os.read(sys.stdin.fileno(), 1)):
            stop(child, grace)
    # Also when it ended by itself: what it started must not outlive it.
    signal_group(child, signal.SIGKILL)
    status = child.returncode
    return 128 - status if status < 0 else status


def stop(child: subprocess.Popen[bytes], grace: float) -> None:
    """Ask the group to stop, then kill it."""
    signal_group(child, signal.SIGTERM)
    signal_group(child, signal.SIGCONT)  # a stopped process would never see the other
    end = time.monotonic() + grace
    while child.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    signal_group(child, signal.SIGKILL)
    child.wait()


def signal_group(child: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

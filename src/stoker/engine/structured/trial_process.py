"""The process in which new grammars are tried before they are compiled; see `trial`."""

from __future__ import annotations

import atexit
import json
import select
import subprocess
import sys
import threading
from pathlib import Path

WALL_SECONDS = 60.0
"""The backstop for a process that neither computes nor answers."""
TOO_MUCH = "compiling it takes too much time or memory"

_PROGRAM = Path(__file__).with_name("trial.py")


class TrialProcess:
    """Started when first needed, and again whenever a grammar was too much for it."""

    def __init__(self, setting: str) -> None:
        """`setting`: limits and vocabulary as JSON, as `trial` reads them."""
        self._setting = setting
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def refusal(self, source: str) -> str:
        """Why a grammar cannot be compiled; empty if it can."""
        with self._lock:
            process = self._process or self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            line = b""
            try:
                process.stdin.write(_message(source))
                process.stdin.flush()
                if select.select([process.stdout], [], [], WALL_SECONDS)[0]:
                    line = process.stdout.readline()
            except BrokenPipeError:
                pass
            if not line:
                self._stop()
                return TOO_MUCH
        refusal: str = json.loads(line)
        return refusal

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._stop()

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(_message(self._setting))
        return self._process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def _message(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(4, "little") + data


_shared: dict[str, TrialProcess] = {}
_lock = threading.Lock()


def trial_process(setting: str) -> TrialProcess:
    """The process for a setting: one, for however many engines."""
    with _lock:
        found = _shared.get(setting)
        if found is None:
            found = _shared[setting] = TrialProcess(setting)
            atexit.register(found.close)
        return found

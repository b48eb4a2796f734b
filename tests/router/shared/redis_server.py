"""A real Redis."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path


class RedisServer:
    """A real server that can be killed and started again."""

    def __init__(self, program: str, directory: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]
        self._command = [
            *(program, "--port", str(self._port), "--bind", "127.0.0.1"),
            *("--save", "", "--dir", str(directory)),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def pause(self) -> None:
        """It takes questions in, and answers none."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

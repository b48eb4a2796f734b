"""A real Redis."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path

from stoker.router.managed.commands import free_port

PATIENCE_S = 60.0


class RedisServer:
    """A real server that can be killed and started again."""

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self._directory = directory
        self._log = directory / "redis.log"
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        assert self._port is not None
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Start it and wait until it takes connections; at the port that it had before."""
        if self._port is not None:
            assert self._listens(self._port), self._log.read_text()
            return
        for _ in range(5):  # somebody else may take the port first
            port = free_port()
            if self._listens(port):
                self._port = port
                return
        raise AssertionError(self._log.read_text())

    def _listens(self, port: int) -> bool:
        """Start it at `port`; false when it ends instead of answering there."""
        command = [
            *(self._program, "--port", str(port), "--bind", "127.0.0.1"),
            *("--save", "", "--dir", str(self._directory)),
        ]
        with self._log.open("ab") as log:
            process = self._process = subprocess.Popen(command, stdout=log, stderr=log)
        end = time.monotonic() + PATIENCE_S
        while process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as probe:
                    probe.sendall(b"PING\r\n")
                    if probe.recv(16) == b"+PONG\r\n":
                        return True
            except ConnectionRefusedError:
                pass
            assert time.monotonic() < end, "redis-server does not listen"
            time.sleep(0.01)
        return False

    def pause(self) -> None:
        """It takes questions in, and answers none."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

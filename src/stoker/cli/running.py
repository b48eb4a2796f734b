"""Which servers run on this machine: each has a small file while it runs.

The files are in `running/` of Stoker's home. One whose process is gone, or whose number another
process has now, is left over from a server that was killed, and is removed by who finds it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

log = logging.getLogger(__name__)


class Server(BaseModel):
    """A server that runs here."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["server", "router"]
    url: str
    """Where it listens, as it was told."""
    models: tuple[str, ...]
    pid: int
    since: float
    """When it was started, in seconds since 1970."""
    process: str
    """Tells its process from every other, of this machine or another, now or later."""

    @property
    def local_url(self) -> str:
        """Where it can be asked from here."""
        return from_here(self.url)


def from_here(url: str) -> str:
    """Where a server on this machine can be asked: one that listens everywhere listens here too."""
    parts = urlsplit(url)
    return f"http://127.0.0.1:{parts.port}" if parts.hostname in ("0.0.0.0", "::") else url


@contextmanager
def announced(
    kind: Literal["server", "router"], url: str, models: tuple[str, ...]
) -> Iterator[None]:
    """Within: `stoker ps` knows of this server. Where the file cannot be written, it does not."""
    pid = os.getpid()
    server = Server(
        kind=kind, url=url, models=models, pid=pid, since=time.time(), process=_process(pid) or ""
    )
    path = folder() / f"{pid}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(server.model_dump_json(), "utf-8")
        part.replace(path)
    except OSError as error:
        log.debug("stoker ps will not show this server: %s", error)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()


def servers() -> list[Server]:
    """The servers that run here, the oldest first."""
    found = []
    for path in folder().glob("*.json"):
        try:
            server = Server.model_validate_json(path.read_text("utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValidationError, UnicodeDecodeError) as error:
            log.debug("%s is no server's file: %s", path, error)
            continue
        if not server.process or server.process == _process(server.pid):
            found.append(server)
        elif _is_of_this_machine(server.process):
            with suppress(OSError):
                path.unlink()
    return sorted(found, key=lambda server: (server.since, server.pid))


def folder() -> Path:
    """Where the files are."""
    from stoker.model.store.store import default_home

    return default_home() / "running"


def _process(pid: int) -> str | None:
    """The machine's boot and the process's start, in ticks since then; None when it is gone."""
    try:
        # The name of the program, in parentheses, may hold anything; the 20th field after it is
        # the start (proc(5)).
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] in ("Z", "X"):  # ended, and only its parent does not know yet
        return None
    return f"{_boot_id()}:{fields[19]}"


def _is_of_this_machine(process: str) -> bool:
    """Whether a process of that name could only run here."""
    return process.partition(":")[0] == _boot_id()


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""

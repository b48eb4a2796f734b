"""Who a router is, so that others can tell whether it still runs."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path


def holder_name() -> str:
    """A name for this process that no other has, now or later."""
    name = f"{_machine()}/{os.getpid()}/{os.urandom(8).hex()}"
    _own.add(name)
    return name


def is_dead(holder: str) -> bool:
    """Whether a holder is known to run no longer: a process of this machine that has ended. Of
    others nothing is known here."""
    machine, pid, _ = holder.rsplit("/", 2)
    if machine != _machine():
        return False
    if int(pid) == os.getpid():
        return holder not in _own  # its number has been given to this process
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


_own: set[str] = set()
"""The names given out in this process."""


@cache
def _machine() -> str:
    """Where process numbers mean the same: one boot of one kernel, one namespace of processes."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"

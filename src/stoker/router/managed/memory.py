"""How much memory a process and those it started have, as /proc tells."""

from __future__ import annotations

import os
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pid: int, proc: Path = Path("/proc")) -> int | None:
    """The resident memory of a process and all that descend from it; None where it cannot be
    told. What they share is counted once for each."""
    total, found, left = 0, False, [pid]
    while left:
        one = left.pop()
        try:
            pages = int((proc / str(one) / "statm").read_text().split()[1])
            threads = list((proc / str(one) / "task").iterdir())
        except (OSError, ValueError, IndexError):
            continue  # it has ended, or this system has no /proc
        total, found = total + pages * _PAGE, True
        for thread in threads:
            try:
                left += map(int, (thread / "children").read_text().split())
            except (OSError, ValueError):
                continue
    return total if found else None

"""How much memory this process may still take: the machine's, or what its containers allow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True, slots=True)
class FreeMemory:
    """Memory that can be taken, and what bounds it."""

    nbytes: int
    bound: str
    """`machine` or `container`."""


def free_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> FreeMemory:
    """What is free on the machine, or less where a control group limits this process.

    A group's reclaimable file cache counts as free, as it does for the machine.
    """
    free = FreeMemory(_meminfo(proc / "meminfo")["MemAvailable"], "machine")
    for directory in _groups(proc / "self" / "cgroup", cgroups):
        room = _room(directory)
        if room is not None and room < free.nbytes:
            free = FreeMemory(room, "container")
    return free


def _meminfo(path: Path) -> dict[str, int]:
    sizes = {}
    for line in path.read_text().splitlines():
        name, _, rest = line.partition(":")
        number = rest.split()[0] if rest.split() else "0"
        sizes[name] = int(number) * (1024 if rest.endswith("kB") else 1)
    return sizes


def _groups(membership: Path, root: Path) -> list[Path]:
    """The directories of the memory groups this process is in, ancestors included.

    Version 2 has one hierarchy (`0::/path`); version 1 one for memory (`n:memory:/path`).
    """
    if not membership.exists():
        return []
    directories = []
    for line in membership.read_text().splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers not in ("", "memory"):
            continue
        top = root / controllers if controllers else root
        inner = PurePosixPath(path.lstrip("/"))
        # Inside a container the path is often the host's; then only the root is there.
        directories += [top / part for part in (inner, *inner.parents) if (top / part).is_dir()]
    return directories


def _room(directory: Path) -> int | None:
    """Bytes a group may still take; None without a limit."""
    for limit_file, usage_file in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limit = _number(directory / limit_file)
        usage = _number(directory / usage_file)
        if limit is not None and usage is not None:
            return max(limit - usage + _reclaimable(directory / "memory.stat"), 0)
    return None


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _reclaimable(path: Path) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    fields = dict(line.split()[:2] for line in lines if len(line.split()) >= 2)
    return int(fields.get("inactive_file", 0))

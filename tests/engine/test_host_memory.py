"""Free memory, read from files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoker.engine.host_memory import FreeMemory, free_memory

GB = 2**30


class Host:
    """A /proc and a /sys/fs/cgroup of our own."""

    def __init__(self, root: Path, available: int = 16 * GB) -> None:
        self.proc, self.cgroups = root / "proc", root / "cgroup"
        self.write(
            self.proc / "meminfo",
            f"MemTotal:       {32 * GB // 1024} kB\nMemAvailable:   {available // 1024} kB\n"
            "HugePages_Total:       0\n",
        )

    @staticmethod
    def write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def group(self, path: str, membership: str, **files: str) -> None:
        self.write(self.proc / "self" / "cgroup", membership)
        for name, text in files.items():
            self.write(self.cgroups / path / name.replace("__", "."), text)

    def free(self) -> FreeMemory:
        return free_memory(self.proc, self.cgroups)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_without_control_groups_it_is_what_the_machine_has(host: Host) -> None:
    assert host.free() == FreeMemory(16 * GB, "machine")


def test_a_version_2_group_bounds_it(host: Host) -> None:
    host.group(
        "pod/box",
        "0::/pod/box\n",
        memory__max=f"{4 * GB}\n",
        memory__current=f"{3 * GB}\n",
        memory__stat=f"anon 1\ninactive_file {GB}\n",
    )
    assert host.free() == FreeMemory(2 * GB, "container")


def test_so_does_a_group_above_it(host: Host) -> None:
    host.group("pod/box", "0::/pod/box\n", memory__max="max\n", memory__current="5\n")
    host.group("pod", "0::/pod/box\n", memory__max=f"{GB}\n", memory__current="0\n")
    assert host.free() == FreeMemory(GB, "container")


def test_a_group_with_more_room_than_the_machine_does_not(host: Host) -> None:
    host.group("a", "0::/a\n", memory__max=f"{64 * GB}\n", memory__current="0\n")
    assert host.free() == FreeMemory(16 * GB, "machine")


def test_a_path_that_is_the_hosts_leads_to_the_root(host: Host) -> None:
    host.group("", "0::/docker/abc\n", memory__max=f"{GB}\n", memory__current="0\n")
    assert host.free() == FreeMemory(GB, "container")


def test_a_version_1_group_bounds_it(host: Host) -> None:
    host.group(
        "memory/box",
        "5:cpu,cpuacct:/box\n4:memory:/box\n",
        memory__limit_in_bytes=f"{2 * GB}\n",
        memory__usage_in_bytes=f"{GB}\n",
    )
    assert host.free() == FreeMemory(GB, "container")


def test_a_group_that_is_over_its_limit_has_no_room(host: Host) -> None:
    host.group("a", "0::/a\n", memory__max="100\n", memory__current="200\n")
    assert host.free() == FreeMemory(0, "container")


def test_this_machine_has_memory() -> None:
    assert free_memory().nbytes > 0

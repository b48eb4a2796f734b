"""Facts of a machine, from the files that a kernel has them in."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoker.cli.collect_env import machine

CPU = """\
processor\t: {0}
model name\t: Some CPU @ 3 GHz
physical id\t: {1}
core id\t\t: {2}
flags\t\t: fpu sse4_2 avx2 avx512f amx_int8 fma avx512_vnni
"""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_processors(tmp_path: Path) -> None:
    places = [(0, 0, 0), (1, 0, 1), (2, 1, 0), (3, 1, 0)]
    write(tmp_path / "proc/cpuinfo", "\n".join(CPU.format(*place) for place in places))
    write(tmp_path / "proc/self/cgroup", "0::/a/b\n")
    write(tmp_path / "cg/a/cpu.max", "150000 100000\n")
    write(tmp_path / "cg/a/b/cpu.max", "max 100000\n")
    (tmp_path / "sys/devices/system/node/node0").mkdir(parents=True)
    (tmp_path / "sys/devices/system/node/node1").mkdir()
    write(tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n")
    found = machine.processors(tmp_path / "proc", tmp_path / "sys", tmp_path / "cg")
    assert found.model == "Some CPU @ 3 GHz"
    assert (found.logical, found.cores, found.sockets, found.numa_nodes) == (4, 3, 2, 2)
    assert found.flags == ("sse4_2", "fma", "avx2", "avx512f", "avx512_vnni", "amx_int8")
    assert found.cgroup_limit == 1.5
    assert found.governor == "powersave"
    assert found.usable >= 1


def test_version_1_of_control_groups(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "5:cpu,cpuacct:/x\n3:memory:/y\n")
    write(tmp_path / "cg/cpu,cpuacct/x/cpu.cfs_quota_us", "200000\n")
    write(tmp_path / "cg/cpu,cpuacct/x/cpu.cfs_period_us", "100000\n")
    write(tmp_path / "cg/cpu,cpuacct/cpu.cfs_quota_us", "-1\n")
    write(tmp_path / "cg/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    found = machine.processors(tmp_path / "proc", tmp_path, tmp_path / "cg")
    assert found.cgroup_limit == 2.0


def test_nothing_is_known(tmp_path: Path) -> None:
    found = machine.processors(tmp_path, tmp_path, tmp_path)
    assert (found.model, found.cores, found.cgroup_limit, found.flags) == (None, None, None, ())
    memory = machine.memory(tmp_path, tmp_path)
    assert (memory.total, memory.usable, memory.huge_pages) == (None, None, None)


def test_memory(tmp_path: Path) -> None:
    text = "MemTotal:       2048 kB\nMemAvailable:   1024 kB\nSwapTotal:  0 kB\n"
    write(tmp_path / "proc/meminfo", text)
    write(tmp_path / "sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")
    found = machine.memory(tmp_path / "proc", tmp_path / "sys")
    assert (found.total, found.available, found.swap) == (2 * 2**20, 2**20, 0)
    assert found.usable == 2**20
    assert found.usable_bound == "machine"
    assert found.huge_pages == "madvise"


def test_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpus() == []
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'name, memory'\necho 'H100, 81559 MiB, 550.1'\n")
    program.chmod(0o755)
    assert machine.gpus() == ["H100, 81559 MiB, 550.1"]
    program.write_text("#!/bin/sh\necho broken\nexit 9\n")
    assert machine.gpus() == []

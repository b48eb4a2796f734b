"""The system, the processors, the memory, the GPUs."""

from __future__ import annotations

import os
import platform
import resource
from dataclasses import dataclass
from pathlib import Path

from stoker.cli.collect_env.programs import output_of

_FLAGS = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni"),
    *("avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
"""Those that matter to the kernels."""


@dataclass(frozen=True, slots=True)
class System:
    os: str
    kernel: str
    machine: str
    libc: str
    container: str | None
    """Which kind of container this is in, as far as it shows."""
    open_files: int
    """How many this process may have open."""


@dataclass(frozen=True, slots=True)
class Processors:
    model: str | None
    logical: int | None
    cores: int | None
    sockets: int | None
    numa_nodes: int | None
    usable: int
    """Those this process may run on."""
    cgroup_limit: float | None
    """Processors' worth of time that its container may use."""
    flags: tuple[str, ...]
    governor: str | None


@dataclass(frozen=True, slots=True)
class Memory:
    total: int | None
    available: int | None
    usable: int | None
    """What this process may still take, as the memory plan sees it."""
    usable_bound: str | None
    """`machine` or `container`: what bounds that."""
    swap: int | None
    huge_pages: str | None
    """When the kernel backs memory with huge pages."""


def system() -> System:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    return System(
        os=release.get("PRETTY_NAME") or platform.system(),
        kernel=platform.release(),
        machine=platform.machine(),
        libc=" ".join(platform.libc_ver()).strip(),
        container=_container(),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    )


def processors(
    proc: Path = Path("/proc"), sys: Path = Path("/sys"), cgroups: Path = Path("/sys/fs/cgroup")
) -> Processors:
    blocks = [_fields(block) for block in (_read(proc / "cpuinfo") or "").split("\n\n")]
    blocks = [block for block in blocks if "processor" in block]
    first = blocks[0] if blocks else {}
    cores = {(block.get("physical id"), block.get("core id")) for block in blocks}
    known = {*(first.get("flags") or first.get("Features") or "").split()}
    nodes = [*(sys / "devices/system/node").glob("node[0-9]*")]
    return Processors(
        model=first.get("model name"),
        logical=len(blocks) or os.cpu_count(),
        cores=len(cores) if "core id" in first else None,
        sockets=len({block["physical id"] for block in blocks}) if "physical id" in first else None,
        numa_nodes=len(nodes) or None,
        usable=len(os.sched_getaffinity(0)),
        cgroup_limit=_cpu_limit(proc / "self/cgroup", cgroups),
        flags=tuple(flag for flag in _FLAGS if flag in known),
        governor=_read(sys / "devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    )


def memory(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Memory:
    from stoker.engine.host_memory import free_memory

    sizes = _fields(_read(proc / "meminfo") or "")

    def size(name: str) -> int | None:
        number = sizes.get(name, "").removesuffix(" kB")
        return int(number) * 1024 if number.isdigit() else None

    free = free_memory(proc) if size("MemAvailable") is not None else None
    choice = _read(sys / "kernel/mm/transparent_hugepage/enabled") or ""
    return Memory(
        total=size("MemTotal"),
        available=size("MemAvailable"),
        usable=None if free is None else free.nbytes,
        usable_bound=None if free is None else free.bound,
        swap=size("SwapTotal"),
        huge_pages=choice.partition("[")[2].partition("]")[0] or None,
    )


def gpus() -> list[str]:
    """A line for each NVIDIA GPU: name, memory, driver."""
    told = output_of("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv")
    return [line.strip() for line in (told or "").splitlines()[1:] if line.strip()]


def _cpu_limit(membership: Path, cgroups: Path) -> float | None:
    """The tightest quota of the control groups that this process is in."""
    limits = []
    for line in (_read(membership) or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = cgroups / controllers if controllers else cgroups
        inner = Path(path.lstrip("/"))
        limits += [_quota(top / part) for part in (inner, *inner.parents)]
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


def _quota(directory: Path) -> float | None:
    """Quota ÷ period; version 2 has both in one file, version 1 in two."""
    words = (_read(directory / "cpu.max") or "").split() or [
        _read(directory / "cpu.cfs_quota_us") or "",
        _read(directory / "cpu.cfs_period_us") or "",
    ]
    if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
        return int(words[0]) / int(words[1])
    return None


def _container() -> str | None:
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    return "kubernetes" if "KUBERNETES_SERVICE_HOST" in os.environ else None


def _fields(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return None

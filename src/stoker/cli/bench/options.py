"""What the benchmarks of the engine by itself have in common: its settings, and their result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stoker.errors import StokerError

if TYPE_CHECKING:
    from stoker.engine.config import EngineConfig

_ENGINE = "Engine"

Model = Annotated[str, typer.Option(help="smollm2, hf:org/repo, hf:org/repo:file.gguf, or a path.")]
OutputJson = Annotated[Path | None, typer.Option(help="File for the result as JSON.")]
MaxModelLen = Annotated[
    int | None, typer.Option(help="Longest prompt plus answer.", rich_help_panel=_ENGINE)
]
MaxNumSeqs = Annotated[
    int | None, typer.Option(help="Sequences running at once.", rich_help_panel=_ENGINE)
]
MaxNumBatchedTokens = Annotated[
    int | None, typer.Option(help="Tokens per step.", rich_help_panel=_ENGINE)
]
KVCacheDtype = Annotated[
    str | None, typer.Option(help="auto, bfloat16, float32 or int8.", rich_help_panel=_ENGINE)
]
WeightFormat = Annotated[
    str | None,
    typer.Option(
        "--weight-format",
        "--quantization",
        help="auto, q4, q8 or bf16.",
        rich_help_panel=_ENGINE,
    ),
]
Threads = Annotated[int | None, typer.Option(help="Threads.", rich_help_panel=_ENGINE)]
Isa = Annotated[str | None, typer.Option(help="Instruction set.", rich_help_panel=_ENGINE)]


def engine_config(settings: Mapping[str, Any]) -> EngineConfig:
    """The engine's settings, of those that were given, without a limit on waiting requests."""
    from stoker.engine.config import EngineConfig

    given = {name: value for name, value in settings.items() if value is not None}
    return EngineConfig.from_mapping({"max_waiting_requests": 0, "seed": 0} | given)


def write_json(path: Path | None, result: Mapping[str, Any]) -> None:
    """Save a result, if it is wanted. Raises `StokerError` when it cannot be."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=4) + "\n", "utf-8")
    except OSError as error:
        raise StokerError(f"{path} cannot be written: {error.strerror or error}") from None
    typer.echo(f"Result written to {path}", err=True)

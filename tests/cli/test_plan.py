"""`stoker plan`, as a person types it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from stoker.cli.main import app
from stoker.errors import InvalidRequest, MemoryPlanError, ModelNotFound

MODEL = str(Path(__file__).parents[1] / "golden" / "llama3.gguf")


def plan(*arguments: str) -> str:
    """What the command prints; its error is raised."""
    result = CliRunner().invoke(app, ["plan", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_the_table() -> None:
    printed = plan(MODEL, "--max-model-len", "48", "--kv-cache-memory-bytes", "100000")
    for text in ("llama3.gguf", "weights", "keys and values", "activations", "free", "48 tokens"):
        assert text in printed


def test_what_does_not_fit_is_an_error_with_the_flag() -> None:
    with pytest.raises(MemoryPlanError, match="--max-model-len"):
        plan(MODEL, "--kv-cache-memory-bytes", "9000")
    with pytest.raises(MemoryPlanError, match="made for 64 tokens"):
        plan(MODEL, "--max-model-len", "65")


def test_a_wrong_flag_and_an_unknown_model() -> None:
    with pytest.raises(InvalidRequest, match="kv_cache_dtype"):
        plan(MODEL, "--kv-cache-dtype", "fp8")
    with pytest.raises(ModelNotFound, match="no model 'nothing'"):
        plan("nothing")

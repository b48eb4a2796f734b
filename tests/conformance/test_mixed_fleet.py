"""SmolLM2 on our engine, on llama.cpp and on vLLM at once, behind one address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.fleet import running, survives_everything

from .peers import llama_cpp, vllm

pytestmark = pytest.mark.conformance

NATIVE: dict[str, Any] = {
    "name": "ours",
    "kind": "native",
    "model": "smollm2",
    "args": ["--max-model-len", "2048"],
}


async def test_with_llama_cpp(tmp_path: Path) -> None:
    with running(tmp_path, [NATIVE, llama_cpp()], patience=120) as fleet:
        await survives_everything(fleet, "smollm2", tokens=1200)


async def test_with_llama_cpp_and_vllm(tmp_path: Path) -> None:
    with running(tmp_path, [NATIVE, llama_cpp(), vllm()], patience=300) as fleet:
        await survives_everything(fleet, "smollm2", tokens=800)

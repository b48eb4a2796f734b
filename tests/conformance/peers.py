"""Engines that we did not write, as `stoker up` starts them with SmolLM2.

`STOKER_LLAMA_SERVER` names a `llama-server` that is not on PATH; `STOKER_VLLM_PYTHON` the Python
of an environment with vLLM, `STOKER_SMOLLM2` the model's directory, for vLLM without a network.
"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from typing import Any

import pytest


def llama_cpp() -> dict[str, Any]:
    program = os.environ.get("STOKER_LLAMA_SERVER") or shutil.which("llama-server")
    if program is None and find_spec("xllamacpp") is None:
        pytest.skip(
            "no llama.cpp here: put llama-server on PATH, name it with STOKER_LLAMA_SERVER, or "
            "`pip install xllamacpp`"
        )
    engine: dict[str, Any] = {"name": "llama", "kind": "llama_cpp", "model": "smollm2"}
    engine["args"] = ["--ctx-size", "8192", "--parallel", "4", "--threads", "2"]
    return engine | ({"executable": program} if program else {})


def vllm() -> dict[str, Any]:
    program = os.environ.get("STOKER_VLLM_PYTHON") or shutil.which("vllm")
    if program is None:
        pytest.skip("no vLLM here: name its environment's Python with STOKER_VLLM_PYTHON")
    return {
        "name": "vllm",
        "kind": "vllm",
        "executable": program,
        "model": os.environ.get("STOKER_SMOLLM2", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        "models": ["smollm2"],
        "args": ["--max-model-len", "2048", "--enforce-eager", "--max-num-seqs", "8"],
        "env": {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"},
    }

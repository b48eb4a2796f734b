"""Stoker: open language models behind one OpenAI-compatible address.

`from stoker import LLM, SamplingParams` is all that a script needs; what is imported here is
loaded when it is first used, so `import stoker` itself costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stoker.engine.llm import LLM as LLM
    from stoker.engine.outputs import BeamSearchOutput as BeamSearchOutput
    from stoker.engine.outputs import CompletionOutput as CompletionOutput
    from stoker.engine.outputs import RequestOutput as RequestOutput
    from stoker.engine.prompts import PromptType as PromptType
    from stoker.engine.prompts import TextPrompt as TextPrompt
    from stoker.engine.prompts import TokensPrompt as TokensPrompt
    from stoker.engine.sampling_params import BeamSearchParams as BeamSearchParams
    from stoker.engine.sampling_params import SamplingParams as SamplingParams
    from stoker.engine.sampling_params import StructuredOutputsParams as StructuredOutputsParams

__version__ = "0.1.0"

_HOMES = {
    "LLM": "llm",
    "BeamSearchOutput": "outputs",
    "CompletionOutput": "outputs",
    "RequestOutput": "outputs",
    "PromptType": "prompts",
    "TextPrompt": "prompts",
    "TokensPrompt": "prompts",
    "BeamSearchParams": "sampling_params",
    "SamplingParams": "sampling_params",
    "StructuredOutputsParams": "sampling_params",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stoker' has no attribute {name!r}")
    return getattr(import_module(f"stoker.engine.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

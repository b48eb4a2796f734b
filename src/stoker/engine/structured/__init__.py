"""Structured output: grammars that say which tokens may come next.

`source` checks what a request asks for and writes it in the notation of llguidance; `backend`
compiles that once and keeps it; `matcher` follows one answer through it, and `mask_pool` fills
the masks of the next step while the model runs. `gbnf` and `gbnf_to_lark` read llama.cpp's
grammars.
"""

from stoker.engine.structured.backend import GrammarBackend
from stoker.engine.structured.mask_pool import MaskPool
from stoker.engine.structured.matcher import Grammar, Matcher

__all__ = ["Grammar", "GrammarBackend", "MaskPool", "Matcher"]

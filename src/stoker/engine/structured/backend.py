"""Grammars compiled for one vocabulary, once each."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import cast

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from stoker.engine.sampling_params import StructuredOutputsParams
from stoker.engine.structured.matcher import Grammar, explain
from stoker.engine.structured.source import grammar_source
from stoker.engine.structured.vocabulary import TokenTable
from stoker.model.tokenizer import Tokenizer

CACHED_GRAMMARS = 128

_LIMITS = LLParserLimits(
    max_items_in_row=20_000,  # an object of 2000 optional properties needs 8000
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=50_000,  # one to two kilobytes each
    max_grammar_size=500_000,
    verbose_errors=False,
)
"""Bounds on the work and memory of one grammar, in llguidance's units."""


class GrammarBackend:
    """Compiles grammars for a model's vocabulary. Threads may share it."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """`vocab_size`: logits of the model, which may be more than the tokenizer has tokens."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._num_words = -(-vocab_size // 32)
        self._lock = threading.Lock()
        self._table: LLTokenizer | None = None
        self._cache: OrderedDict[str, Grammar] = OrderedDict()

    def compile(self, params: StructuredOutputsParams) -> Grammar:
        """The grammar that `params` stands for, from the cache if it was asked for before.

        The first call prepares the vocabulary, which takes some tenths of a second.

        Raises:
            InvalidRequest: naming the field of `structured_outputs` that is wrong, and why.
        """
        source = grammar_source(params, self._tokenizer)
        with self._lock:
            grammar = self._cache.get(source)
            if grammar is not None:
                self._cache.move_to_end(source)
                return grammar
        grammar = self._compile(params, source)
        with self._lock:
            self._cache[source] = grammar
            if len(self._cache) > CACHED_GRAMMARS:
                self._cache.popitem(last=False)
        return grammar

    def _compile(self, params: StructuredOutputsParams, source: str) -> Grammar:
        matcher = LLMatcher(self._prepared_table(), source, log_level=0, limits=_LIMITS)
        mask = np.zeros(self._num_words, np.uint32)
        if not matcher.is_error():
            matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if matcher.is_error():
            raise params.refused(_reason(matcher))
        return Grammar(matcher, mask)

    def _prepared_table(self) -> LLTokenizer:
        with self._lock:
            if self._table is None:
                table = TokenTable(self._tokenizer, self._vocab_size)
                self._table = LLTokenizer(cast("TokenizerWrapper", table), eos_token=table.end_ids)
            return self._table


def _reason(matcher: LLMatcher) -> str:
    reason = explain(matcher)
    if matcher.stop_reason() in ("NoExtension", "NoExtensionBias") or "NoExtension" in reason:
        return "no text at all matches it"
    if reason.startswith("panic"):
        return "it is too large"
    return reason

"""Grammars compiled for one vocabulary, once each."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import cast

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from stoker.engine.sampling_params import StructuredOutputsParams
from stoker.engine.structured.matcher import Grammar, in_one_line
from stoker.engine.structured.source import grammar_source
from stoker.engine.structured.trial_process import TrialProcess, trial_process
from stoker.engine.structured.vocabulary import TokenTable
from stoker.model.tokenizer import Tokenizer

CACHED_GRAMMARS = 128

LIMITS: dict[str, int | bool] = {
    "max_items_in_row": 20_000,  # an object of 2000 optional properties needs 8000
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_lexer_states": 50_000,  # one to two kilobytes each
    "max_grammar_size": 500_000,
    "verbose_errors": False,
}
"""Bounds on the work and memory of one grammar, in llguidance's units."""


class GrammarBackend:
    """Compiles grammars for a model's vocabulary. Threads may share it."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """`vocab_size`: logits of the model, which may be more than the tokenizer has tokens."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._num_words = -(-vocab_size // 32)
        self._lock = threading.Lock()
        self._prepared: tuple[LLTokenizer, TrialProcess] | None = None
        self._cache: OrderedDict[str, Grammar] = OrderedDict()

    def compile(self, params: StructuredOutputsParams) -> Grammar:
        """The grammar that `params` stands for, from the cache if it was asked for before.

        The first call prepares the vocabulary and starts the trial process, which takes some
        tenths of a second.

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
        tokenizer, trial = self._prepare()
        refusal = trial.refusal(source)
        if refusal:
            raise params.refused(_plainly(refusal))
        limits = LLParserLimits(**LIMITS)  # type: ignore[arg-type]
        matcher = LLMatcher(tokenizer, source, log_level=0, limits=limits)
        mask = np.zeros(self._num_words, np.uint32)
        matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if matcher.is_error():
            raise params.refused(_plainly(matcher.get_error()))
        return Grammar(matcher, mask)

    def _prepare(self) -> tuple[LLTokenizer, TrialProcess]:
        with self._lock:
            if self._prepared is None:
                table = TokenTable(self._tokenizer, self._vocab_size)
                trial = trial_process(table.trial_setting(LIMITS))
                tokenizer = LLTokenizer(cast("TokenizerWrapper", table), eos_token=table.end_ids)
                self._prepared = tokenizer, trial
            return self._prepared


def _plainly(error: str) -> str:
    if "NoExtension" in error:
        return "no text at all matches it"
    if error.startswith("panic"):
        return "it is too large"
    return in_one_line(error)

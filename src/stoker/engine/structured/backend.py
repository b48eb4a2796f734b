"""Grammars compiled for one vocabulary."""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections import OrderedDict
from typing import cast

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from stoker.engine.sampling_params import StructuredOutputsParams
from stoker.engine.structured.matcher import Grammar, in_one_line
from stoker.engine.structured.source import grammar_source
from stoker.engine.structured.trial_process import Trial, TrialProcess, trial_process
from stoker.engine.structured.vocabulary import TokenTable
from stoker.errors import EngineOverloaded
from stoker.model.tokenizer import Tokenizer

CACHED_TRIALS = 1024
MAX_GRAMMAR_BYTES = 64 * 2**20
MAX_LIVE_BYTES = 2**30
"""What all grammars in use may take together; then requests must wait for others to end."""
_LEAST_BYTES = 2**16
"""What the smallest grammar counts for."""

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
        self._trials: OrderedDict[bytes, Trial] = OrderedDict()
        # Reentrant: a grammar may be collected, and so counted out, while one is counted in.
        self._count_lock = threading.RLock()
        self._live_bytes = 0

    def compile(self, params: StructuredOutputsParams) -> Grammar:
        """The grammar that `params` stands for, of this request's own.

        A compiled grammar learns while it is followed: it grows, up to a limit. Shared, it would
        make the answers to one request depend on those to others. What is remembered is that a
        grammar was tried before; to compile it again takes a millisecond as a rule.

        The first call prepares the vocabulary and starts the trial process, which takes some
        tenths of a second.

        Raises:
            InvalidRequest: naming the field of `structured_outputs` that is wrong, and why.
            EngineOverloaded: the grammars in use take all the memory that they may.
        """
        source = grammar_source(params, self._tokenizer)
        tokenizer, trial_process = self._prepare()
        trial = self._trial(source, trial_process)
        if trial.refusal:
            raise params.refused(_plainly(trial.refusal))
        if trial.num_bytes > MAX_GRAMMAR_BYTES:
            raise params.refused(
                f"compiled it takes {trial.num_bytes >> 20} MiB, more than the limit of "
                f"{MAX_GRAMMAR_BYTES >> 20}"
            )
        num_bytes = max(trial.num_bytes, _LEAST_BYTES)
        self._count(num_bytes)
        try:
            grammar = self._compile(params, source, tokenizer)
        except BaseException:
            self._count(-num_bytes)
            raise
        weakref.finalize(grammar, self._count, -num_bytes).atexit = False
        return grammar

    def _compile(
        self, params: StructuredOutputsParams, source: str, tokenizer: LLTokenizer
    ) -> Grammar:
        limits = LLParserLimits(**LIMITS)  # type: ignore[arg-type]
        matcher = LLMatcher(tokenizer, source, log_level=0, limits=limits)
        mask = np.zeros(self._num_words, np.uint32)
        matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if matcher.is_error():
            raise params.refused(_plainly(matcher.get_error()))
        return Grammar(matcher, mask)

    def _trial(self, source: str, process: TrialProcess) -> Trial:
        key = hashlib.sha256(source.encode()).digest()
        with self._lock:
            trial = self._trials.get(key)
            if trial is not None:
                self._trials.move_to_end(key)
                return trial
        trial = process.try_out(source)
        with self._lock:
            self._trials[key] = trial
            if len(self._trials) > CACHED_TRIALS:
                self._trials.popitem(last=False)
        return trial

    def _count(self, num_bytes: int) -> None:
        """Note that grammars come into use or, less than zero, are gone."""
        with self._count_lock:
            if num_bytes > 0 and self._live_bytes + num_bytes > MAX_LIVE_BYTES:
                raise EngineOverloaded(
                    f"the grammars in use take {self._live_bytes >> 20} MiB, and "
                    f"{MAX_LIVE_BYTES >> 20} is the limit for all",
                    retry_after=1.0,
                )
            self._live_bytes += num_bytes

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

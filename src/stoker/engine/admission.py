"""What may enter the engine: a prompt and its parameters become a `Request` or an error.

Everything here only reads, so it may run in another thread than the one that steps the engine.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray

from stoker.engine.beam_search import BeamSearch
from stoker.engine.config import EngineConfig
from stoker.engine.outputs import RequestMetrics
from stoker.engine.request import Request
from stoker.engine.sampling_params import (
    BeamSearchParams,
    RequestOutputKind,
    SamplingParams,
    StructuredOutputsParams,
)
from stoker.engine.structured import GrammarBackend
from stoker.errors import ContextOverflow, InvalidRequest
from stoker.model.tokenizer import Tokenizer


class Admission:
    """Checks requests against the model and the context, which the cache can always hold."""

    def __init__(
        self,
        config: EngineConfig,
        tokenizer: Tokenizer,
        vocab_size: int,
        max_model_len: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._max_num_seqs = config.max_num_seqs
        self._max_logprobs = vocab_size if config.max_logprobs == -1 else config.max_logprobs
        # A tokenizer may know more tokens than the model can choose.
        self._eos_token_ids = frozenset(t for t in tokenizer.eos_token_ids if t < vocab_size)
        self._max_model_len = max_model_len
        self.grammars = GrammarBackend(tokenizer, vocab_size)
        self._random = random.SystemRandom() if config.seed is None else random.Random(config.seed)
        self._order = count()

    def make_request(
        self,
        request_id: str,
        prompt_token_ids: Sequence[int],
        params: SamplingParams | BeamSearchParams,
        arrival_time: float,
        *,
        priority: int = 0,
        prompt: str | None = None,
        cache_salt: str | None = None,
    ) -> Request:
        """Check everything about a request and prepare it.

        Raises:
            InvalidRequest: naming the parameter that is wrong.
            ContextOverflow: the prompt, or the prompt and the answer, exceed the context.
        """
        tokens = self._prompt(prompt_token_ids)
        params = copy.copy(params)
        params.validate()
        beam_params = params if isinstance(params, BeamSearchParams) else None
        if isinstance(params, BeamSearchParams):
            width = params.beam_width
            params = self._beam_step_params(params)
            self._check_width("beam_width", width)
        else:
            self._check_width("n", params.n)
            self._check_logprobs(params)
        self._check_tokens("stop_token_ids", params.stop_token_ids or ())
        max_tokens = self._max_tokens(len(tokens), params.max_tokens)
        eos = frozenset() if params.ignore_eos else self._eos_token_ids
        stops = frozenset(params.stop_token_ids or ())
        request = Request(
            request_id=request_id,
            prompt=prompt,
            prompt_token_ids=tokens.tolist(),
            params=params,
            max_tokens=max_tokens,
            seed=self._random.getrandbits(64) if params.seed is None else params.seed,
            priority=priority,
            order=next(self._order),
            cache_salt=(cache_salt or "").encode(),
            eos_token_ids=eos,
            stop_token_ids=eos | stops,
            num_logprobs=self._num_logprobs(params.logprobs),
            num_prompt_logprobs=self._num_logprobs(params.prompt_logprobs),
            metrics=RequestMetrics(arrival_time),
        )
        self._set_constraints(request, self._eos_token_ids | stops)
        if params.prompt_logprobs is not None:
            request.prompt_logprobs = [None]
        if beam_params is not None:
            request.beams = BeamSearch(beam_params, len(tokens), eos)
        return request

    def _prompt(self, token_ids: Sequence[int]) -> NDArray[np.int32]:
        if len(token_ids) == 0:
            raise InvalidRequest("the prompt is empty: it needs at least one token", param="prompt")
        if len(token_ids) >= self._max_model_len:
            raise ContextOverflow(
                f"the prompt has {len(token_ids)} tokens, but the context of {self._max_model_len} "
                "must hold the prompt and at least one token of the answer: shorten the prompt",
                param="prompt",
            )
        try:
            wide = np.array(token_ids)
        except (ValueError, OverflowError):
            wide = np.empty(0)
        if wide.ndim != 1 or wide.dtype.kind not in "iu":
            raise InvalidRequest("the prompt must be a list of token ids", param="prompt")
        self._check_range("prompt", int(wide.min()), int(wide.max()))
        return wide.astype(np.int32)

    def _max_tokens(self, prompt_len: int, wanted: int | None) -> int:
        left = self._max_model_len - prompt_len
        if wanted is not None and wanted > left:
            raise ContextOverflow(
                f"max_tokens is {wanted}, but after the prompt of {prompt_len} tokens the context "
                f"of {self._max_model_len} has room for {left}: lower max_tokens or shorten the "
                "prompt",
                param="max_tokens",
            )
        return left if wanted is None else wanted

    def _check_width(self, name: str, width: int) -> None:
        if width > self._max_num_seqs:
            raise InvalidRequest(
                f"{name} is {width}, but the engine runs {self._max_num_seqs} sequences at once "
                "(--max-num-seqs)",
                param=name,
            )

    def _check_logprobs(self, params: SamplingParams) -> None:
        for name in ("logprobs", "prompt_logprobs"):
            wanted = getattr(params, name)
            if wanted is not None and self._num_logprobs(wanted) > self._max_logprobs:
                raise InvalidRequest(
                    f"{name} is {wanted}, but the engine reports {self._max_logprobs} at most "
                    "(--max-logprobs)",
                    param=name,
                )

    def _num_logprobs(self, wanted: int | None) -> int:
        if wanted is None:
            return -1
        return self._vocab_size if wanted == -1 else min(wanted, self._vocab_size)

    def _check_tokens(self, name: str, token_ids: Iterable[int]) -> None:
        for token in token_ids:
            self._check_range(name, token, token)

    def _check_range(self, name: str, low: int, high: int) -> None:
        if low < 0 or high >= self._vocab_size:
            raise InvalidRequest(
                f"{name} holds token id {low if low < 0 else high}; the vocabulary has ids "
                f"0 to {self._vocab_size - 1}",
                param=name,
            )

    def _set_constraints(self, request: Request, stops: frozenset[int]) -> None:
        params = request.params
        if params.min_tokens and stops:
            request.banned_until_min_tokens = np.array(sorted(stops), np.int32)
        if params.logit_bias:
            self._check_tokens("logit_bias", params.logit_bias)
            request.bias_ids = np.array(list(params.logit_bias), np.int32)
            request.bias_values = np.array(list(params.logit_bias.values()), np.float32)
        if params.allowed_token_ids is not None:
            self._check_tokens("allowed_token_ids", params.allowed_token_ids)
            request.allowed_mask = token_mask(params.allowed_token_ids, self._vocab_size)
        for word in params.bad_words or ():
            request.bad_words += self._spellings(word)
        if params.structured_outputs is not None:
            self._constrain(request, params.structured_outputs)

    def _constrain(self, request: Request, wanted: StructuredOutputsParams) -> None:
        """Compile the grammar. With `ignore_eos` an answer goes on as long as it can."""
        request.grammar = wanted.compiled or self.grammars.compile(wanted)
        if request.params.ignore_eos:
            no_end = ~token_mask(self._eos_token_ids, self._vocab_size)
            mask = request.allowed_mask
            request.allowed_mask = no_end if mask is None else mask & no_end

    def _spellings(self, word: str) -> list[list[int]]:
        """The tokens of a word at the start of a text and, where that is one token more or less
        the same way spelt, after a space."""
        word = word.lstrip()
        plain = self._tokenizer.encode(word, add_special_tokens=False)
        spaced = self._tokenizer.encode(" " + word, add_special_tokens=False)
        if not plain:
            raise InvalidRequest("bad_words holds a word without tokens", param="bad_words")
        if spaced and spaced[0] != plain[0] and len(spaced) == len(plain):
            return [plain, spaced]
        return [plain]

    def _beam_step_params(self, params: BeamSearchParams) -> SamplingParams:
        """How each beam proposes its continuations."""
        return SamplingParams(
            max_tokens=params.max_tokens,
            temperature=params.temperature,
            ignore_eos=params.ignore_eos,
            logprobs=2 * params.beam_width,
            skip_special_tokens=params.skip_special_tokens,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )


def token_mask(token_ids: Iterable[int], vocab_size: int) -> NDArray[np.uint32]:
    """`[ceil(vocab / 32)]` words with one bit per token, least significant first."""
    bits = np.zeros(-(-vocab_size // 32) * 32, np.bool_)
    bits[list(token_ids)] = True
    return np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)

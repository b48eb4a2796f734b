"""How a request wants its answer sampled: vLLM's names and meanings.

Values are checked when the object is made and again when it is submitted (the fields may be
assigned in between), so a wrong one is refused with its field's name before it costs anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from stoker.errors import InvalidRequest

if TYPE_CHECKING:
    from stoker.engine.structured import Grammar

MAX_SEQUENCES = 1024
"""Largest `n` and `beam_width`."""
MAX_STOPS = 64
"""Most stop strings or bad words of one request."""
STRUCTURED_KINDS = ("json", "regex", "choice", "grammar", "json_object")
"""The fields of `StructuredOutputsParams` that constrain."""
_GREEDY_BELOW = 1e-5
_COLDEST = 1e-2


class RequestOutputKind(Enum):
    """What the outputs of an unfinished request hold."""

    CUMULATIVE = 0
    """Everything generated so far."""
    DELTA = 1
    """Only what is new since the last output."""
    FINAL_ONLY = 2
    """Nothing until the request is finished."""


@dataclass(frozen=True, slots=True)
class ReasoningSpan:
    """Free text at the start of an answer, up to and with the mark `end`."""

    end: str
    begin: str | None = None
    """The mark such text begins with, in answers that have any; None: the prompt ended with it,
    so that every answer begins inside."""


@dataclass(slots=True)
class StructuredOutputsParams:
    """A constraint on the text: exactly one of the kinds is set."""

    json: str | dict[str, Any] | bool | None = None
    """A JSON schema."""
    regex: str | None = None
    """An expression that the whole text matches."""
    choice: list[str] | None = None
    """The texts to choose from."""
    grammar: str | None = None
    """A context-free grammar: GBNF as llama.cpp reads it, or Lark as llguidance does."""
    json_object: bool | None = None
    """Any JSON object."""
    strict: bool = True
    """Refuse a JSON schema with keywords that cannot be enforced, rather than ignore them."""
    reasoning: ReasoningSpan | None = None
    """What may come before the constrained text."""
    param: str | None = None
    """The field that errors name; None: that of the kind, `structured_outputs.regex`."""
    compiled: Grammar | None = field(default=None, repr=False, compare=False)
    """Left there by `Engine.prepare` for the request that is submitted with it."""

    def __post_init__(self) -> None:
        given = [kind for kind in STRUCTURED_KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise InvalidRequest(
                f"structured_outputs needs exactly one of {', '.join(STRUCTURED_KINDS)}; "
                f"found {found}",
                param="structured_outputs",
            )

    def refused(self, reason: str) -> InvalidRequest:
        """The error that says why this cannot be done."""
        kind = next(kind for kind in STRUCTURED_KINDS if getattr(self, kind) is not None)
        param = self.param or f"structured_outputs.{kind}"
        return InvalidRequest(f"{param} is refused: {reason}", param=param)


@dataclass(slots=True)
class SamplingParams:
    """How the answers to one prompt are sampled."""

    n: int = 1
    """Answers wanted; they share the prompt's cache blocks."""
    presence_penalty: float = 0.0
    """-2 … 2, subtracted once from the logit of every token already generated."""
    frequency_penalty: float = 0.0
    """-2 … 2, subtracted for each time a token was generated."""
    repetition_penalty: float = 1.0
    """Above 0; divides positive and multiplies negative logits of tokens in prompt or answer."""
    temperature: float = 1.0
    """0 … 2; 0 is greedy."""
    top_p: float = 1.0
    """(0, 1]: the smallest set of tokens with this much probability."""
    top_k: int = 0
    """The k most likely tokens; 0 or -1: all."""
    min_p: float = 0.0
    """0 … 1: tokens at least this probable relative to the most likely one."""
    seed: int | None = None
    """Same seed, same answer; sequence i of n draws from a seed derived from (seed, i)."""
    stop: str | list[str] | None = None
    """Text that ends the answer; it is left out unless `include_stop_str_in_output`."""
    stop_token_ids: list[int] | None = None
    """Tokens that end the answer, beside the model's own."""
    bad_words: list[str] | None = None
    """Words whose last token is banned where it would complete them."""
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    """Go on after the model's end token."""
    max_tokens: int | None = 16
    """Tokens generated at most; None: what the context has room for."""
    min_tokens: int = 0
    """Tokens generated before any stop is heeded."""
    logprobs: int | None = None
    """Log-probabilities of the chosen token and this many of the likeliest; -1: all."""
    prompt_logprobs: int | None = None
    """The same for the tokens of the prompt."""
    detokenize: bool = True
    """False leaves `text` empty."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the text."""
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    structured_outputs: StructuredOutputsParams | None = None
    logit_bias: dict[int, float] | None = None
    """Token id → -100 … 100 added to its logit."""
    allowed_token_ids: list[int] | None = None
    """The only tokens that may be chosen."""

    def __post_init__(self) -> None:
        self.validate()

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def stop_strings(self) -> list[str]:
        """`stop` as a list."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop

    def validate(self) -> None:
        """Check every field and bring it to its plain form.

        Raises:
            InvalidRequest: naming the first field that is wrong.
        """
        _integer("n", self.n, 1, MAX_SEQUENCES)
        _number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _number("repetition_penalty", self.repetition_penalty, 0.0, above_low=True)
        _number("temperature", self.temperature, 0.0, 2.0)
        _number("top_p", self.top_p, 0.0, 1.0, above_low=True)
        _integer("top_k", self.top_k, -1)
        _number("min_p", self.min_p, 0.0, 1.0)
        if self.seed is not None:
            _integer("seed", self.seed, -(2**63), 2**64 - 1)
            if self.seed == -1:
                self.seed = None
        if self.max_tokens is not None:
            _integer("max_tokens", self.max_tokens, 1)
        _integer("min_tokens", self.min_tokens, 0)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequest(
                f"min_tokens must be at most max_tokens ({self.max_tokens}), got {self.min_tokens}",
                param="min_tokens",
            )
        self._validate_stops()
        self._validate_logprobs()
        self._validate_token_lists()
        for name in ("include_stop_str_in_output", "ignore_eos", "detokenize"):
            _boolean(name, getattr(self, name))
        _boolean("skip_special_tokens", self.skip_special_tokens)
        if self.temperature < _GREEDY_BELOW:
            self.temperature = 0.0
        else:
            # Logits divided by less than this leave the range of float32.
            self.temperature = max(self.temperature, _COLDEST)

    def _validate_stops(self) -> None:
        if self.stop is not None:
            self.stop = _strings("stop", self.stop_strings)
        if self.bad_words is not None:
            self.bad_words = _strings("bad_words", self.bad_words)
        if self.stop and not self.detokenize:
            raise InvalidRequest(
                "stop strings are found in the text: they need detokenize=True", param="stop"
            )

    def _validate_logprobs(self) -> None:
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            if value is not None:
                _integer(name, value, -1)

    def _validate_token_lists(self) -> None:
        if self.stop_token_ids is not None:
            self.stop_token_ids = _token_ids("stop_token_ids", self.stop_token_ids)
        if self.allowed_token_ids is not None:
            self.allowed_token_ids = _token_ids("allowed_token_ids", self.allowed_token_ids)
            if not self.allowed_token_ids:
                raise InvalidRequest(
                    "allowed_token_ids is empty: no token could be chosen",
                    param="allowed_token_ids",
                )
        if self.logit_bias is not None:
            self.logit_bias = _logit_bias(self.logit_bias)


@dataclass(slots=True)
class BeamSearchParams:
    """Beam search: the most probable answers instead of sampled ones."""

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    temperature: float = 0.0
    """Above 0, each beam also considers a token sampled at this temperature."""
    length_penalty: float = 1.0
    """A beam's score is its log-probability divided by its length to this power."""
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Check every field.

        Raises:
            InvalidRequest: naming the first field that is wrong.
        """
        _integer("beam_width", self.beam_width, 1, MAX_SEQUENCES)
        _integer("max_tokens", self.max_tokens, 1)
        _number("temperature", self.temperature, 0.0, 2.0)
        _number("length_penalty", self.length_penalty, -100.0, 100.0)
        _boolean("ignore_eos", self.ignore_eos)
        _boolean("skip_special_tokens", self.skip_special_tokens)


def _number(
    name: str, value: object, low: float, high: float = math.inf, *, above_low: bool = False
) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"{name} must be a number, got {value!r}", param=name)
    inside = low < value <= high if above_low else low <= value <= high
    if inside and math.isfinite(value):
        return
    if high == math.inf:
        wanted = f"a finite number {'above' if above_low else 'of at least'} {low:g}"
    else:
        wanted = f"in {'(' if above_low else '['}{low:g}, {high:g}]"
    raise InvalidRequest(f"{name} must be {wanted}, got {value}", param=name)


def _integer(name: str, value: object, low: int, high: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(f"{name} must be an integer, got {value!r}", param=name)
    if value < low:
        raise InvalidRequest(f"{name} must be at least {low}, got {value}", param=name)
    if high is not None and value > high:
        raise InvalidRequest(f"{name} must be at most {high}, got {value}", param=name)


def _boolean(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be true or false, got {value!r}", param=name)


def _strings(name: str, values: Sequence[object]) -> list[str]:
    if not isinstance(values, list | tuple):
        raise InvalidRequest(f"{name} must be a list of strings, got {values!r}", param=name)
    if len(values) > MAX_STOPS:
        raise InvalidRequest(f"{name} may hold {MAX_STOPS} strings, got {len(values)}", param=name)
    checked: dict[str, None] = {}
    for value in values:
        if not isinstance(value, str) or not value:
            raise InvalidRequest(f"{name} must hold non-empty strings, got {value!r}", param=name)
        checked[value] = None
    return list(checked)


def _token_ids(name: str, values: Sequence[object]) -> list[int]:
    if not isinstance(values, list | tuple):
        raise InvalidRequest(f"{name} must be a list of token ids, got {values!r}", param=name)
    checked: dict[int, None] = {}
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InvalidRequest(f"{name} must hold token ids, got {value!r}", param=name)
        checked[value] = None
    return list(checked)


def _logit_bias(bias: object) -> dict[int, float]:
    if not isinstance(bias, dict):
        raise InvalidRequest(
            f"logit_bias must map token ids to numbers, got {bias!r}", param="logit_bias"
        )
    checked: dict[int, float] = {}
    for token, value in bias.items():
        try:
            token_id = int(token)
        except (TypeError, ValueError):
            token_id = -1
        if token_id < 0:
            raise InvalidRequest(
                f"logit_bias must have token ids as keys, got {token!r}", param="logit_bias"
            )
        _number("logit_bias", value, -100.0, 100.0)
        checked[token_id] = float(value)
    return checked

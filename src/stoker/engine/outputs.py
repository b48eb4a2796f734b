"""What the engine answers: shaped as vLLM's outputs."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Logprob:
    """One token's log-probability under the model's own distribution."""

    logprob: float
    rank: int | None = None
    """1 for the most likely token."""
    decoded_token: str | None = None


Logprobs = list[dict[int, Logprob]]
"""One dictionary per generated token: token id → its log-probability, the chosen one first."""

PromptLogprobs = list[dict[int, Logprob] | None]
"""One entry per prompt token; the first has none, as nothing precedes it."""


@dataclass(slots=True)
class RequestMetrics:
    """When things happened to a request, in seconds of the engine's clock."""

    arrival_time: float
    first_scheduled_time: float | None = None
    first_token_time: float | None = None
    last_token_time: float | None = None
    finished_time: float | None = None
    num_preemptions: int = 0

    @property
    def time_in_queue(self) -> float | None:
        if self.first_scheduled_time is None:
            return None
        return self.first_scheduled_time - self.arrival_time


@dataclass(slots=True)
class CompletionOutput:
    """One answer, or what is new of it (`RequestOutputKind.DELTA`)."""

    index: int
    """Which of the request's `n` answers."""
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    """Sum of the log-probabilities of all tokens so far; only when logprobs were asked for."""
    logprobs: Logprobs | None = None
    finish_reason: str | None = None
    """`stop`, `length`, `abort` or `error`; None while it goes on."""
    stop_reason: int | str | None = None
    """The stop string or token that ended it; None for the model's own end token, and where a
    grammar has come to its end. Of an `error`, what went wrong, if more is known than numbers
    that are not finite."""

    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass(slots=True)
class RequestOutput:
    """The answers to one prompt, so far or as a delta."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    prompt_logprobs: PromptLogprobs | None = None
    """In the first output that holds tokens (and in later ones unless they are deltas)."""
    num_cached_tokens: int = 0
    """Prompt tokens whose keys and values came from the prefix cache."""
    metrics: RequestMetrics | None = None

    def merge(self, later: RequestOutput) -> None:
        """Take in the delta that follows this one."""
        self.finished = later.finished
        self.metrics = later.metrics
        if later.prompt_logprobs is not None:
            self.prompt_logprobs = later.prompt_logprobs
        by_index = {output.index: output for output in self.outputs}
        for new in later.outputs:
            old = by_index.get(new.index)
            if old is None:
                self.outputs.append(new)
                continue
            old.text += new.text
            old.token_ids = old.token_ids + new.token_ids
            if new.logprobs is not None:
                old.logprobs = (old.logprobs or []) + new.logprobs
            old.cumulative_logprob = new.cumulative_logprob
            old.finish_reason = new.finish_reason
            old.stop_reason = new.stop_reason


@dataclass(slots=True)
class BeamSearchSequence:
    """One beam."""

    tokens: list[int]
    """The prompt's tokens and the answer's."""
    cum_logprob: float
    logprobs: Logprobs = field(default_factory=list)
    text: str | None = None
    """`tokens` as text."""
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass(slots=True)
class BeamSearchOutput:
    """The best beams, best first."""

    sequences: list[BeamSearchSequence]

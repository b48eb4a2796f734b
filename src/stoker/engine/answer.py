"""An answer as its reader sees it: text, log-probabilities and why it ended."""

from __future__ import annotations

from stoker.engine.outputs import CompletionOutput, Logprob
from stoker.engine.stop import StopStringFinder
from stoker.model.detokenizer import IncrementalDetokenizer


class Answer:
    """The tokens of one sequence, and their text as far as it may be sent."""

    __slots__ = (
        "_defer",
        "_detokenizer",
        "_min_tokens",
        "_sent_pieces",
        "_sent_tokens",
        "_stops",
        "_text",
        "_unread",
        "cumulative_logprob",
        "finish_reason",
        "index",
        "logprobs",
        "stop_reason",
        "token_ids",
    )

    def __init__(
        self,
        index: int,
        detokenizer: IncrementalDetokenizer | None,
        stops: StopStringFinder | None,
        min_tokens: int,
        *,
        with_logprobs: bool,
        final_only: bool,
    ) -> None:
        self.index = index
        self._detokenizer = detokenizer
        self._stops = stops
        self._min_tokens = min_tokens
        # Text that nobody reads before the end is made at the end, in one go.
        self._defer = final_only and stops is None
        self._unread: list[int] = []
        self._text: list[str] = []
        self._sent_pieces = 0
        self._sent_tokens = 0
        self.token_ids: list[int] = []
        self.logprobs: list[dict[int, Logprob]] | None = [] if with_logprobs else None
        self.cumulative_logprob = 0.0
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None

    def add(self, token: int) -> str | None:
        """Add a token and its text; returns the stop string that it completes, if any."""
        self.token_ids.append(token)
        if self._detokenizer is None:
            return None
        if self._defer:
            self._unread.append(token)
            return None
        text = self._detokenizer.append_one(token)
        if self._stops is not None:
            return self._add_text(text)
        if text:
            self._text.append(text)
        return None

    def add_silently(self, token: int) -> None:
        """Add a token that is no part of the text: the one that ended the answer."""
        self.token_ids.append(token)

    def add_logprobs(self, token: int, logprobs: dict[int, Logprob]) -> None:
        """Note the log-probabilities at the token just added."""
        self.cumulative_logprob += logprobs[token].logprob
        if self.logprobs is not None:
            self.logprobs.append(logprobs)

    def copy(self, other: Answer) -> None:
        """Take over everything that another answer, whose text is made at its end, has so far."""
        self._unread = other._unread.copy()
        self.token_ids = other.token_ids.copy()
        self.logprobs = None if other.logprobs is None else other.logprobs.copy()
        self.cumulative_logprob = other.cumulative_logprob

    def finish(self, reason: str, stop_reason: int | str | None = None) -> None:
        """End the answer and release the text that was held back.

        What the detokenizer still had may complete a stop string, which then is the reason.
        """
        self.finish_reason, self.stop_reason = reason, stop_reason
        if isinstance(stop_reason, str) or self._detokenizer is None:
            return
        rest = self._detokenizer.append(self._unread) + self._detokenizer.finish()
        self._unread = []
        stop = self._add_text(rest)
        if stop is not None:
            self.finish_reason, self.stop_reason = "stop", stop
        elif self._stops is not None:
            self._keep(self._stops.flush())

    def delta(self) -> CompletionOutput:
        """What was added since the last delta."""
        pieces = self._text[self._sent_pieces :]
        start = self._sent_tokens
        self._sent_pieces = len(self._text)
        self._sent_tokens = len(self.token_ids)
        return CompletionOutput(
            self.index,
            pieces[0] if len(pieces) == 1 else "".join(pieces),
            self.token_ids[start:],
            None if self.logprobs is None else self.cumulative_logprob,
            None if self.logprobs is None else self.logprobs[start:],
            self.finish_reason,
            self.stop_reason,
        )

    def cumulative(self) -> CompletionOutput:
        """Everything so far."""
        return CompletionOutput(
            self.index,
            "".join(self._text),
            self.token_ids.copy(),
            None if self.logprobs is None else self.cumulative_logprob,
            None if self.logprobs is None else self.logprobs.copy(),
            self.finish_reason,
            self.stop_reason,
        )

    def _add_text(self, text: str) -> str | None:
        stop = None
        if self._stops is not None and len(self.token_ids) > self._min_tokens:
            text, stop = self._stops.push(text)
        self._keep(text)
        return stop

    def _keep(self, text: str) -> None:
        if text:
            self._text.append(text)

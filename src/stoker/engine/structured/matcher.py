"""A compiled grammar, and the state of one answer in it."""

from __future__ import annotations

import time

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

Mask = NDArray[np.uint32]
"""`[ceil(vocab / 32)]` one bit per token id, least significant first; 1: allowed."""

ANSWER_SECONDS = 2.0
TOKEN_SECONDS = 0.02
"""Processor time that the masks of an answer may take: so much, and so much more per token. They
take a millisecond as a rule; a grammar that can be read in very many ways takes ever longer, and
would hold up everyone."""


class Grammar:
    """A compiled grammar. Threads may share it; each answer takes its own matcher."""

    def __init__(self, prototype: LLMatcher, first_mask: Mask) -> None:
        """`prototype` has taken no token and is used by nobody else; `first_mask` is its mask."""
        self._prototype = prototype
        self._first_mask = first_mask

    def matcher(self, limit: Mask | None = None) -> Matcher:
        """The state of an answer that has not begun.

        `limit`: further tokens are banned in all of its masks: those with a 0 there.
        """
        mask = self._first_mask.copy() if limit is None else self._first_mask & limit
        return Matcher(self._prototype.deep_copy(), mask, limit)


class Matcher:
    """Where one answer stands in its grammar. One thread at a time may use it."""

    __slots__ = ("_budget", "_inner", "_limit", "error", "is_finished", "mask")

    def __init__(self, inner: LLMatcher, mask: Mask | None, limit: Mask | None = None) -> None:
        self._inner = inner
        self._limit = limit
        self._budget = ANSWER_SECONDS
        self.mask = mask
        """The tokens that may come next; None: not worked out since the last `accept`."""
        self.is_finished: bool = inner.is_stopped()
        """Nothing but the end can follow, or the matcher has failed."""
        self.error: str | None = None
        """Why no token can be judged any more: at this point the grammar needs more work or
        memory than one answer may take."""

    @property
    def is_accepting(self) -> bool:
        """The text so far is whole: the answer may end here."""
        return self.error is None and bool(self._inner.is_accepting())

    def accept(self, token: int) -> bool:
        """Take the next token; an end token only where the answer may end.

        Returns False, with `error` set, if the grammar does not allow the token or fails on it.
        """
        self.mask = None
        self._budget += TOKEN_SECONDS
        if not self._inner.consume_token(token):
            self._fail()
            return False
        self.is_finished = self._inner.is_stopped()
        return True

    def fill_mask(self, mask: Mask) -> None:
        """Write the tokens that may come next into `mask`, a contiguous array, and keep it.

        When the answer is finished, or the grammar fails, only the end tokens are allowed.
        Releases the interpreter lock.
        """
        self.mask = mask
        started = time.thread_time()
        self._inner.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self._limit is not None:
            mask &= self._limit
        self._budget -= time.thread_time() - started
        if self._inner.is_error():
            self._fail()
        elif self._budget < 0:
            self.error = "the grammar takes too long to follow"
            self.is_finished = True

    def fork(self) -> Matcher:
        """An independent copy in the same state."""
        copy = Matcher(self._inner.deep_copy(), self.mask, self._limit)
        copy._budget = self._budget
        copy.error = self.error
        return copy

    def rollback(self, count: int) -> bool:
        """Take back the last `count` tokens. False, with `error` set, if that cannot be done."""
        self.mask = None
        if not self._inner.rollback(count):
            self._fail()
            return False
        self.is_finished = self._inner.is_stopped()
        return True

    def _fail(self) -> None:
        self.error = in_one_line(self._inner.get_error())
        self.is_finished = True


def in_one_line(error: str) -> str:
    """An error of llguidance without the internal state that follows it."""
    return " ".join(error.split("\n<", 1)[0].split())[:500] or "unknown reason"

"""A sequence: one answer in the making, as the scheduler sees it."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stoker.engine.block_pool import hash_block

if TYPE_CHECKING:
    from stoker.engine.answer import Answer
    from stoker.engine.request import Request
    from stoker.engine.structured import Matcher

_GROWTH = 64


class SequenceState(Enum):
    """Where a sequence stands with the scheduler."""

    NEW = "new"
    WAITING = "waiting"
    """In the queue, without slot or blocks."""
    RUNNING = "running"
    """With a slot, and blocks for its computed tokens."""
    PARKED = "parked"
    """A beam that was preempted when it had nothing to compute: in no queue."""
    FINISHED = "finished"


class Sequence:
    """Tokens known and computed, and the cache blocks that hold the computed ones.

    The computed tokens catch up with the known ones; when they have, the next token is sampled
    and becomes known.
    """

    __slots__ = (
        "_block_hashes",
        "_tokens",
        "answer",
        "block_table",
        "index",
        "matcher",
        "num_computed",
        "num_forks",
        "num_prompt",
        "num_registered",
        "num_tokens",
        "request",
        "reserved_slots",
        "seed",
        "slot",
        "sort_key",
        "state",
        "writable",
    )

    def __init__(
        self, request: Request, index: int, tokens: NDArray[np.int32], answer: Answer
    ) -> None:
        self.request = request
        self.index = index
        """Which of the request's answers."""
        self.seed = request.sequence_seed(index)
        self.answer = answer
        self.sort_key = (request.priority, request.order, index)
        """Who comes first, and by its reverse who is preempted first."""
        self._tokens = tokens
        self.num_tokens = len(tokens)
        """Known tokens: the prompt's and those generated."""
        self.num_prompt = len(tokens)
        self.num_computed = 0
        """Leading tokens whose keys and values are in the cache."""
        self.matcher: Matcher | None = None
        """Where it stands in the grammar of structured output. Preemption leaves it alone."""
        self.block_table: list[int] = []
        self.writable = 0
        """Where its blocks end, or less while what it writes next may be another's too."""
        self._block_hashes: list[bytes] = []
        self.num_registered = 0
        """Leading blocks entered into the prefix cache."""
        self.slot = -1
        """The row of the slot table it holds while running."""
        self.num_forks = 0
        """Further sequences that will branch off when its prompt is computed."""
        self.reserved_slots: list[int] = []
        """Slots kept for those while running."""
        self.state = SequenceState.NEW

    @property
    def num_generated(self) -> int:
        return self.num_tokens - self.num_prompt

    def tokens(self, start: int, end: int) -> NDArray[np.int32]:
        """A view of known tokens `start … end - 1`."""
        return self._tokens[start:end]

    @property
    def generated(self) -> NDArray[np.int32]:
        """A view of the tokens generated so far."""
        return self._tokens[self.num_prompt : self.num_tokens]

    def append(self, token: int) -> None:
        """Learn the next token."""
        if self.num_tokens == len(self._tokens):
            grown = np.empty(self.num_tokens * 5 // 4 + _GROWTH, np.int32)
            grown[: self.num_tokens] = self._tokens
            self._tokens = grown
        self._tokens[self.num_tokens] = token
        self.num_tokens += 1

    def block_hash(self, index: int, block_size: int) -> bytes:
        """The content hash of the sequence's full block `index`."""
        hashes = self._block_hashes
        for i in range(len(hashes), index + 1):
            parent = hashes[-1] if hashes else None
            tokens = self._tokens[i * block_size : (i + 1) * block_size]
            hashes.append(hash_block(parent, tokens, self.request.cache_salt))
        return hashes[index]

    def fork(self, index: int, answer: Answer) -> Sequence:
        """A sequence that continues from the same tokens, not yet running."""
        child = Sequence(self.request, index, self._tokens[: self.num_prompt], answer)
        child._tokens = self._tokens[: self.num_tokens].copy()
        child.num_tokens = self.num_tokens
        child._block_hashes = self._block_hashes.copy()
        child.matcher = None if self.matcher is None else self.matcher.fork()
        return child

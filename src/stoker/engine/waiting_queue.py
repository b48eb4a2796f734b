"""The sequences that wait for a place in the batch."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from stoker.engine.sequence import Sequence

_SortKey = tuple[int, int, int]


class WaitingQueue:
    """Waiting sequences by their sort key: a heap whose removed entries are dropped lazily.

    A preempted sequence keeps its key and so comes before everything that arrived after it.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[_SortKey, Sequence]] = []
        self._waiting: dict[_SortKey, tuple[Sequence, int]] = {}
        self.num_tokens = 0
        """Tokens that the waiting sequences have yet to compute."""

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, sequence: Sequence) -> None:
        self._waiting[sequence.sort_key] = sequence, sequence.num_tokens
        self.num_tokens += sequence.num_tokens
        heappush(self._heap, (sequence.sort_key, sequence))

    def first(self) -> Sequence | None:
        """The sequence that is next, left in the queue."""
        heap = self._heap
        while heap:
            key, sequence = heap[0]
            if key in self._waiting:
                return sequence
            heappop(heap)
        return None

    def remove(self, sequence: Sequence) -> None:
        """Take out a waiting sequence, wherever it stands."""
        _, num_tokens = self._waiting.pop(sequence.sort_key)
        self.num_tokens -= num_tokens
        if self._heap[0][1] is sequence:
            heappop(self._heap)
        elif len(self._heap) > 2 * len(self._waiting) + 16:
            self._heap = [(key, waiting) for key, (waiting, _) in self._waiting.items()]
            heapify(self._heap)

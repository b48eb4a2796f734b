"""Masks of the next step, computed while the model runs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from stoker.engine.structured.matcher import Mask, Matcher


class MaskPool:
    """One thread that fills masks, so that the engine and the model go on meanwhile.

    `start` right after the answers took their tokens, `wait` when the model has computed the next
    logits. Between the two the matchers are the pool's; each already holds the array that is
    being filled.
    """

    def __init__(self, vocab_size: int) -> None:
        self._num_words = -(-vocab_size // 32)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stoker-masks")
        self._pending: Future[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether there are masks to wait for."""
        return self._pending is not None

    def start(self, matchers: Sequence[Matcher]) -> None:
        """Begin to fill the masks of all matchers that need one."""
        self.wait()
        waiting = [matcher for matcher in matchers if matcher.mask is None]
        if waiting:
            masks = np.empty((len(waiting), self._num_words), np.uint32)
            for matcher, mask in zip(waiting, masks, strict=True):
                matcher.mask = mask
            self._pending = self._executor.submit(_fill, waiting, list(masks))

    def wait(self) -> None:
        """Return when the masks are filled."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """End the thread."""
        self._executor.shutdown()


def _fill(matchers: list[Matcher], masks: list[Mask]) -> None:
    for matcher, mask in zip(matchers, masks, strict=True):
        matcher.fill_mask(mask)

"""What the runner needs of each running sequence, as columns by slot.

A batch is made by indexing these arrays with the slots of the scheduled sequences, so a step
builds no Python lists of parameters.
"""

from __future__ import annotations

import numpy as np

from stoker.engine.sampling_params import SamplingParams
from stoker.runner.base import Int32Array, SampleExtras, SampleRows


class SlotTable:
    """Block tables and sampling parameters of up to `num_slots` running sequences."""

    def __init__(self, num_slots: int, max_blocks: int) -> None:
        self.num_slots = num_slots
        self.block_tables = np.zeros((num_slots, max_blocks), np.int32)
        """To be written by `set_blocks` alone."""
        self.tables_version = 0
        """Grows whenever a block table changes."""
        self.temperature = np.zeros(num_slots, np.float32)
        self.top_k = np.zeros(num_slots, np.int32)
        self.top_p = np.ones(num_slots, np.float32)
        self.min_p = np.zeros(num_slots, np.float32)
        self.seeds = np.zeros(num_slots, np.uint64)
        self.num_logprobs = np.full(num_slots, -1, np.int32)
        self._free = list(range(num_slots - 1, -1, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def take(self) -> int:
        """A free slot. The caller has checked that there is one."""
        return self._free.pop()

    def give_back(self, slot: int) -> None:
        self._free.append(slot)

    def set_blocks(self, slot: int, start: int, blocks: list[int]) -> None:
        """Enter blocks into a slot's table from index `start` on."""
        self.block_tables[slot, start : start + len(blocks)] = blocks
        self.tables_version += 1

    def set_sampling(self, slot: int, params: SamplingParams, seed: int, num_logprobs: int) -> None:
        """Fill the slot's sampling columns."""
        self.temperature[slot] = params.temperature
        self.top_k[slot] = max(params.top_k, 0)
        self.top_p[slot] = params.top_p
        self.min_p[slot] = params.min_p
        self.seeds[slot] = seed
        self.num_logprobs[slot] = num_logprobs

    def sample_rows(
        self,
        slots: list[int],
        rows: list[int],
        steps: list[int],
        extras: list[SampleExtras | None],
    ) -> SampleRows:
        """The sampling columns of `slots`, one sample each."""
        index = np.array(slots, np.intp)
        return SampleRows(
            rows=np.array(rows, np.int32),
            temperature=self.temperature[index],
            top_k=self.top_k[index],
            top_p=self.top_p[index],
            min_p=self.min_p[index],
            seeds=self.seeds[index],
            steps=np.array(steps, np.int32),
            num_logprobs=self.num_logprobs[index],
            extras=extras,
        )

    def tables(self, slots: list[int], width: int) -> Int32Array:
        """The first `width` columns of the block tables of `slots`."""
        index = np.array(slots, np.intp)
        tables: Int32Array = self.block_tables[:, :width].take(index, axis=0)
        return tables

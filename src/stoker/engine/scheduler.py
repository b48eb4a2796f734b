"""Who computes which tokens in the next step, and in which blocks.

There are no phases: every sequence's computed tokens catch up with its known ones, be they a
prompt, a resumed answer or the one token sampled last. Running sequences come first, in the order
of their sort keys, then waiting ones, all from one budget of tokens. Every running decode is sure
of its token, so a long prefill cannot push it out of a step; the budget bounds how long the step
takes.

When blocks run out, the running sequence with the last sort key (the latest arrival of the lowest
priority) loses its blocks and waits; it later computes its known tokens again and goes on. Since
running sequences are scheduled in the same order, the one that is preempted was not scheduled yet.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field

from stoker.engine.block_pool import BlockPool
from stoker.engine.config import EngineConfig
from stoker.engine.sequence import Sequence, SequenceState
from stoker.engine.slots import SlotTable
from stoker.engine.waiting_queue import WaitingQueue


@dataclass(slots=True)
class Schedule:
    """The work of one step."""

    sequences: list[Sequence] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    """New tokens of each sequence."""
    num_tokens: int = 0
    copies: list[tuple[int, int]] = field(default_factory=list)
    """Blocks to copy before anything is written, in this order: (from, to)."""
    preempted: list[Sequence] = field(default_factory=list)
    num_preemptions: int = 0
    """Of the engine so far."""

    def add(self, sequence: Sequence, count: int) -> None:
        self.sequences.append(sequence)
        self.counts.append(count)
        self.num_tokens += count


def _sort_key(sequence: Sequence) -> tuple[int, int, int]:
    return sequence.sort_key


class Scheduler:
    """Waiting and running sequences, their slots and their blocks.

    `schedule` → compute → `complete`, in turn; in between sequences may be preempted, finished
    and forked.
    """

    def __init__(self, config: EngineConfig, pool: BlockPool, slots: SlotTable) -> None:
        self._budget = config.max_num_batched_tokens
        self._chunk_limit = config.long_prefill_token_threshold or config.max_num_batched_tokens
        self._caching = config.enable_prefix_caching
        self._pool = pool
        self._slots = slots
        self._block_size = pool.block_size
        self.running: list[Sequence] = []
        """In the order of their sort keys."""
        self.waiting = WaitingQueue()
        self.admitting = True
        """Whether waiting sequences may start; not while something else waits for their blocks."""
        self._refused: tuple[Sequence, int] | None = None
        self.num_preemptions = 0
        self.prefix_cache_queries = 0
        self.prefix_cache_hits = 0

    @property
    def has_work(self) -> bool:
        return bool(self.running) or len(self.waiting) > 0

    # ── a step ──────────────────────────────────────────────────────────────────────────────

    def schedule(self, now: float) -> Schedule:
        """Choose the next step's work and allocate its blocks. `now` is for the metrics."""
        schedule = Schedule()
        outstanding = self._schedule_running(schedule)
        if not schedule.preempted:
            self._schedule_waiting(schedule, outstanding, now)
            if not schedule.sequences and self.running:
                # Beams wait for a sibling that finds no room: they make it.
                self._preempt_last(schedule)
        schedule.num_preemptions = self.num_preemptions
        return schedule

    def complete(self, schedule: Schedule) -> None:
        """Note that the schedule's tokens are computed, and cache the blocks they fill.

        A sequence that was preempted or finished meanwhile has lost its blocks: nothing of it is
        noted.
        """
        block_size = self._block_size
        running = SequenceState.RUNNING
        caching = self._caching
        for sequence, count in zip(schedule.sequences, schedule.counts, strict=True):
            if sequence.state is running:
                sequence.num_computed = computed = sequence.num_computed + count
                if caching and computed // block_size > sequence.num_registered:
                    self._register(sequence, computed // block_size)

    def _schedule_running(self, schedule: Schedule) -> int:
        """Returns the blocks that prefills under way have yet to allocate."""
        running = self.running
        sequences, counts = schedule.sequences, schedule.counts
        budget = self._budget
        decodes_left = -1  # not counted: only a prefill needs to know
        outstanding = 0
        i = 0
        while i < len(running):
            sequence = running[i]
            i += 1
            computed = sequence.num_computed
            pending = sequence.num_tokens - computed
            if pending == 1:
                if computed >= sequence.writable and not self._make_room(sequence, 1, schedule):
                    break
                sequences.append(sequence)
                counts.append(1)
                budget -= 1
                decodes_left -= 1
                continue
            if decodes_left < 0:
                decodes_left = sum(s.num_tokens - s.num_computed == 1 for s in running[i:])
            count = min(pending, self._chunk_limit, budget - decodes_left)
            if count > 0:
                if not self._make_room(sequence, count, schedule):
                    break
                sequences.append(sequence)
                counts.append(count)
                budget -= count
            if pending > 1:
                outstanding += self._blocks_to_come(sequence)
        schedule.num_tokens = self._budget - budget
        return outstanding

    def _schedule_waiting(self, schedule: Schedule, outstanding: int, now: float) -> None:
        while self.admitting and schedule.num_tokens < self._budget:
            sequence = self.waiting.first()
            if sequence is None or self._slots.num_free < 1 + sequence.num_forks:
                break
            if not self._admit(sequence, outstanding, now):
                break
            count = min(
                sequence.num_tokens - sequence.num_computed,
                self._chunk_limit,
                self._budget - schedule.num_tokens,
            )
            self._allocate(sequence, sequence.num_computed + count)
            schedule.add(sequence, count)
            outstanding += self._blocks_to_come(sequence)

    def _admit(self, sequence: Sequence, outstanding: int, now: float) -> bool:
        """Give a waiting sequence a slot and its cached prefix, if all of it will find room.

        Beside the blocks it needs itself there must be those that running prefills have yet to
        take, and one for each running sequence to grow into; otherwise it would soon be
        preempted again.
        """
        pool = self._pool
        if self._refused == (sequence, pool.num_releases) and self.running:
            return False
        prefix = self._cached_prefix(sequence)
        total = -(-sequence.num_tokens // self._block_size) + sequence.num_forks
        needed = total - len(prefix) + pool.num_unused(prefix)
        if self.running and pool.num_free < needed + outstanding + len(self.running):
            self._refused = sequence, pool.num_releases
            return False
        self.waiting.remove(sequence)
        pool.acquire(prefix)
        self._start(sequence)
        self._extend_table(sequence, prefix)
        sequence.num_computed = len(prefix) * self._block_size
        sequence.num_registered = len(prefix)
        metrics = sequence.request.metrics
        if metrics.first_scheduled_time is None:
            metrics.first_scheduled_time = now
            sequence.request.num_cached_tokens = sequence.num_computed
            if self._caching:
                self.prefix_cache_queries += sequence.num_tokens
                self.prefix_cache_hits += sequence.num_computed
        return True

    def _cached_prefix(self, sequence: Sequence) -> list[int]:
        """Cached blocks that begin the sequence, leaving at least its last token to compute."""
        request = sequence.request
        if not self._caching or request.num_prompt_logprobs >= 0:
            return []
        size = self._block_size
        last = (sequence.num_tokens - 1) // size
        return self._pool.longest_prefix(sequence.block_hash(i, size) for i in range(last))

    # ── blocks ──────────────────────────────────────────────────────────────────────────────

    def _make_room(self, sequence: Sequence, count: int, schedule: Schedule) -> bool:
        """Allocate blocks for `count` more tokens, preempting others if need be.

        False if the sequence itself was the one to be preempted.
        """
        computed = sequence.num_computed
        size = self._block_size
        table = sequence.block_table
        end = computed + count
        if end <= len(table) * size and not (computed % size and self._is_shared(sequence)):
            sequence.writable = len(table) * size
            return True
        while True:
            copying = bool(computed % size) and self._is_shared(sequence)
            needed = -(-end // size) - len(table) + copying
            if needed <= self._pool.num_free:
                break
            if self._preempt_last(schedule) is sequence:
                return False
        if copying:
            self._copy_block(sequence, computed // size, schedule)
        self._allocate(sequence, end)
        sequence.writable = len(table) * size
        return True

    def _is_shared(self, sequence: Sequence) -> bool:
        """Whether the partly filled block it writes to next is used by another sequence."""
        block = sequence.block_table[sequence.num_computed // self._block_size]
        return self._pool.ref_count(block) > 1

    def _copy_block(self, sequence: Sequence, index: int, schedule: Schedule) -> None:
        old = sequence.block_table[index]
        (new,) = self._pool.allocate(1)
        schedule.copies.append((old, new))
        self._replace_block(sequence, index, new)

    def _replace_block(self, sequence: Sequence, index: int, new: int) -> None:
        """Put `new`, on which the sequence has a reference, in place of a block of its table."""
        self._pool.release([sequence.block_table[index]])
        sequence.block_table[index] = new
        self._slots.set_blocks(sequence.slot, index, [new])

    def _allocate(self, sequence: Sequence, num_tokens: int) -> None:
        count = -(-num_tokens // self._block_size) - len(sequence.block_table)
        if count > 0:
            self._extend_table(sequence, self._pool.allocate(count))

    def _extend_table(self, sequence: Sequence, blocks: list[int]) -> None:
        start = len(sequence.block_table)
        sequence.block_table += blocks
        self._slots.set_blocks(sequence.slot, start, blocks)

    def _blocks_to_come(self, sequence: Sequence) -> int:
        """Blocks a sequence has yet to allocate for its known tokens and its forks."""
        total = -(-sequence.num_tokens // self._block_size) + sequence.num_forks
        return total - len(sequence.block_table)

    def _register(self, sequence: Sequence, num_full: int) -> None:
        """Enter full blocks into the prefix cache, or use the ones already there."""
        size = self._block_size
        table = sequence.block_table
        for i in range(sequence.num_registered, num_full):
            block_hash = sequence.block_hash(i, size)
            parent = sequence.block_hash(i - 1, size) if i else None
            tokens = sequence.tokens(i * size, (i + 1) * size)
            salt = sequence.request.cache_salt
            block = self._pool.register(table[i], block_hash, parent, tokens, salt)
            if block != table[i]:
                self._pool.acquire([block])
                self._replace_block(sequence, i, block)
        sequence.num_registered = num_full

    # ── coming and going ────────────────────────────────────────────────────────────────────

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait for its turn."""
        sequence.state = SequenceState.WAITING
        self.waiting.push(sequence)

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Let `child`, made by `parent.fork`, run on the parent's blocks.

        Without a free slot, or when the parent was preempted, the child waits instead.
        """
        if parent.state is not SequenceState.RUNNING or not (
            parent.reserved_slots or self._slots.num_free
        ):
            self.add(child)
            return
        child.state = SequenceState.RUNNING
        child.slot = parent.reserved_slots.pop() if parent.reserved_slots else self._slots.take()
        self._set_columns(child, child.slot, child.seed)
        insort(self.running, child, key=_sort_key)
        self._pool.acquire(parent.block_table)
        self._extend_table(child, parent.block_table)
        parent.writable = 0
        child.num_computed = parent.num_computed
        child.num_registered = parent.num_registered

    def wake(self, sequence: Sequence) -> None:
        """Let a sequence that learnt a token go on, should it be parked."""
        if sequence.state is SequenceState.PARKED:
            self.add(sequence)

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out and give back what it holds."""
        if sequence.state is SequenceState.RUNNING:
            self._stop(sequence)
        elif sequence.state is SequenceState.WAITING:
            self.waiting.remove(sequence)
        sequence.state = SequenceState.FINISHED

    def preempt(self, sequence: Sequence) -> None:
        """Take a running sequence's blocks and slot; it waits and later computes them again."""
        idle = sequence.num_computed == sequence.num_tokens
        self._stop(sequence)
        if idle:
            sequence.state = SequenceState.PARKED
        else:
            self.add(sequence)
        self.num_preemptions += 1
        sequence.request.metrics.num_preemptions += 1

    def _preempt_last(self, schedule: Schedule) -> Sequence:
        sequence = self.running[-1]
        self.preempt(sequence)
        schedule.preempted.append(sequence)
        return sequence

    def _start(self, sequence: Sequence) -> None:
        sequence.slot = self._slots.take()
        self._set_columns(sequence, sequence.slot, sequence.seed)
        for i in range(sequence.num_forks):
            slot = self._slots.take()
            sequence.reserved_slots.append(slot)
            self._set_columns(sequence, slot, sequence.request.sequence_seed(i + 1))
        insort(self.running, sequence, key=_sort_key)
        sequence.state = SequenceState.RUNNING

    def _stop(self, sequence: Sequence) -> None:
        del self.running[bisect_left(self.running, sequence.sort_key, key=_sort_key)]
        self._pool.release(sequence.block_table)
        sequence.block_table = []
        sequence.num_computed = 0
        sequence.num_registered = 0
        sequence.writable = 0
        self._slots.give_back(sequence.slot)
        sequence.slot = -1
        for slot in sequence.reserved_slots:
            self._slots.give_back(slot)
        sequence.reserved_slots = []

    def _set_columns(self, sequence: Sequence, slot: int, seed: int) -> None:
        request = sequence.request
        self._slots.set_sampling(slot, request.params, seed, request.num_logprobs)

    # ── checks ──────────────────────────────────────────────────────────────────────────────

    def check(self) -> None:
        """Verify that queues, slots and blocks agree. Raises RuntimeError."""
        keys = [sequence.sort_key for sequence in self.running]
        if keys != sorted(set(keys)):
            raise RuntimeError("the running sequences are not in the order of their sort keys")
        held = [s.slot for s in self.running] + [r for s in self.running for r in s.reserved_slots]
        if len(set(held)) != len(held) or len(held) + self._slots.num_free != self._slots.num_slots:
            raise RuntimeError("slots are held twice or lost")
        for sequence in self.running:
            table = sequence.block_table
            if sequence.num_computed > len(table) * self._block_size:
                raise RuntimeError("a sequence has more computed tokens than its blocks hold")
            if self._slots.block_tables[sequence.slot, : len(table)].tolist() != table:
                raise RuntimeError("a slot's block table disagrees with its sequence's")
        self._pool.check(sequence.block_table for sequence in self.running)

    def check_idle(self) -> None:
        """Verify that nothing is left when all requests are done. Raises RuntimeError."""
        if self.has_work or self._pool.num_used or self._slots.num_free != self._slots.num_slots:
            raise RuntimeError(
                f"idle, yet {len(self.running)} sequences run, {len(self.waiting)} wait, "
                f"{self._pool.num_used} blocks are in use and "
                f"{self._slots.num_slots - self._slots.num_free} slots are held"
            )

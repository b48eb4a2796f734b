"""From scheduled sequences to the runner's `Batch`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from stoker.engine.scheduler import Schedule
from stoker.engine.sequence import Sequence
from stoker.engine.slots import SlotTable
from stoker.runner.base import Batch, Int32Array, SampleExtras, ScoreRows

_NO_SCORES: list[tuple[Sequence, int]] = []


@dataclass(slots=True)
class BuiltBatch:
    """A batch and whom its results belong to."""

    batch: Batch
    samplers: list[Sequence]
    """Sequences whose next token is sampled. One that will fork takes `1 + num_forks` samples."""
    scorers: list[tuple[Sequence, int]]
    """Sequences whose prompt is scored, with the number of scores."""
    goes_on: bool
    """Whether the next step may follow from it: one token and one sample of each sequence, which
    goes on with that one, and nothing else."""


class BatchBuilder:
    """Gathers tokens, block tables and sampling parameters of each step.

    A step like the one before, of the same sequences, is not built again: the runner knows it but
    for the block tables (`ModelRunner.run_next`).
    """

    def __init__(self, slots: SlotTable) -> None:
        self._slots = slots
        self._last: BuiltBatch | None = None
        self._num_preemptions = 0
        self._tables_version = 0

    def forget(self) -> None:
        """The runner has computed something else since."""
        self._last = None

    def follow(self, schedule: Schedule) -> BuiltBatch | None:
        """The last batch, if this step follows from it: each sequence goes on by the token that it
        was given. Of those that stay and were not preempted nothing else can be scheduled."""
        last = self._last
        if (
            last is not None
            and last.goes_on
            and schedule.sequences == last.samplers
            and schedule.num_preemptions == self._num_preemptions
            and not schedule.copies
        ):
            return last
        return None

    def new_tables(self, schedule: Schedule) -> Int32Array | None:
        """The block tables of a step that follows; None if they are those of the last."""
        if self._tables_version == self._slots.tables_version:
            return None
        self._tables_version = self._slots.tables_version
        return _tables(schedule, self._slots)

    def build(self, schedule: Schedule) -> BuiltBatch:
        """The batch of a step."""
        built = self._last = build_batch(schedule, self._slots)
        self._num_preemptions = schedule.num_preemptions
        self._tables_version = self._slots.tables_version
        return built


def build_batch(schedule: Schedule, slots: SlotTable) -> BuiltBatch:
    """Gather tokens, block tables and sampling parameters of a step."""
    sequences, counts = schedule.sequences, schedule.counts
    token_ids = np.empty(schedule.num_tokens, np.int32)
    context_lens = []
    rows: list[int] = []
    sample_slots: list[int] = []
    steps: list[int] = []
    samplers: list[Sequence] = []
    scoring = False
    extras = False
    choosing = False
    end = 0
    for sequence, count in zip(sequences, counts, strict=True):
        computed = sequence.num_computed
        known = computed + count
        start, end = end, end + count
        token_ids[start:end] = sequence.tokens(computed, known)
        context_lens.append(computed)
        request = sequence.request
        if known == sequence.num_tokens:
            samplers.append(sequence)
            rows.append(end - 1)
            sample_slots.append(sequence.slot)
            steps.append(known - sequence.num_prompt)
            if sequence.num_forks:
                rows += [end - 1] * sequence.num_forks
                sample_slots += sequence.reserved_slots
                steps += [0] * sequence.num_forks
            extras = extras or request.has_extras
            choosing = choosing or request.beams is not None
        if request.prompt_logprobs is not None:
            scoring = True
    score, scorers = _score_rows(schedule) if scoring else (None, _NO_SCORES)
    batch = Batch(
        token_ids=token_ids,
        query_starts=_starts(counts),
        context_lens=np.array(context_lens, np.int32),
        block_tables=_tables(schedule, slots),
        sample=slots.sample_rows(
            sample_slots, rows, steps, _all_extras(samplers) if extras else []
        ),
        score=score,
        block_copies=np.array(schedule.copies, np.int32) if schedule.copies else None,
    )
    goes_on = (
        schedule.num_tokens == len(sequences) == len(samplers) == len(rows)
        and not extras
        and not choosing
        and score is None
    )
    return BuiltBatch(batch, samplers, scorers, goes_on)


def sample_extras(sequence: Sequence) -> SampleExtras | None:
    """What the sequence asks of the sampler beyond the slot table's columns."""
    request = sequence.request
    if not request.has_extras:
        return None
    params = request.params
    extras = SampleExtras(
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        bias_ids=request.bias_ids,
        bias_values=request.bias_values,
        allowed_mask=request.allowed_mask if sequence.matcher is None else sequence.matcher.mask,
        banned_ids=_banned(sequence),
    )
    if extras.has_penalties:
        extras.prompt_ids = sequence.tokens(0, sequence.num_prompt)
        extras.output_ids = sequence.generated
    return extras


def _all_extras(samplers: list[Sequence]) -> list[SampleExtras | None]:
    extras: list[SampleExtras | None] = []
    for sequence in samplers:
        extras += [sample_extras(sequence)] * (1 + sequence.num_forks)
    return extras


def _banned(sequence: Sequence) -> Int32Array | None:
    """Tokens that may not come next: bad words about to be completed, stops that come too soon."""
    request = sequence.request
    banned: list[int] = []
    generated = sequence.generated
    for word in request.bad_words:
        before = len(word) - 1
        if before <= len(generated) and generated[len(generated) - before :].tolist() == word[:-1]:
            banned.append(word[-1])
    too_soon = request.banned_until_min_tokens
    if too_soon is not None and len(generated) < request.params.min_tokens:
        banned += too_soon.tolist()
    return np.array(banned, np.int32) if banned else None


def _score_rows(schedule: Schedule) -> tuple[ScoreRows | None, list[tuple[Sequence, int]]]:
    """The prompt tokens whose log-probabilities this step can tell: row p scores token p + 1."""
    rows: list[Int32Array] = []
    targets = []
    wanted = []
    scorers = []
    offset = 0
    for sequence, count in zip(schedule.sequences, schedule.counts, strict=True):
        request = sequence.request
        if request.prompt_logprobs is not None:
            computed = sequence.num_computed
            start = max(computed, len(request.prompt_logprobs) - 1)
            end = min(computed + count, sequence.num_prompt - 1)
            if start < end:
                rows.append(np.arange(start, end, dtype=np.int32) + (offset - computed))
                targets.append(sequence.tokens(start + 1, end + 1))
                wanted.append(np.full(end - start, request.num_prompt_logprobs, np.int32))
                scorers.append((sequence, end - start))
        offset += count
    if not scorers:
        return None, scorers
    return (
        ScoreRows(
            rows=np.concatenate(rows).astype(np.int32),
            targets=np.concatenate(targets),
            num_logprobs=np.concatenate(wanted),
        ),
        scorers,
    )


def _tables(schedule: Schedule, slots: SlotTable) -> Int32Array:
    widest = max(len(sequence.block_table) for sequence in schedule.sequences)
    return slots.tables([sequence.slot for sequence in schedule.sequences], widest)


def _starts(counts: list[int]) -> Int32Array:
    # Not np.cumsum: between two steps its code is in no cache, and costs as much as all the rest.
    return np.fromiter(accumulate(counts, initial=0), np.int32, len(counts) + 1)

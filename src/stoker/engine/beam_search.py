"""Beam search on shared blocks.

In every step each live beam proposes its `2 * beam_width` most likely next tokens; the best
`beam_width` of all proposals live on. A beam with several continuations is forked, one with none
is dropped, so beams share every block up to where they part. Proposals that end the answer are
set aside; in the end the best of both kinds are the result. The rules, and the score (the
log-probability over the length, prompt included, to the power of the length penalty), are vLLM's.

Beams advance together: one that has its proposals waits, with nothing to compute, for the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from stoker.engine.answer import Answer
from stoker.engine.outputs import Logprob
from stoker.engine.sampling_params import BeamSearchParams
from stoker.engine.scheduler import Scheduler
from stoker.engine.sequence import Sequence


@dataclass(slots=True)
class _Proposal:
    """A beam, continued by one token."""

    parent: Sequence
    token: int
    logprobs: dict[int, Logprob]
    score: float


class BeamSearch:
    """The beams of one request."""

    def __init__(
        self, params: BeamSearchParams, prompt_len: int, eos_token_ids: frozenset[int]
    ) -> None:
        self.params = params
        self._prompt_len = prompt_len
        self._eos_token_ids = eos_token_ids
        self.live: list[Sequence] = []
        self._ended: list[tuple[float, Answer]] = []
        self._proposed: dict[Sequence, dict[int, Logprob]] = {}
        self._next_index = 1
        self._num_steps = 0

    def start(self, sequence: Sequence) -> None:
        """Begin with the one sequence that computes the prompt."""
        self.live = [sequence]

    def propose(self, sequence: Sequence, logprobs: dict[int, Logprob]) -> bool:
        """Note a beam's likely next tokens; True when all beams have proposed."""
        self._proposed[sequence] = logprobs
        return len(self._proposed) == len(self.live)

    def drop(self, sequence: Sequence) -> bool:
        """Take out a beam that cannot go on; True when all others have proposed."""
        self.live.remove(sequence)
        return len(self._proposed) == len(self.live)

    def advance(self, scheduler: Scheduler, new_answer: Callable[[int], Answer]) -> bool:
        """Let the best proposals live on. True when the search is over."""
        self._num_steps += 1
        chosen = self._choose(new_answer)
        tokens_of: dict[Sequence, list[_Proposal]] = {}
        for proposal in chosen:
            tokens_of.setdefault(proposal.parent, []).append(proposal)
        for parent in self.live:
            if parent not in tokens_of:
                scheduler.finish(parent)
        continued: dict[int, Sequence] = {}
        for parent, (first, *others) in tokens_of.items():
            for other in others:
                continued[id(other)] = self._fork(other, scheduler, new_answer)
            _extend(parent.answer, first)
            parent.append(first.token)
            scheduler.wake(parent)
            continued[id(first)] = parent
        self.live = [continued[id(proposal)] for proposal in chosen]
        self._proposed = {}
        return not self.live or self._num_steps == self.params.max_tokens

    def result(self) -> list[Answer]:
        """The best answers, best first, when the search is over."""
        running = [(self._score(beam.answer), beam.answer) for beam in self.live]
        for _, answer in running:
            answer.finish("length")
        best = sorted(self._ended + running, key=lambda entry: entry[0], reverse=True)
        answers = [answer for _, answer in best[: self.params.beam_width]]
        for index, answer in enumerate(answers):
            answer.index = index
        return answers

    def _choose(self, new_answer: Callable[[int], Answer]) -> list[_Proposal]:
        proposals = []
        for beam in self.live:
            logprobs = self._proposed[beam]
            for token, logprob in logprobs.items():
                total = beam.answer.cumulative_logprob + logprob.logprob
                ends = token in self._eos_token_ids
                length = self._prompt_len + len(beam.answer.token_ids) + (not ends)
                score = self._penalized(total, length)
                proposal = _Proposal(beam, token, logprobs, score)
                if ends:
                    self._end(proposal, new_answer)
                else:
                    proposals.append(proposal)
        proposals.sort(key=lambda proposal: proposal.score, reverse=True)
        return proposals[: self.params.beam_width]

    def _end(self, proposal: _Proposal, new_answer: Callable[[int], Answer]) -> None:
        answer = new_answer(0)
        answer.copy(proposal.parent.answer)
        _extend(answer, proposal, silently=True)
        answer.finish("stop")
        self._ended.append((proposal.score, answer))
        self._ended.sort(key=lambda entry: entry[0], reverse=True)
        del self._ended[self.params.beam_width :]

    def _fork(
        self, proposal: _Proposal, scheduler: Scheduler, new_answer: Callable[[int], Answer]
    ) -> Sequence:
        index = self._next_index
        self._next_index += 1
        answer = new_answer(index)
        answer.copy(proposal.parent.answer)
        _extend(answer, proposal)
        child = proposal.parent.fork(index, answer)
        child.append(proposal.token)
        scheduler.fork(proposal.parent, child)
        return child

    def _score(self, answer: Answer) -> float:
        return self._penalized(answer.cumulative_logprob, self._prompt_len + len(answer.token_ids))

    def _penalized(self, logprob: float, length: int) -> float:
        return logprob / math.pow(length, self.params.length_penalty)


def _extend(answer: Answer, proposal: _Proposal, *, silently: bool = False) -> None:
    if silently:
        answer.add_silently(proposal.token)
    else:
        answer.add(proposal.token)
    answer.add_logprobs(proposal.token, proposal.logprobs)

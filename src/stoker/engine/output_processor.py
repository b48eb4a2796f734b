"""From a step's results to outputs: tokens are appended, text made, ends found."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np

from stoker.engine.answer import Answer
from stoker.engine.batch_builder import BuiltBatch
from stoker.engine.outputs import Logprob, RequestOutput
from stoker.engine.request import Request
from stoker.engine.sampling_params import RequestOutputKind
from stoker.engine.scheduler import Scheduler
from stoker.engine.sequence import Sequence, SequenceState
from stoker.engine.stats import FinishedRequest, StepStats
from stoker.engine.step_timer import StepTimer
from stoker.engine.stop import StopStringFinder
from stoker.engine.structured import Matcher
from stoker.model.detokenizer import IncrementalDetokenizer
from stoker.model.tokenizer import Tokenizer
from stoker.runner.base import StepResult, TopLogprobs


class _LogprobTable:
    """The rows of a `TopLogprobs` as dictionaries, the chosen token first."""

    def __init__(self, table: TopLogprobs, tokenizer: Tokenizer) -> None:
        self._chosen = table.chosen.tolist()
        self._ranks = table.ranks.tolist()
        self._ids = table.ids.tolist()
        self._logprobs = table.logprobs.tolist()
        self._tokenizer = tokenizer

    def row(self, i: int, token: int, num_logprobs: int) -> dict[int, Logprob]:
        entry = {token: Logprob(self._chosen[i], self._ranks[i], self._text(token))}
        best = zip(self._ids[i], self._logprobs[i], strict=True)
        for rank, (other, logprob) in enumerate(islice(best, num_logprobs), 1):
            if other != token:
                entry[other] = Logprob(logprob, rank, self._text(other))
        return entry

    def _text(self, token: int) -> str:
        return self._tokenizer.decode((token,), skip_special_tokens=False, continuation=True)


def _dead_end(request: Request) -> str | None:
    """Why a row without a finite logit may be the request's own doing."""
    if request.allowed_mask is None and request.grammar is None and not request.bad_words:
        return None
    return (
        "no token is left to choose: allowed_token_ids, bad_words, min_tokens and the grammar "
        "together exclude all of them"
    )


class OutputProcessor:
    """Takes sampled tokens into their sequences and says what is new."""

    def __init__(self, scheduler: Scheduler, tokenizer: Tokenizer, timer: StepTimer) -> None:
        self._scheduler = scheduler
        self._tokenizer = tokenizer
        self._timer = timer
        self.prompt_tokens = 0
        self.finished: Counter[str] = Counter()
        self._stats = StepStats()
        self._changed: dict[Request, list[Answer]] = {}
        self.constrained: list[Matcher] = []
        """The matchers that took a token in this step and need a mask for the next."""

    def start(self, request: Request) -> Sequence:
        """The sequence that computes a new request's prompt."""
        self.prompt_tokens += len(request.prompt_token_ids)
        tokens = np.array(request.prompt_token_ids, np.int32)
        sequence = Sequence(request, 0, tokens, self.new_answer(request, 0))
        if request.grammar is not None:
            sequence.matcher = request.grammar.matcher(request.allowed_mask)
        if request.beams is not None:
            sequence.num_forks = request.beams.params.beam_width - 1
            request.beams.start(sequence)
            request.num_unfinished = 1
        else:
            sequence.num_forks = request.params.n - 1
            request.num_unfinished = request.params.n
        request.sequences = [sequence]
        return sequence

    def new_answer(self, request: Request, index: int) -> Answer:
        params = request.params
        detokenizer = None
        if params.detokenize:
            detokenizer = IncrementalDetokenizer(
                self._tokenizer,
                request.prompt_token_ids,
                skip_special_tokens=params.skip_special_tokens,
            )
        stops = params.stop_strings
        return Answer(
            index,
            detokenizer,
            StopStringFinder(stops, include=params.include_stop_str_in_output) if stops else None,
            params.min_tokens,
            with_logprobs=request.num_logprobs >= 0,
            final_only=params.output_kind is RequestOutputKind.FINAL_ONLY,
        )

    def process(
        self, built: BuiltBatch, result: StepResult, now: float, stats: StepStats
    ) -> list[RequestOutput]:
        """Take in one step's samples and scores; what they add is also noted in `stats`."""
        self._stats = stats
        self._changed = {}
        self.constrained = []
        if built.scorers and result.scores is not None:
            self._take_scores(built, _LogprobTable(result.scores, self._tokenizer))
        tokens = result.token_ids.tolist()
        table = None
        if result.logprobs is not None:
            table = _LogprobTable(result.logprobs, self._tokenizer)
        finished = SequenceState.FINISHED
        i = 0
        for sequence in built.samplers:
            num_forks = sequence.num_forks
            if sequence.state is not finished:
                request = sequence.request
                metrics = request.metrics
                before = metrics.last_token_time
                if before is None:
                    metrics.first_token_time = now
                    stats.times_to_first_token.append(now - metrics.arrival_time)
                elif before != now:
                    stats.inter_token_latencies.append(now - before)
                metrics.last_token_time = now
                if request.beams is not None:
                    self._take_proposal(request, sequence, tokens[i], i, table)
                elif num_forks:
                    self._take_forks(request, sequence, tokens, i, table)
                else:
                    self._take_token(request, sequence, tokens[i], i, table)
            i += 1 + num_forks
        return self._outputs(now)

    def abort(self, request: Request, now: float, stats: StepStats) -> RequestOutput:
        """End all of a request's unfinished answers; that it is over is noted in `stats`."""
        self._stats = stats
        self._changed = {}
        sequences = request.sequences if request.beams is None else request.beams.live
        for sequence in sequences:
            if sequence.state is not SequenceState.FINISHED:
                self._scheduler.finish(sequence)
                sequence.answer.finish("abort")
                self._changed.setdefault(request, []).append(sequence.answer)
        request.num_unfinished = 0
        self._note_finished(request, "abort", now)
        return self._output(request, self._changed.get(request, []))

    # ── one sample ──────────────────────────────────────────────────────────────────────────

    def _take_token(
        self, request: Request, sequence: Sequence, token: int, i: int, table: _LogprobTable | None
    ) -> None:
        answer = sequence.answer
        changed = self._changed
        if request in changed:
            changed[request].append(answer)
        else:
            changed[request] = [answer]
        matcher = sequence.matcher
        error = None if matcher is None else matcher.error
        if token < 0 or error is not None:
            self._finish(sequence, "error", error or _dead_end(request))
            return
        sequence.append(token)
        self._stats.num_generation_tokens += 1
        request.num_generated += 1
        num_generated = sequence.num_tokens - sequence.num_prompt
        if token in request.stop_token_ids and num_generated >= request.params.min_tokens:
            if request.params.include_stop_str_in_output:
                answer.add(token)
            else:
                answer.add_silently(token)
            self._finish(sequence, "stop", None if token in request.eos_token_ids else token)
        else:
            timer = self._timer
            if timer.on:
                timer.lap("results")
            stop = answer.add(token)
            if timer.on:
                timer.lap("detokenize")
            if stop is not None:
                self._finish(sequence, "stop", stop)
            elif matcher is not None and self._ends_grammar(matcher, token):
                self._finish(sequence, "stop" if matcher.error is None else "error", matcher.error)
            elif num_generated >= request.max_tokens:
                self._finish(sequence, "length")
        if table is not None and request.num_logprobs >= 0:
            answer.add_logprobs(token, table.row(i, token, request.num_logprobs))

    def _ends_grammar(self, matcher: Matcher, token: int) -> bool:
        """Follow the grammar by a token; True if nothing may come after it."""
        matcher.accept(token)
        if not matcher.is_finished:
            self.constrained.append(matcher)
        return matcher.is_finished

    def _take_forks(
        self,
        request: Request,
        leader: Sequence,
        tokens: list[int],
        i: int,
        table: _LogprobTable | None,
    ) -> None:
        """The prompt of n answers is computed: the others branch off."""
        children = []
        for index in range(1, leader.num_forks + 1):
            child = leader.fork(index, self.new_answer(request, index))
            self._scheduler.fork(leader, child)
            children.append(child)
        leader.num_forks = 0
        request.sequences += children
        for offset, sequence in enumerate(request.sequences):
            self._take_token(request, sequence, tokens[i + offset], i + offset, table)

    def _take_proposal(
        self, request: Request, sequence: Sequence, token: int, i: int, table: _LogprobTable | None
    ) -> None:
        beams = request.beams
        assert beams is not None
        assert table is not None
        sequence.num_forks = 0
        if token < 0:
            self._scheduler.finish(sequence)
            ready = beams.drop(sequence)
        else:
            ready = beams.propose(sequence, table.row(i, token, request.num_logprobs))
        if not ready:
            return
        request.num_generated += 1
        self._stats.num_generation_tokens += 1
        if beams.advance(self._scheduler, lambda index: self.new_answer(request, index)):
            for beam in beams.live:
                self._scheduler.finish(beam)
            answers = beams.result()
            if not answers:
                sequence.answer.finish("error")
                answers = [sequence.answer]
            self._changed[request] = answers
            request.num_unfinished = 0

    def _take_scores(self, built: BuiltBatch, table: _LogprobTable) -> None:
        i = 0
        for sequence, count in built.scorers:
            request = sequence.request
            known = request.prompt_logprobs
            assert known is not None
            for _ in range(count):
                token = request.prompt_token_ids[len(known)]
                known.append(table.row(i, token, request.num_prompt_logprobs))
                i += 1

    def _finish(self, sequence: Sequence, reason: str, stop: int | str | None = None) -> None:
        self._scheduler.finish(sequence)
        timer = self._timer
        if timer.on:
            timer.lap("results")
        sequence.answer.finish(reason, stop)
        if timer.on:
            timer.lap("detokenize")
        sequence.request.num_unfinished -= 1

    # ── outputs ─────────────────────────────────────────────────────────────────────────────

    def _outputs(self, now: float) -> list[RequestOutput]:
        outputs = []
        for request, answers in self._changed.items():
            finished = request.num_unfinished == 0
            if finished:
                self._note_finished(request, answers[0].finish_reason or "", now)
            elif request.output_kind is RequestOutputKind.FINAL_ONLY:
                continue
            outputs.append(self._output(request, answers))
        return outputs

    def _output(self, request: Request, changed: list[Answer]) -> RequestOutput:
        prompt_logprobs = None
        if request.output_kind is RequestOutputKind.DELTA:
            completions = [answer.delta() for answer in changed]
            if not request.prompt_logprobs_sent:
                prompt_logprobs = request.prompt_logprobs
                request.prompt_logprobs_sent = True
        else:
            prompt_logprobs = request.prompt_logprobs
            answers = [sequence.answer for sequence in request.sequences]
            completions = [
                answer.cumulative() for answer in (answers if request.beams is None else changed)
            ]
        return RequestOutput(
            request.request_id,
            request.prompt,
            request.prompt_token_ids,
            completions,
            request.num_unfinished == 0,
            prompt_logprobs,
            request.num_cached_tokens,
            request.metrics,
        )

    def _note_finished(self, request: Request, reason: str, now: float) -> None:
        metrics = request.metrics
        metrics.finished_time = now
        self.finished[reason] += 1
        scheduled = metrics.first_scheduled_time or now
        first = metrics.first_token_time or now
        self._stats.finished.append(
            FinishedRequest(
                request_id=request.request_id,
                finish_reason=reason,
                num_prompt_tokens=len(request.prompt_token_ids),
                num_generation_tokens=request.num_generated,
                num_cached_tokens=request.num_cached_tokens,
                num_preemptions=metrics.num_preemptions,
                n=request.params.n,
                max_tokens=request.max_tokens,
                e2e_time=now - metrics.arrival_time,
                queue_time=scheduled - metrics.arrival_time,
                prefill_time=first - scheduled,
                decode_time=(metrics.last_token_time or now) - first,
            )
        )

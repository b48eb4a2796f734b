"""The engine: requests in, steps, outputs out. Synchronous and single-threaded.

Each step: the scheduler chooses sequences and blocks, the batch is built, the runner computes and
samples, the results are taken in. Whoever owns the engine calls `step` until nothing is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from stoker.engine.admission import Admission
from stoker.engine.batch_builder import BatchBuilder, BuiltBatch
from stoker.engine.block_pool import BlockPool, OutOfBlocksError
from stoker.engine.config import EngineConfig
from stoker.engine.embedding import Pooling, embed_prompt
from stoker.engine.kv_events import KVEvent, KVEventListener
from stoker.engine.output_processor import OutputProcessor
from stoker.engine.outputs import RequestOutput
from stoker.engine.request import Request
from stoker.engine.retry import RetryEstimate
from stoker.engine.sampling_params import BeamSearchParams, SamplingParams
from stoker.engine.scheduler import Schedule, Scheduler
from stoker.engine.slots import SlotTable
from stoker.engine.stats import EngineStats, StepStats
from stoker.engine.step_timer import StepTimer
from stoker.engine.structured import MaskPool
from stoker.errors import ContextOverflow, EngineOverloaded, MemoryPlanError
from stoker.model.tokenizer import Tokenizer
from stoker.runner.base import Float32Array, ModelRunner, StepResult

StepListener = Callable[[StepStats], None]


class Engine:
    """Serves requests with one model."""

    def __init__(
        self,
        runner: ModelRunner,
        tokenizer: Tokenizer,
        config: EngineConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        kv_listener: KVEventListener | None = None,
        step_listener: StepListener | None = None,
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.runner = runner
        self._clock = clock
        self.step_listener = step_listener
        cache = runner.cache
        longest = min(runner.spec.max_position, cache.num_slots)
        if config.max_model_len is not None and config.max_model_len > longest:
            raise MemoryPlanError(
                f"--max-model-len is {config.max_model_len}, but the model reaches "
                f"{runner.spec.max_position} tokens and the cache holds {cache.num_slots}"
            )
        # Any request within the context fits the cache when it has it for itself.
        self.max_model_len = config.max_model_len or longest
        self._kv_listener = kv_listener
        self._kv_events: list[KVEvent] = []
        self.pool = BlockPool(
            cache.num_blocks,
            cache.block_size,
            None if kv_listener is None else lambda event: self._kv_events.append(event),
        )
        self.slots = SlotTable(config.max_num_seqs, -(-self.max_model_len // cache.block_size))
        self.scheduler = Scheduler(config, self.pool, self.slots)
        self._admission = Admission(config, tokenizer, runner.spec.vocab_size, self.max_model_len)
        self.timer = StepTimer()
        self._builder = BatchBuilder(self.slots)
        self._processor = OutputProcessor(self.scheduler, tokenizer, self.timer)
        self._masks = MaskPool(runner.spec.vocab_size)
        self._requests: dict[str, Request] = {}
        self._num_steps = 0
        self._generation_tokens = 0
        self._num_rejected = 0
        self._retry = RetryEstimate()

    def prepare(self, params: SamplingParams) -> None:
        """Compile the grammar that `params` asks for, so that one `submit` finds it ready.

        May be called from any thread, and may take a second. Raises `InvalidRequest` or
        `EngineOverloaded`.
        """
        wanted = params.structured_outputs
        if wanted is not None:
            wanted.compiled = self._admission.grammars.compile(wanted)

    # ── requests ────────────────────────────────────────────────────────────────────────────

    def submit(
        self,
        request_id: str,
        prompt_token_ids: Sequence[int],
        params: SamplingParams | BeamSearchParams,
        *,
        priority: int = 0,
        arrival_time: float | None = None,
        prompt: str | None = None,
        cache_salt: str | None = None,
    ) -> None:
        """Queue a request.

        Args:
            priority: lower goes first, where the policy is `priority`.
            arrival_time: by the engine's clock; None: now.
            prompt: the prompt's text, handed back in the outputs.
            cache_salt: only requests with the same salt share cached prefixes.

        Raises:
            InvalidRequest: the prompt or a parameter is wrong, or the request can never fit.
            EngineOverloaded: too much is waiting.
        """
        self.add(
            self.make_request(
                request_id,
                prompt_token_ids,
                params,
                priority=priority,
                arrival_time=arrival_time,
                prompt=prompt,
                cache_salt=cache_salt,
            )
        )

    def make_request(
        self,
        request_id: str,
        prompt_token_ids: Sequence[int],
        params: SamplingParams | BeamSearchParams,
        *,
        priority: int = 0,
        arrival_time: float | None = None,
        prompt: str | None = None,
        cache_salt: str | None = None,
        num_queued: int = 0,
    ) -> Request:
        """The first half of `submit`: all its checks. May be called from another thread, which
        then has `num_queued` more requests on their way to `add`."""
        self.check_load(len(prompt_token_ids), num_queued)
        return self._admission.make_request(
            request_id,
            prompt_token_ids,
            params,
            self._clock() if arrival_time is None else arrival_time,
            priority=priority if self.config.scheduling_policy == "priority" else 0,
            prompt=prompt,
            cache_salt=cache_salt,
        )

    def add(self, request: Request) -> None:
        """The second half of `submit`: queue a request."""
        if request.request_id in self._requests:
            raise ValueError(f"request id {request.request_id!r} is in use")
        self._requests[request.request_id] = request
        self.scheduler.add(self._processor.start(request))

    def abort(self, request_id: str) -> RequestOutput | None:
        """End a request and free its blocks at once. Returns its last output, with finish
        reason `abort`; None if there is no such request."""
        request = self._requests.pop(request_id, None)
        if request is None:
            return None
        stats = StepStats()
        output = self._processor.abort(request, self._clock(), stats)
        if self.step_listener is not None:
            self.step_listener(stats)
        self._check_if_idle()
        return output

    def abort_all(self) -> list[RequestOutput]:
        """End every request. Returns their last outputs."""
        outputs = [self.abort(request_id) for request_id in list(self._requests)]
        return [output for output in outputs if output is not None]

    @property
    def has_unfinished(self) -> bool:
        """Whether there is anything to step for."""
        return bool(self._requests)

    # ── steps ───────────────────────────────────────────────────────────────────────────────

    def step(self) -> list[RequestOutput]:
        """Compute one batch. Returns what is new of each request, as its `output_kind` says."""
        timer = self.timer
        if timer.on:
            timer.begin()
        schedule = self.scheduler.schedule(self._clock())
        if timer.on:
            timer.lap("schedule")
        if not schedule.sequences:
            return []
        builder = self._builder
        built = builder.follow(schedule)
        if built is not None:
            tables = builder.new_tables(schedule)
            if timer.on:
                timer.lap("batch")
            result = self.runner.run_next(tables)
        else:
            built = builder.build(schedule)
            if self._masks.is_busy:
                built.batch.before_sampling = self._masks.wait
            if timer.on:
                timer.lap("batch")
            result = self.runner.run(built.batch)
        if timer.on:
            timer.lap_runner(result.timings, schedule.num_tokens)
        outputs = self.take_in(schedule, built, result)
        if timer.on:
            timer.lap("results")
        return outputs

    def take_in(
        self, schedule: Schedule, built: BuiltBatch, result: StepResult
    ) -> list[RequestOutput]:
        """The last part of a step: what the runner computed becomes tokens, text and ends."""
        self.scheduler.complete(schedule)
        stats = StepStats(num_tokens=schedule.num_tokens, num_preemptions=len(schedule.preempted))
        masks, processor = self._masks, self._processor
        masks.wait()
        outputs = processor.process(built, result, self._clock(), stats)
        if processor.constrained:
            masks.start(processor.constrained)
        self._num_steps += 1
        self._generation_tokens += stats.num_generation_tokens
        for output in outputs:
            if output.finished:
                del self._requests[output.request_id]
                self._retry.note_ended(self._clock())
        if self.step_listener is not None:
            self.step_listener(stats)
        self._tell_kv_events()
        self._check_if_idle()
        return outputs

    # ── state ───────────────────────────────────────────────────────────────────────────────

    def stats(self) -> EngineStats:
        """Counts as they are now. May be called from another thread."""
        scheduler, pool, processor = self.scheduler, self.pool, self._processor
        return EngineStats(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            num_waiting_tokens=scheduler.waiting.num_tokens,
            num_blocks=pool.num_blocks,
            num_used_blocks=pool.num_used,
            num_cached_blocks=pool.num_cached,
            num_preemptions=scheduler.num_preemptions,
            prompt_tokens=processor.prompt_tokens,
            generation_tokens=self._generation_tokens,
            prefix_cache_queries=scheduler.prefix_cache_queries,
            prefix_cache_hits=scheduler.prefix_cache_hits,
            admission_rejections=self._num_rejected,
            steps=self._num_steps,
            finished=dict(processor.finished),
        )

    def embed(self, prompt: Sequence[int], pooling: Pooling) -> Float32Array | None:
        """The pooled final hidden state of a prompt, `[hidden]`, computed at once.

        None while running requests leave too little of the cache; who waits for its turn sets
        `scheduler.admitting` to false until then, so that no other request takes the blocks.

        Raises:
            ContextOverflow: it is empty or longer than `max_model_len`.
        """
        if not 0 < len(prompt) <= self.max_model_len:
            raise ContextOverflow(
                f"the input has {len(prompt)} tokens; from 1 to {self.max_model_len} can be "
                "embedded",
                param="input",
            )
        chunk = self.config.max_num_batched_tokens
        tokens = np.array(prompt, np.int32)
        try:
            return embed_prompt(self.runner, self.pool, tokens, pooling, chunk)
        except OutOfBlocksError:
            return None
        finally:
            self._builder.forget()
            self._tell_kv_events()

    def reset_prefix_cache(self) -> bool:
        """Forget all cached prefixes; False (and nothing done) while blocks are in use."""
        done = self.pool.forget_prefixes()
        self._tell_kv_events()
        return done

    def check(self) -> None:
        """Verify that queues, slots, blocks and reference counts agree. Raises RuntimeError."""
        self.scheduler.check()

    def close(self) -> None:
        """Free the model."""
        self._masks.close()
        self.runner.close()

    def _tell_kv_events(self) -> None:
        if self._kv_events and self._kv_listener is not None:
            events, self._kv_events = self._kv_events, []
            self._kv_listener(events)

    def _check_if_idle(self) -> None:
        if not self._requests:
            self.scheduler.check_idle()

    def check_load(self, num_tokens: int, num_queued: int) -> None:
        """Raises `EngineOverloaded` if too much waits for `num_tokens` more. May be called from
        another thread, which then has `num_queued` more requests on their way."""
        waiting = self.scheduler.waiting
        limit = self.config.max_waiting_requests
        if limit and len(waiting) + num_queued >= limit:
            self._reject(f"{len(waiting) + num_queued} requests are waiting, {limit} may")
        limit = self.config.max_waiting_tokens
        if limit and waiting.num_tokens and waiting.num_tokens + num_tokens > limit:
            self._reject(f"{waiting.num_tokens} prompt tokens are waiting, {limit} may")

    def _reject(self, reason: str) -> None:
        self._num_rejected += 1
        seconds = self._retry.seconds(self._clock())
        raise EngineOverloaded(
            f"the engine is full: {reason}; try again in {seconds:.0f} s", retry_after=seconds
        )

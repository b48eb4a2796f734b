"""A thread that steps an `Engine`, and the bridge from it to an asyncio event loop.

One thread owns the engine. It sleeps on a condition while there is nothing to do and otherwise
steps; after each step all new outputs cross to the event loop in a single call, where every
stream keeps at most one pending output (deltas that nobody has read yet are merged).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from weakref import WeakValueDictionary

import numpy as np

from stoker.engine.embedding import Pooling
from stoker.engine.engine import Engine
from stoker.engine.outputs import RequestOutput
from stoker.engine.sampling_params import BeamSearchParams, RequestOutputKind, SamplingParams
from stoker.engine.stats import EngineStats
from stoker.errors import EngineStopped, StokerError
from stoker.runner.base import Float32Array

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """What a health check needs to know of the step loop."""

    running: bool
    """The thread is there and has not failed."""
    busy: bool
    """Requests are waiting or running."""
    seconds_since_progress: float
    """Since the last step ended, or since work arrived at an idle engine."""
    error: str | None = None
    """What ended the step loop."""


class RequestStream:
    """The outputs of one request, as an asynchronous iterator.

    Closing it, cancelling a task that waits on it, or dropping it aborts the request.
    """

    def __init__(self, owner: AsyncEngine, request_id: str, kind: RequestOutputKind) -> None:
        self.request_id = request_id
        self._owner = owner
        self._merge = kind is RequestOutputKind.DELTA
        self._pending: RequestOutput | None = None
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._finished = False
        self._take: Callable[[RequestOutput], bool] | None = None

    def offer_to(self, take: Callable[[RequestOutput], bool]) -> None:
        """Give each output to `take` as soon as it comes, without waking the reader, who gets
        what `take` refuses by returning False, what it raises, and the end.

        It is called in the event loop, and not while the reader has yet to fetch an output.
        """
        self._take = take

    def __aiter__(self) -> RequestStream:
        return self

    async def __anext__(self) -> RequestOutput:
        while self._pending is None:
            if self._error is not None:
                raise self._error
            if self._finished:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            except asyncio.CancelledError:
                self._abort()
                raise
            finally:
                self._waiter = None
        output = self._pending
        self._pending = None
        return output

    async def aclose(self) -> None:
        """Abort the request unless it is finished."""
        self._abort()

    async def __aenter__(self) -> RequestStream:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._abort()

    def __del__(self) -> None:
        self._abort()

    def _abort(self) -> None:
        self._take = None
        if not self._finished:
            self._finished = True
            self._pending = None
            self._owner._discard(self.request_id)

    def _put(self, output: RequestOutput) -> None:
        if self._finished or self._error is not None:
            return
        if self._take is not None and self._pending is None:
            try:
                taken = self._take(output)
            except Exception as error:
                # The request goes on until the reader, who sees the error, closes the stream.
                self._error = error
                self._finished = output.finished
                self._wake()
                return
            if taken:
                self._finished = output.finished
                if output.finished:
                    self._wake()
                return
        if self._merge and self._pending is not None:
            self._pending.merge(output)
        else:
            self._pending = output
        self._finished = output.finished
        self._wake()

    def _fail(self, error: BaseException) -> None:
        if not self._finished:
            self._finished = True
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class AsyncEngine:
    """An engine that is stepped by its own thread and used from one event loop."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.engine = engine
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        # Weak, so that a stream nobody holds is collected and aborts its request.
        self._streams: WeakValueDictionary[str, RequestStream] = WeakValueDictionary()
        self._embedding: set[asyncio.Future[Float32Array]] = set()
        """What waits for an embedding."""
        self._embeddings: deque[Callable[[], bool]] = deque()
        """Embeddings to compute, in the order they came; each says whether it is done with."""
        self._condition = threading.Condition()
        self._inbox: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._draining = False
        self._error: str | None = None
        self._progress = clock()
        self._thread = threading.Thread(target=self._run, name="stoker-engine", daemon=True)
        self._thread.start()

    # ── used from the event loop ────────────────────────────────────────────────────────────

    def generate(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams | BeamSearchParams,
        *,
        request_id: str,
        priority: int = 0,
        prompt: str | None = None,
        cache_salt: str | None = None,
    ) -> RequestStream:
        """Submit a request and return the stream of its outputs, as `params.output_kind` says.

        Raises, before anything is queued:
            InvalidRequest: the prompt or a parameter is wrong.
            EngineOverloaded: too much is waiting.
            EngineStopped: the engine is shutting down or has failed.
        """
        self._check_accepting()
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError("an AsyncEngine is used from one event loop")
        if request_id in self._streams:
            raise ValueError(f"request id {request_id!r} is in use")
        request = self.engine.make_request(
            request_id,
            prompt_token_ids,
            params,
            priority=priority,
            prompt=prompt,
            cache_salt=cache_salt,
            num_queued=self._num_queued,
        )
        stream = RequestStream(self, request_id, request.output_kind)
        self._streams[request_id] = stream
        self._post(lambda: self.engine.add(request))
        return stream

    def abort(self, request_id: str) -> None:
        """End a request: its blocks are free before the next step, and its stream ends with
        finish reason `abort`. Unknown ids are ignored. May be called from any thread."""

        def end() -> None:
            output = self.engine.abort(request_id)
            if output is not None:
                self._hand_over([output])

        self._post(end)

    def stats(self) -> EngineStats:
        """Counts as they are now."""
        return self.engine.stats()

    def health(self) -> EngineHealth:
        """The facts of the step loop."""
        busy = self.engine.has_unfinished or self._num_queued > 0
        return EngineHealth(
            running=self._thread.is_alive() and self._error is None,
            busy=busy,
            seconds_since_progress=self._clock() - self._progress if busy else 0.0,
            error=self._error,
        )

    def is_healthy(self, stall_seconds: float = 30.0) -> bool:
        """Whether the loop runs, and steps when there is work to do."""
        health = self.health()
        return health.running and health.seconds_since_progress < stall_seconds

    @property
    def is_accepting(self) -> bool:
        """Whether new requests are taken."""
        return not self._draining and self._error is None

    def _check_accepting(self) -> None:
        if self._error is not None:
            raise EngineStopped(f"the engine has failed: {self._error}")
        if self._draining:
            raise EngineStopped("the engine is shutting down")

    async def reset_prefix_cache(self) -> bool:
        """Forget all cached prefixes; False (and nothing done) while blocks are in use."""
        self._check_accepting()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[bool] = loop.create_future()

        def reset() -> None:
            result = self.engine.reset_prefix_cache()
            loop.call_soon_threadsafe(done.set_result, result)

        self._post(reset)
        return await done

    async def embed(self, prompts: Sequence[Sequence[int]], pooling: Pooling) -> Float32Array:
        """The pooled final hidden states of prompts, `[prompts, hidden]`, each computed between
        two steps, as soon as running requests leave it room.

        Raises what `Engine.embed` raises, `EngineOverloaded` where too much is waiting, and
        `EngineStopped`.
        """
        self._check_accepting()
        self.engine.check_load(sum(map(len, prompts)), self._num_queued)
        return np.stack([await self._embed(prompt, pooling) for prompt in prompts])

    async def _embed(self, prompt: Sequence[int], pooling: Pooling) -> Float32Array:
        self._check_accepting()
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        done: asyncio.Future[Float32Array] = loop.create_future()
        self._embedding.add(done)
        done.add_done_callback(self._embedding.discard)

        def settle(vector: Float32Array | None, error: StokerError | None) -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            elif vector is not None:
                done.set_result(vector)

        def compute() -> bool:
            if done.cancelled():
                return True
            vector, failure = None, None
            try:
                vector = self.engine.embed(prompt, pooling)
            except StokerError as error:
                failure = error
            if vector is None and failure is None:
                return False
            loop.call_soon_threadsafe(settle, vector, failure)
            return True

        self._post(lambda: self._embeddings.append(compute))
        return await done

    @property
    def _num_queued(self) -> int:
        """What waits and is not in the engine."""
        return len(self._inbox) + len(self._embeddings)

    async def shutdown(self, drain_timeout: float = 0.0) -> None:
        """Take no new requests, let those in flight finish for `drain_timeout` seconds, abort
        the rest (they end with finish reason `abort`), end the thread and close the runner."""
        with self._condition:
            self._draining = True
            self._condition.notify()
        await asyncio.to_thread(self._thread.join, drain_timeout)
        self._stopping = True
        await asyncio.to_thread(self._thread.join)

    def _discard(self, request_id: str) -> None:
        """End a request whose outputs nobody reads any more."""
        self._streams.pop(request_id, None)

        def end() -> None:
            self.engine.abort(request_id)

        self._post(end)

    # ── the engine's thread ─────────────────────────────────────────────────────────────────

    def _post(self, command: Callable[[], None]) -> None:
        with self._condition:
            if not self._inbox and not self.engine.has_unfinished:
                self._progress = self._clock()
            self._inbox.append(command)
            self._condition.notify()

    def _run(self) -> None:
        engine = self.engine
        try:
            while self._wait_for_work():
                while self._inbox:
                    self._inbox.popleft()()
                self._compute_embeddings()
                if engine.has_unfinished:
                    outputs = engine.step()
                    self._progress = self._clock()
                    if outputs:
                        self._hand_over(outputs)
            self._hand_over(engine.abort_all())
            self._call_in_loop(self._end_embedding)
        except Exception as error:
            logger.exception("the engine's step loop has failed")
            self._error = f"{type(error).__name__}: {error}"
            self._call_in_loop(self._fail_all)
        finally:
            engine.close()

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do; False when it is time to end."""
        with self._condition:
            while not (self._inbox or self._embeddings or self.engine.has_unfinished):
                if self._draining:
                    return False
                self._condition.wait()
        return not self._stopping

    def _compute_embeddings(self) -> None:
        """Those for which running requests leave room; no request starts before one that waits."""
        while self._embeddings and self._embeddings[0]():
            self._embeddings.popleft()
        self.engine.scheduler.admitting = not self._embeddings

    def _hand_over(self, outputs: list[RequestOutput]) -> None:
        self._call_in_loop(lambda: self._deliver(outputs))

    def _call_in_loop(self, call: Callable[[], None]) -> None:
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            logger.debug("the event loop is closed; nobody is left to hear")

    # ── in the event loop, called by the thread ─────────────────────────────────────────────

    def _deliver(self, outputs: list[RequestOutput]) -> None:
        for output in outputs:
            stream = self._streams.get(output.request_id)
            if stream is None:
                continue
            stream._put(output)
            if output.finished:
                self._streams.pop(output.request_id, None)

    def _fail_all(self) -> None:
        for stream in list(self._streams.values()):
            stream._fail(EngineStopped(f"the engine has failed: {self._error}"))
        self._streams.clear()
        self._end_embedding()

    def _end_embedding(self) -> None:
        reason = "the engine is shutting down"
        if self._error is not None:
            reason = f"the engine has failed: {self._error}"
        for done in list(self._embedding):
            if not done.done():
                done.set_exception(EngineStopped(reason))

"""One request's life in the router: choice of an engine, attempts, the answer's way back.

A chain of callbacks rather than a task: at tens of thousands of requests a second the task
would cost more than everything else here. The states, in order::

    WAITING → CONNECTING → SENT → STREAMING → DONE
       ↑___________|_________|   (an attempt failed, and the client has not seen a byte)

An answer that is not a stream is held until it is whole, and a stream's head until its first
event, so that what breaks before is tried elsewhere and the client never knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import Enum
from time import monotonic
from typing import TYPE_CHECKING

from stoker.api.errors import ApiError, unavailable
from stoker.router.engines.handle import EngineHandle, Lease
from stoker.router.forwarding import (
    asks_usage,
    content_length,
    is_event_stream,
    request_body,
    request_head,
    returned_fields,
)
from stoker.router.ledger.ledger import Grant
from stoker.router.request import Features, Request
from stoker.router.responder import Responder
from stoker.router.retries import retry_after_seconds
from stoker.router.settlement import CLIENT_LEFT, settle
from stoker.router.upstream import ResponseHead, UpstreamConnection, UpstreamFailure
from stoker.router.usage import Usage, read_partial_usage, read_stream_usage, read_usage
from stoker.router.usage_filter import UsageFilter
from stoker.router.wire import WrittenHeaders, error_headers, header_text

if TYPE_CHECKING:
    from stoker.router.dispatcher import Dispatcher
    from stoker.router.tracing import RequestTrace

RETRYABLE = frozenset((408, 429, 500, 502, 503, 504))
_NEVER = float("inf")
# A whole answer up to this size is held, so that an engine that dies in it costs nothing.
_HOLD_LIMIT = 1024 * 1024
# The rest of an answer that will not be used is read up to this size, to keep its connection.
_DISCARD_LIMIT = 64 * 1024


class State(Enum):
    WAITING = "waiting"
    CONNECTING = "connecting"
    SENT = "sent"
    STREAMING = "streaming"
    DONE = "done"


# A member read from its Enum costs ten times as much as a name of the module.
_WAITING, _CONNECTING, _SENT, _STREAMING, _DONE = State


class Exchange:
    """One request and its answer. `Dispatcher.submit` makes them."""

    __slots__ = (
        "_attempts",
        "_before_last",
        "_begin",
        "_connection",
        "_discarding",
        "_dispatcher",
        "_elsewhere",
        "_failures",
        "_filter",
        "_head",
        "_held",
        "_last",
        "_lease",
        "_paused",
        "_queued_at",
        "_timer",
        "_trace",
        "_unreachable_until",
        "_was_stale",
        "answered",
        "deadline",
        "engine",
        "engine_s",
        "events",
        "failed_on",
        "features",
        "first_byte_at",
        "grant",
        "held_bytes",
        "is_stream",
        "reason",
        "request",
        "responder",
        "sent_at",
        "state",
        "submitted_at",
    )

    def __init__(
        self,
        dispatcher: Dispatcher,
        request: Request,
        features: Features,
        responder: Responder,
        grant: Grant | None,
        trace: RequestTrace | None,
        now: float,
    ) -> None:
        """`grant`: what its key's limits set aside for it, once they let it in; `now`: when it
        came."""
        self._dispatcher = dispatcher
        self._trace = trace
        self.request = request
        self.features = features
        self.responder = responder
        self.grant = grant
        self.state = _WAITING
        self.engine: EngineHandle | None = None
        self.reason = "no engine chosen"
        self.failed_on: Sequence[EngineHandle] = ()
        """Engines that failed this request: chosen again only when there is no other."""
        self.deadline = _NEVER
        """When the present state will have lasted too long. All times are monotonic."""
        self.submitted_at = now
        self.sent_at = self.first_byte_at = 0.0
        """When the present engine had the request, and when its answer began."""
        self.answered = False
        """Whether the engine has begun to answer."""
        self.is_stream = False
        self.held_bytes = 0
        """Of an answer that is not a stream: how much came before any of it was passed on."""
        self.events = 0
        """Pieces of a stream that passed: about as many as tokens."""
        self.engine_s = 0.0
        """Its share of engines' time."""
        self._lease: Lease | None = None
        self._connection: UpstreamConnection | None = None
        self._attempts = 0
        self._failures = 0
        self._unreachable_until = _NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._queued_at: float | None = None
        self._head: ResponseHead | None = None
        self._held: Sequence[bytes] = ()
        self._discarding: UpstreamFailure | None = None
        self._elsewhere = False
        self._paused = False
        self._was_stale = False
        self._last = self._before_last = self._begin = b""
        self._filter: UsageFilter | None = None

    # -- to the engine

    def send_to(self, engine: EngineHandle, reason: str, known_tokens: int, now: float) -> None:
        """Send the request to the engine chosen, which need not read `known_tokens` of its
        prompt."""
        self.engine = engine
        self.reason = reason
        dispatcher, features = self._dispatcher, self.features
        if self._queued_at is not None:
            dispatcher.metrics.queue_wait.observe(now - self._queued_at)
        to_read = features.prompt_tokens - known_tokens
        to_write = features.output_tokens * features.answers
        self._lease = engine.take(to_read if to_read > 1 else 1, to_write, now)
        if self._trace is not None:
            self._trace.attempt(engine, features.model, reason)
        connection = (engine.pool or dispatcher.pool(engine)).idle()
        if connection is None:
            self._connect(engine)
        else:
            self._send_over(connection, engine, now)

    def _connect(self, engine: EngineHandle) -> None:
        self.state = _CONNECTING
        self.deadline = _NEVER  # the pool has its own limit
        self._dispatcher.pool(engine).connect(self)

    def on_connected(self, connection: UpstreamConnection) -> None:
        if self.state is not _CONNECTING or self.engine is None:
            connection.pool.give_back(connection)  # the client left meanwhile
            return
        self.engine.connected()
        self._send_over(connection, self.engine, monotonic())

    def on_connect_failed(self, failure: UpstreamFailure) -> None:
        if self.state is _CONNECTING:
            self._attempt_failed(failure)

    def _send_over(self, connection: UpstreamConnection, engine: EngineHandle, now: float) -> None:
        dispatcher, request, features = self._dispatcher, self.request, self.features
        self._connection = connection
        self._attempts += 1
        self.state = _SENT
        self.deadline = now + dispatcher.first_byte_s
        self.sent_at = now
        if features.lacks_usage:
            self._filter = UsageFilter() if asks_usage(engine, features) else None
        body = request_body(engine, features, request.body)
        trace_fields = None if self._trace is None else self._trace.headers()
        with_key = dispatcher.keys_pass
        head = request_head(
            engine, request, len(body), with_key=with_key, trace_fields=trace_fields
        )
        connection.send(head, body, self)

    def _expect_within(self, seconds: float) -> None:
        self.deadline = monotonic() + seconds

    # -- from the engine

    def on_answer(self, head: ResponseHead, body: bytes) -> None:
        self._connection = None
        if head.status != 200 or head.is_stream or len(body) > _HOLD_LIMIT:
            self.on_head(head)
            if self._discarding is None and body:
                self.on_body(body)
            self.on_end()
            return
        # The usual answer: what the above comes to, in few steps.
        engine = self.engine
        assert engine is not None
        self.first_byte_at = now = monotonic()
        self.answered = True
        self.held_bytes = len(body)
        engine.breaker.succeeded()
        usage = read_usage(body)
        if usage is not None:
            engine.meter.tokens += usage.completion_tokens
        self._done(200, usage, engine, now)
        self.responder.respond(200, self._answer_headers(head, now), body)

    def on_head(self, head: ResponseHead) -> None:
        engine = self.engine
        assert engine is not None
        self.first_byte_at = monotonic()
        self._head = head
        self.answered = True
        self.is_stream = head.is_stream
        if self._filter is not None and (not self.is_stream or b"content-encoding" in head.fields):
            self._filter = None
        if head.status >= 500:
            engine.breaker.failed(monotonic())
        else:
            engine.breaker.succeeded()
        if head.status == 404 and self.features.stored:
            self._elsewhere = self._dispatcher.has_untried(self)
            self._discarding = UpstreamFailure("it is kept elsewhere") if self._elsewhere else None
        elif head.status in RETRYABLE:
            wait = retry_after_seconds(head.fields)
            if wait is not None:
                engine.hold_off(monotonic() + wait)
            if self._dispatcher.has_other(self) and self._may_repeat():
                self._discarding = UpstreamFailure(f"status {head.status}", status=head.status)

    def on_body(self, chunk: bytes) -> None:
        self.deadline = monotonic() + self._dispatcher.idle_s
        if self.state is _STREAMING:
            self._before_last, self._last = self._last, chunk
            self.events += chunk.count(b"data:")
            if self._filter is not None:
                chunk = self._filter.feed(chunk)
            self.responder.write(chunk)
            return
        self.held_bytes += len(chunk)
        if self._discarding is not None:
            if self.held_bytes > _DISCARD_LIMIT:
                self._drop_connection()
                self._try_again(self._discarding)
            return
        self._held = (*self._held, chunk)
        if self.held_bytes > _HOLD_LIMIT or (self.is_stream and self._has_event(chunk)):
            self._start_streaming()

    def _has_event(self, chunk: bytes) -> bool:
        """Whether what is held, of which `chunk` is the end, has a stream's first whole event."""
        head = self._head
        if b"\n\n" in chunk or head is None or not is_event_stream(head):
            return True
        if len(self._held) > 1:
            chunk = b"".join(self._held)
        return b"\n\n" in chunk or b"\r\n\r\n" in chunk

    def _start_streaming(self) -> None:
        head = self._head
        assert head is not None
        if self._lease is not None:
            self._lease.prefilled()
        self.state = _STREAMING
        length = content_length(head) if self._filter is None else None
        self.responder.start(head.status, self._answer_headers(head, monotonic()), length)
        self._last = self._begin = held = b"".join(self._held)
        self._held = ()
        self.events += held.count(b"data:")
        if self._filter is not None:
            held = self._filter.feed(held)
        self.responder.write(held)

    def on_end(self) -> None:
        head, self._connection = self._head, None
        assert head is not None
        if self._discarding is not None:
            self._try_again(self._discarding)
        elif self.state is _STREAMING:
            self._answered(head.status, self._streamed_usage(), monotonic())
            if self._filter is not None:
                self.responder.write(self._filter.rest())
            self.responder.finish()
        else:
            body = self._held[0] if len(self._held) == 1 else b"".join(self._held)
            usage, now = read_usage(body) if head.status == 200 else None, monotonic()
            self._answered(head.status, usage, now)
            self.responder.respond(head.status, self._answer_headers(head, now), body)

    def _streamed_usage(self) -> Usage | None:
        if self._filter is not None and self._filter.usage is not None:
            return self._filter.usage
        tail = self._before_last + self._last
        if self.is_stream:
            return read_stream_usage(tail, self._begin)
        return read_partial_usage(tail) or read_partial_usage(self._begin)

    def _answered(self, status: int, usage: Usage | None, now: float) -> None:
        """The engine's answer is over, whole or not: account for it, and end."""
        engine = self.engine
        assert engine is not None
        if usage is not None:
            engine.meter.tokens += usage.completion_tokens
        self._done(status, usage, engine, now)

    def on_failed(self, failure: UpstreamFailure) -> None:
        connection, self._connection = self._connection, None
        stale = connection is not None and connection.reused and not connection.answered
        if stale and not self._was_stale:
            # Perhaps the engine closed an idle connection just as it was taken from the pool.
            # Believed once: a request that kills every engine it reaches looks the same.
            assert self.engine is not None
            self._was_stale = True
            self._attempts -= 1
            self._connect(self.engine)
        elif self._discarding is not None:
            self._try_again(self._discarding)
        else:
            self._attempt_failed(failure)

    def _answer_headers(self, head: ResponseHead, now: float) -> WrittenHeaders:
        grant = self.grant
        # An engine's limits are on the router; a limited client's are its key's.
        if grant is None or not grant.account.limited:
            passed = head.returned or returned_fields(head, with_limits=True)
        else:
            passed = head.returned_without_limits or returned_fields(head, with_limits=False)
        return WrittenHeaders(self._own_lines(now, passed))

    def _own_lines(self, now: float, passed: bytes = b"") -> bytes:
        """What every answer says, and how much is left of its key's limits; after what `passed`
        from the engine."""
        engine, grant = self.engine, self.grant
        return b"%bx-request-id: %b\r\nx-stoker-engine: %b\r\nx-stoker-reason: %b\r\n%b" % (
            passed,
            self.request.id,
            b"-" if engine is None else engine.name_bytes,
            header_text(self.reason),
            b"" if grant is None else self._dispatcher.ledger.limit_lines(grant, now),
        )

    # -- when an attempt fails

    def _attempt_failed(self, failure: UpstreamFailure) -> None:
        engine = self.engine
        assert engine is not None
        if self._trace is not None:
            self._trace.attempt_failed(str(failure))
        now = monotonic()
        engine.breaker.failed(now)
        if not failure.sent:
            engine.connect_failed(now)
        self._dispatcher.doubt(engine)
        if self.state is _STREAMING:
            self._dispatcher.metrics.broken[engine.name] += 1
            self._answered(502, None, now)
            self.responder.broken(
                f"Engine {engine.name} stopped in the middle of its answer: {failure}.",
                event_stream=self.is_stream,
            )
        elif self._may_repeat() if failure.sent else self._may_reconnect(now):
            self._try_again(failure)
        else:
            self._give_up(engine, failure)

    def _may_repeat(self) -> bool:
        """Whether what an engine has had may be sent again; taken from the router's budget."""
        dispatcher = self._dispatcher
        return self._attempts < dispatcher.config.retries.attempts and dispatcher.budget.take()

    def _may_reconnect(self, now: float) -> bool:
        """No engine has had the request, so nothing is repeated: only time limits it."""
        if self._unreachable_until == _NEVER:
            self._unreachable_until = now + self._dispatcher.config.admission.max_wait
        return now < self._unreachable_until

    def _try_again(self, failure: UpstreamFailure) -> None:
        engine = self.engine
        assert engine is not None
        if self._trace is not None:
            self._trace.attempt_failed(str(failure))
        self._leave_engine(monotonic())
        if engine not in self.failed_on:
            self.failed_on = (*self.failed_on, engine)
        self._head = None
        self.answered = False
        self._held = ()
        self.held_bytes = 0
        self._discarding = None
        self.state = _WAITING
        self.deadline = _NEVER
        dispatcher = self._dispatcher
        if self._elsewhere:
            self._elsewhere = False
            self._attempts -= 1  # a question, not a failure
            dispatcher.place(self)
            return
        self._failures += 1
        dispatcher.metrics.retries[engine.name, failure.kind] += 1
        delay = dispatcher.backoff.delay(self._failures)
        self._timer = dispatcher.loop.call_later(delay, dispatcher.place, self)

    def _give_up(self, engine: EngineHandle, failure: UpstreamFailure) -> None:
        tried = f" in {self._attempts} attempts" if self._attempts > 1 else ""
        message = f"No answer{tried}; engine {engine.name}: {failure}."
        if failure.timed_out:
            error = ApiError(504, message, kind="timeout_error", code="engine_timeout")
        elif failure.sent:
            error = ApiError(502, message, kind="server_error", code="engine_failed")
        else:
            wait = self._dispatcher.config.health.interval
            error = unavailable(message, code="engine_unreachable", retry_after=wait)
        self.refuse(error)

    # -- ends

    @property
    def over(self) -> bool:
        return self.state is _DONE

    def refuse(self, error: ApiError) -> None:
        """Answer with an error of the router's own."""
        if self.over:
            return
        now = monotonic()
        headers = [*error_headers(error), *WrittenHeaders(self._own_lines(now))]
        code = error.info.code or error.info.type
        self._dispatcher.metrics.rejected[self.features.model or "-", code] += 1
        self._done(error.status, None, None, now)
        self.responder.respond(error.status, headers, error.body())

    def cancel(self) -> None:
        """The client left: stop the engine's work for it."""
        if self.state in (_SENT, _STREAMING):
            self._drop_connection()
            self._answered(CLIENT_LEFT, None, monotonic())
        elif self.state is not _DONE:
            self._done(CLIENT_LEFT, None, None, monotonic())

    def engine_down(self) -> None:
        """The engine was found unhealthy: what has not begun to answer goes elsewhere."""
        if self.state is _SENT:
            self._drop_connection()
            self._attempt_failed(UpstreamFailure("it became unhealthy"))

    def wait(self, until: float) -> None:
        """There is no engine for it now: it stands in the queue, until then at the latest."""
        self.deadline = until
        self._queued_at = monotonic()

    def expired(self) -> None:
        """`deadline` has passed."""
        self._drop_connection()
        if self.state is _WAITING:
            self._dispatcher.waited_too_long(self)
        elif self._paused:
            self._answered(CLIENT_LEFT, None, monotonic())
            self.responder.broken("the answer was not read in time", event_stream=False)
        elif self.state is _SENT:
            self._attempt_failed(UpstreamFailure("no answer in time", timed_out=True))
        else:
            self._attempt_failed(UpstreamFailure("no more data in time", timed_out=True))

    def pause(self) -> None:
        """The client reads more slowly than the engine writes."""
        self._paused = True
        if self._connection is not None:
            self._connection.pause()
            self._expect_within(self._dispatcher.config.timeouts.client_idle)

    def resume(self) -> None:
        """The client has caught up."""
        self._paused = False
        if self._connection is not None:
            self._connection.resume()
            self._expect_within(self._dispatcher.idle_s)

    def _leave_engine(self, now: float) -> None:
        lease = self._lease
        if lease is not None:
            self._lease = None
            self.engine_s += lease.give_back(now)
            self._dispatcher.left_engine()

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    def _done(
        self, status: int, usage: Usage | None, engine: EngineHandle | None, now: float
    ) -> None:
        """It is over; `engine` gave the answer, if one did."""
        streaming = self.state is _STREAMING
        self.state = _DONE
        self.deadline = _NEVER
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        dispatcher = self._dispatcher
        self._leave_engine(now)
        dispatcher.finished(self)
        if self._trace is not None:
            first_byte = self.first_byte_at - self.sent_at if self.answered else None
            self._trace.end(status, first_byte=first_byte, usage=usage)
        settle(dispatcher, self, status, usage, engine, streaming=streaming, now=now)

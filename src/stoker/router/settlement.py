"""What a request is charged for, and what is written down of it, once it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoker.router.engines.handle import EngineHandle
from stoker.router.ledger.book import Outcome
from stoker.router.ledger.ledger import Grant
from stoker.router.request import BYTES_PER_TOKEN, Features
from stoker.router.usage import Usage

if TYPE_CHECKING:
    from stoker.router.dispatcher import Dispatcher
    from stoker.router.exchange import Exchange

CLIENT_LEFT = 499
_NOTHING = Usage()
# A member read from its Enum costs ten times as much as a name of the module.
_ANSWERED, _FAILED, _CANCELLED = Outcome.ANSWERED, Outcome.FAILED, Outcome.CANCELLED


def settle(
    dispatcher: Dispatcher,
    exchange: Exchange,
    status: int,
    usage: Usage | None,
    engine: EngineHandle | None,
    *,
    streaming: bool,
    now: float,
) -> None:
    """Account for an exchange that is over: in the metrics, with its key, in the access log.

    `engine` gave the answer, if one did, and told the `usage`, if it did; `streaming`: whether
    the client had seen the beginning of the answer before it was whole; `now` on the monotonic
    clock.
    """
    grant, features, reason = exchange.grant, exchange.features, exchange.reason
    total_s = now - exchange.submitted_at
    first_byte_s = exchange.first_byte_at - exchange.sent_at if exchange.answered else None
    model = features.model
    name = None
    if engine is not None:
        name = engine.name
        dispatcher.metrics.answered(model or "-", name, status, first_byte_s, total_s, usage)
    if grant is not None and usage is not None and status < 400 and features.answers == 1:
        seconds = exchange.engine_s if engine is not None else 0.0
        dispatcher.ledger.settle(
            grant, features, engine, _ANSWERED, usage, now=now, seconds=seconds
        )
    elif grant is not None:
        _charge(dispatcher, exchange, grant, status, usage, engine, streaming=streaming, now=now)
    access_log = dispatcher.access_log
    if access_log is not None:
        access_log.note(
            exchange.request.id,
            grant.account.name if grant is not None else "",
            model,
            name,
            reason,
            status,
            usage,
            first_byte_s,
            total_s,
        )


def _charge(
    dispatcher: Dispatcher,
    exchange: Exchange,
    grant: Grant,
    status: int,
    usage: Usage | None,
    engine: EngineHandle | None,
    *,
    streaming: bool,
    now: float,
) -> None:
    """Charge its key for what it took: as the engine says, else as far as can be guessed."""
    features = exchange.features
    outcome = _ANSWERED
    if status == CLIENT_LEFT:
        outcome = _CANCELLED
    elif status >= 400:
        outcome = _FAILED
    if engine is not None and engine.kind == "llama_cpp" and features.answers > 1:
        usage = None  # it tells what the first of several answers took
    guessed = usage is None and engine is not None and _computed(features, status, streaming)
    if guessed and engine is not None:
        usage = _guess(exchange, engine, streaming=streaming)
    dispatcher.ledger.settle(
        grant,
        features,
        engine,
        outcome,
        usage or _NOTHING,
        now=now,
        estimated=guessed,
        seconds=exchange.engine_s if engine is not None else 0.0,
    )


def _computed(features: Features, status: int, streaming: bool) -> bool:
    """Whether an engine worked on a prompt: what it refused, it did not."""
    return bool(features.prompt) and (streaming or status < 400 or status == CLIENT_LEFT)


def _guess(exchange: Exchange, engine: EngineHandle, *, streaming: bool) -> Usage:
    """Tokens of an answer that does not tell: a stream's events; a whole answer's length; of
    one that the client did not wait for, what the engine does in the time it had."""
    features = exchange.features
    if streaming and exchange.is_stream:
        written = exchange.events
    elif exchange.answered:
        written = exchange.held_bytes // BYTES_PER_TOKEN
    else:
        written = int((engine.decode_rate or 0.0) * exchange.engine_s)
    most = features.output_tokens * features.answers
    return Usage(features.prompt_tokens, min(written, most))

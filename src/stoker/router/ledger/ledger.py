"""The ledger: lets requests in by their keys' limits, and writes down what they took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from time import monotonic

from stoker.api.errors import ApiError, unauthorized
from stoker.router.config import Config
from stoker.router.engines.handle import EngineHandle
from stoker.router.ledger.account import Account
from stoker.router.ledger.book import Book, Outcome
from stoker.router.ledger.keys import Keyring, digest_of, presented
from stoker.router.ledger.purse import DAY_S
from stoker.router.ledger.refusals import (
    insufficient_quota,
    limit_lines,
    model_not_allowed,
    rate_limited,
)
from stoker.router.ledger.window import Window, take_both
from stoker.router.request import Features, Request
from stoker.router.shared.limits import Shared, SharedLimits
from stoker.router.shared.link import RedisAway
from stoker.router.usage import Usage
from stoker.router.wire import WrittenHeaders

# A member read from its Enum costs ten times as much as a name of the module.
_ANSWERED = Outcome.ANSWERED


class Grant:
    """A request that was let in, and what was set aside for it until it ends."""

    __slots__ = ("account", "cost", "over", "second", "shared", "tokens")

    def __init__(self, account: Account, tokens: int, cost: float, now: float) -> None:
        self.account = account
        self.tokens = tokens
        self.cost = cost
        self.second = now
        """When it was let in, on the monotonic clock;"""
        self.shared: Shared | None = None
        """and what Redis said, if its limits are shared."""
        self.over = False


class Ledger:
    """Everything here is memory; `LedgerStore` brings it to a database and back."""

    def __init__(
        self,
        config: Config,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`wall_clock` tells seconds since 1970; every other time is on the monotonic clock."""
        self.keyring = Keyring()
        self.book = Book()
        self.required = False
        self.shared: SharedLimits | None = None
        """The limits of several routers together, if there are several."""
        self.wall_clock = wall_clock
        """Whose days and months budgets and usage go by."""
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Go on with the keys of another configuration."""
        self.required = config.keys_required
        self.keyring.set_configured(config.keys or ())

    # -- a request's way in

    def account_of(self, request: Request) -> Account:
        """Whose request it is. Raises `ApiError` (401) where a key is needed and none is known."""
        if request.on_behalf_of is not None:
            account = self.keyring.account(request.on_behalf_of)
        elif self.required or self.keyring.by_digest:
            digest = request.memo.digest
            if digest is None:
                digest = request.memo.digest = digest_of(presented(request.fields))
            account = self.keyring.by_digest.get(digest)
        else:
            return self.keyring.anonymous
        if account is not None:
            return account
        if self.required:
            raise unauthorized()
        return self.keyring.anonymous

    def check(self, account: Account, features: Features, *, has_body: bool) -> None:
        """Raises `ApiError` (403) for a model that the key may not use."""
        if account.models is None or (features.model is None and not has_body):
            return
        if not account.may_use(features.model, features.asked_model):
            raise model_not_allowed(account, features.asked_model or features.model)

    def admit(
        self, account: Account, features: Features, engines: Iterable[EngineHandle], now: float
    ) -> Grant:
        """Let a request in by this router's own count, or raise `ApiError` (429)."""
        cost = 0.0
        if account.purse is not None:
            cost = self.estimate(features, engines)
            refusal = account.purse.reserve(cost, self.wall_clock())
            if refusal is not None:
                raise insufficient_quota(account, *refusal)
        grant = Grant(account, features.estimated_tokens, cost, now)
        if self.shared is None or not self.asks_others(account):
            self._take(grant, now)
        return grant

    def asks_others(self, account: Account) -> bool:
        """Whether its limits are shared now, so that `admit` leaves them to `admit_shared`."""
        return self.shared is not None and self.shared.available and account.limited

    async def admit_shared(self, grant: Grant) -> None:
        """Let a request in by the count of all routers; by this one's own if Redis goes away.
        Raises `ApiError` (429)."""
        account = grant.account
        if self.shared is None or not account.limited:
            return
        try:
            shared = await self.shared.take(account, grant.tokens)
        except RedisAway:
            self._take(grant, monotonic())
            return
        if not shared.granted:
            self.release(grant)
            windows = shared.requests, shared.tokens
            raise over_limits(account, grant.tokens, *windows, shared.now)
        grant.shared = shared
        # For the time when Redis may be away.
        grant.second = monotonic()
        for window, amount in ((account.requests, 1), (account.tokens, grant.tokens)):
            if window is not None:
                window.note(amount, grant.second)

    def _take(self, grant: Grant, now: float) -> None:
        """Take a request from this router's own windows, or raise `ApiError` (429)."""
        account = grant.account
        grant.second = now
        requests, tokens = account.requests, account.tokens
        if (
            requests is not None
            and tokens is not None
            and take_both(requests, tokens, grant.tokens, now)
        ):
            return
        if requests is not None and not requests.take(1, now):
            raise self._over(account, grant, requests, tokens, now)
        if tokens is not None and not tokens.take(grant.tokens, now):
            if requests is not None:
                requests.correct(-1, now, now)
            raise self._over(account, grant, requests, tokens, now)

    def estimate(self, features: Features, engines: Iterable[EngineHandle]) -> float:
        """What a request may cost on the dearest of `engines`: by its tokens, or by the time they
        would take it."""
        cost = 0.0
        read, written = features.prompt_tokens, features.output_tokens * features.answers
        for engine in engines:
            price = engine.price
            if price is not None:
                estimate = read * price.input + written * price.output
                if price.per_hour:
                    rate = engine.decode_rate
                    estimate += written / rate * price.second if rate else 0.0
                if estimate > cost:
                    cost = estimate
        return cost

    def _over(
        self,
        account: Account,
        grant: Grant,
        requests: Window | None,
        tokens: Window | None,
        now: float,
    ) -> ApiError:
        self.release(grant)
        return over_limits(account, grant.tokens, requests, tokens, now)

    def release(self, grant: Grant) -> None:
        """Nothing came of it: give back the money set aside."""
        purse = grant.account.purse
        if not grant.over and purse is not None:
            purse.reserved = max(0.0, purse.reserved - grant.cost)
        grant.over = True

    def limit_lines(self, grant: Grant, now: float) -> bytes:
        """What an answer says of its key's limits, as it is written."""
        account, shared = grant.account, grant.shared
        if not account.limited:
            return b""
        if shared is not None:
            return limit_lines(shared.requests, shared.tokens, shared.now)
        return limit_lines(account.requests, account.tokens, now)

    # -- and out

    def settle(
        self,
        grant: Grant,
        features: Features,
        engine: EngineHandle | None,
        outcome: Outcome,
        usage: Usage,
        *,
        now: float,
        estimated: bool = False,
        seconds: float = 0.0,
    ) -> None:
        """The request is over: replace what was set aside by what it took.

        `seconds` is its share of the engine's time.
        """
        if grant.over:
            return
        account = grant.account
        prompt_tokens, completion_tokens = usage.prompt_tokens, usage.completion_tokens
        cost = 0.0
        if engine is not None and engine.price is not None:
            cost = engine.price.of(prompt_tokens, completion_tokens, seconds, usage.cached_tokens)
        grant.over = True
        purse = account.purse
        if purse is not None:
            reserved = purse.reserved - grant.cost
            purse.reserved = reserved if reserved > 0.0 else 0.0
            purse.fresh += cost
        if account.tokens is not None:
            took = prompt_tokens + completion_tokens
            account.tokens.correct(took - grant.tokens, grant.second, now)
            if grant.shared is not None and self.shared is not None:
                self.shared.correct(account, int(grant.shared.now), took - grant.tokens)
        model = features.model or "-"
        name = engine.name if engine is not None else "-"
        day, book = int(self.wall_clock() // DAY_S), self.book
        tally = book.fresh.get((day, account.name, model, name))
        if tally is None:
            tally = book.tally(day, account.name, model, name)
        tally.requests += 1
        if outcome is _ANSWERED:
            pass
        elif outcome is Outcome.FAILED:
            tally.failed += 1
        elif outcome is Outcome.CANCELLED:
            tally.cancelled += 1
        if estimated:
            tally.estimated += 1
        tally.prompt_tokens += prompt_tokens
        tally.cached_tokens += usage.cached_tokens
        tally.completion_tokens += completion_tokens
        tally.engine_seconds += seconds
        tally.cost += cost

    def refused(self, account: Account, model: str | None) -> None:
        """A request was refused for its key's sake."""
        day = int(self.wall_clock() // DAY_S)
        tally = self.book.tally(day, account.name, model or "-", "-")
        tally.requests += 1
        tally.refused += 1


def over_limits(
    account: Account, asked: int, requests: Window | None, tokens: Window | None, now: float
) -> ApiError:
    """The error for a request of `asked` tokens that does not fit; its headers say what is left."""
    windows: list[tuple[str, Window, int]] = []
    if requests is not None:
        windows.append(("requests", requests, 1))
    if tokens is not None:
        windows.append(("tokens", tokens, asked))
    error = rate_limited(account, windows, now)
    for name, value in WrittenHeaders(limit_lines(requests, tokens, now)):
        error.headers[name.decode()] = value.decode()
    return error

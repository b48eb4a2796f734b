"""What a request that its key does not allow is answered, in OpenAI's words."""

from __future__ import annotations

import math
from collections.abc import Iterable

from stoker.api.errors import ApiError
from stoker.router.ledger.account import Account
from stoker.router.ledger.window import SECONDS, SLOTS, Window

_RATE_LIMIT = "rate_limit_error"


def model_not_allowed(account: Account, model: str | None) -> ApiError:
    allowed = ", ".join(sorted(account.limits.models or ())) or "none"
    which = "a request that names no model" if model is None else f"the model {model!r}"
    return ApiError(
        403,
        f"The key {account.name!r} may not use {which}. It may use: {allowed}.",
        kind="permission_error",
        param="model",
        code="model_not_allowed",
    )


def not_admin() -> ApiError:
    return ApiError(
        403,
        "Only a key made with `admin` may see other keys' usage; leave out `key` to see your own.",
        kind="permission_error",
        param="key",
        code="admin_required",
    )


def insufficient_quota(account: Account, why: str, wait: float) -> ApiError:
    """The key's budget does not allow it. Clients should not try again by themselves."""
    return ApiError(
        429,
        f"The key {account.name!r} has not enough budget: {why}.",
        kind="insufficient_quota",
        code="insufficient_quota",
        headers={"retry-after": str(math.ceil(wait)), "x-should-retry": "false"},
    )


def rate_limited(
    account: Account, windows: Iterable[tuple[str, Window, int]], now: float
) -> ApiError:
    """The window that will have room last says when: each with its name and what is asked."""
    longest, message = 0.0, ""
    for name, window, asked in windows:
        wait = window.seconds_until(asked, now)
        used = f"limit {window.limit}, used {window.used}, requested {asked}"
        if wait is None:
            return ApiError(
                429,
                f"The request is too large for the key {account.name!r}: {name} per minute: "
                f"{used}. Ask for less: a shorter prompt or a smaller max_tokens.",
                kind=_RATE_LIMIT,
                code="request_too_large_for_limit",
                headers={"x-should-retry": "false"},
            )
        if wait >= longest:
            longest = wait
            message = f"The key {account.name!r} has reached its limit of {name} per minute: {used}"
    seconds = max(1, math.ceil(longest))
    return ApiError(
        429,
        f"{message}. Try again in {seconds} s.",
        kind=_RATE_LIMIT,
        code="rate_limit_exceeded",
        headers={
            "retry-after": str(seconds),
            "retry-after-ms": str(max(1, math.ceil(longest * 1000))),
        },
    )


def limit_lines(requests: Window | None, tokens: Window | None, now: float) -> bytes:
    """OpenAI's `x-ratelimit-…` fields, as they are written: how much is left of a minute's
    limits, and when they will be whole again."""
    if requests is None:
        return b"" if tokens is None else _TOKENS % _figures(tokens, now)
    if tokens is None:
        return _REQUESTS % _figures(requests, now)
    # The usual case: what `_figures` tells of each, in few steps.
    second = int(now)
    if second > requests.second:
        requests.advance(second)
    if second > tokens.second:
        tokens.advance(second)
    free, left = requests.limit - requests.used, tokens.limit - tokens.used
    return _BOTH % (
        requests.limit,
        free if free > 0 else 0,
        _RESETS[requests.latest + SLOTS - second if requests.used else 0],
        tokens.limit,
        left if left > 0 else 0,
        _RESETS[tokens.latest + SLOTS - second if tokens.used else 0],
    )


def _figures(window: Window, now: float) -> tuple[int, int, bytes]:
    left, seconds = window.left(now)
    return window.limit, left, _RESETS[seconds]


_REQUESTS, _TOKENS = (
    b"x-ratelimit-limit-%b: %%d\r\n"
    b"x-ratelimit-remaining-%b: %%d\r\n"
    b"x-ratelimit-reset-%b: %%b\r\n" % (name, name, name)
    for name in (b"requests", b"tokens")
)
_BOTH = _REQUESTS + _TOKENS


# A window is whole again after `SECONDS` and what is left of the present second.
_RESETS = tuple(
    b"1m%ds" % (seconds - 60) if seconds >= 60 else b"%ds" % seconds
    for seconds in range(SECONDS + 3)
)

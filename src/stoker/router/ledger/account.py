"""One key's standing: what it may do, and how much of it is used."""

from __future__ import annotations

from stoker.router.config import KeyLimits
from stoker.router.ledger.purse import Purse
from stoker.router.ledger.window import Window


class Account:
    """A key, by its name; it outlives a change of the key's limits."""

    __slots__ = ("limited", "limits", "models", "name", "purse", "requests", "tokens")

    def __init__(self, name: str, limits: KeyLimits) -> None:
        self.name = name
        self.limits = limits
        self.models = limits.models
        """Those it may use; None for all."""
        self.requests: Window | None = None
        self.tokens: Window | None = None
        """Windows of what this router let through."""
        self.limited = False
        """Whether it has limits per minute."""
        self.purse: Purse | None = None
        self.set_limits(limits)

    def set_limits(self, limits: KeyLimits) -> None:
        """Go on under other limits; what was used stays used."""
        self.limits = limits
        self.models = limits.models
        self.requests = _window(self.requests, limits.requests_per_minute)
        self.tokens = _window(self.tokens, limits.tokens_per_minute)
        self.limited = self.requests is not None or self.tokens is not None
        if limits.budget.per_day is None and limits.budget.per_month is None:
            self.purse = None
        elif self.purse is None:
            self.purse = Purse(limits.budget)
        else:
            self.purse.set_budget(limits.budget)

    def may_use(self, model: str | None, asked: str | None) -> bool:
        """Whether it may use a model, under its own name or the one the client asked for."""
        models = self.models
        return models is None or model in models or asked in models


def _window(window: Window | None, limit: int | None) -> Window | None:
    if limit is None:
        return None
    if window is None:
        return Window(limit)
    window.limit = limit
    return window

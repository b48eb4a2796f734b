"""A part of a shared limit that one router may give out without asking again."""

from __future__ import annotations


class Lease:
    """Requests and tokens taken from the shared window of `second`, until `expires` on the loop's
    clock, which is the end of that second."""

    __slots__ = ("expires", "requests", "second", "tokens")

    def __init__(self) -> None:
        self.requests = 0
        self.tokens = 0
        self.second = 0
        self.expires = float("-inf")

    def take(self, tokens: int, now: float) -> bool:
        """Give out one request of so many tokens, if that is left."""
        if now >= self.expires or self.requests < 1 or self.tokens < tokens:
            return False
        self.requests -= 1
        self.tokens -= tokens
        return True

    def add(self, requests: int, tokens: int, second: int, expires: float) -> None:
        """More was taken from the shared window; what another second's left is lost to us."""
        if second != self.second:
            self.requests = self.tokens = 0
        self.second = second
        self.expires = expires
        self.requests += requests
        self.tokens += tokens

"""Whoever gets an answer."""

from __future__ import annotations

from typing import Protocol

from stoker.router.wire import Headers


class Responder(Protocol):
    """Whoever gets the answer: a client's connection, or the router itself.

    Either `respond` alone, or `start`, then `write`s, then `finish` or `broken`.
    """

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """The whole answer."""

    def start(self, status: int, headers: Headers, length: int | None) -> None:
        """The head of an answer whose body follows; `length` in bytes if it is known."""

    def write(self, chunk: bytes) -> None:
        """A piece of the body."""

    def finish(self) -> None:
        """The body is whole."""

    def broken(self, message: str, *, event_stream: bool) -> None:
        """The body will never be whole."""

"""What can go wrong between the router and the API server; none of it stops the router."""

from __future__ import annotations


class ApiAway(Exception):
    """The API server did not answer, or not with what was asked for."""


class ApiRefused(ApiAway):
    """The API server answered with an error; `status` is its HTTP status."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class VersionGone(ApiAway):
    """What happened since a resource version is not known any more (410): list anew."""

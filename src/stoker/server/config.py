"""What the HTTP side of an engine can be told."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from stoker.api.reasoning import MARKS
from stoker.api.sampling_presets import PRESETS
from stoker.api.tool_calls import FORMATS
from stoker.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Settings of the server; those of the engine are in `stoker.engine.config`."""

    served_names: tuple[str, ...]
    """Names that requests may give as `model`; answers carry the first."""
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: int = 32 * 2**20
    request_timeout: float | None = None
    """Seconds from a request's arrival to its last token; None for no limit."""
    stall_timeout: float = 60.0
    """Seconds with work pending and no step after which `/health` says 503."""
    keep_alive_interval: float = 15.0
    """Seconds without a token after which a stream carries a comment."""
    write_timeout: float = 60.0
    """Seconds after which a connection is cut whose client does not read what was written."""
    force_include_usage: bool = False
    """Send token counts at the end of every stream, asked for or not."""
    tool_call_parser: str | None = None
    """How the model writes tool calls, of `stoker.api.tool_calls.FORMATS`; None: as its chat
    template shows."""
    reasoning_parser: str | None = None
    """How it marks reasoning, of `stoker.api.reasoning.MARKS`, or `none`; None: as its chat
    template shows."""
    sampling_mode: str | None = None
    """The preset for requests that choose none."""
    response_store_bytes: int = 64 * 2**20
    """Memory for responses that can be fetched and followed up, by their size as JSON."""
    response_store_lifetime: float = 3600.0
    """Seconds for which they are kept."""
    log_requests: bool = False
    """A line for each request; never its text."""

    def __post_init__(self) -> None:
        _one_of("tool_call_parser", self.tool_call_parser, FORMATS)
        _one_of("reasoning_parser", self.reasoning_parser, (*MARKS, "none"))
        _one_of("sampling_mode", self.sampling_mode, PRESETS)


def _one_of(name: str, value: str | None, known: Collection[str]) -> None:
    if value is not None and value not in known:
        flag = "--" + name.replace("_", "-")
        raise InvalidRequest(f"{flag} must be {', '.join(known)}, got {value!r}", param=name)

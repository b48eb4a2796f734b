"""What happens to every request before a route sees it: id, size limit, key, last-resort errors.

Plain ASGI. The connection's own `send` is left in the scope for streams: a streamed event need
not pass through what only looks at the start of a response.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from contextlib import AbstractContextManager, nullcontext

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stoker.api.errors import ApiError, body_too_large, internal_error, unauthorized
from stoker.server.errors import error_body, is_anthropic
from stoker.server.keys import KeyRing
from stoker.server.state import ServerState

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/health", "/ping", "/metrics", "/version"})
"""What probes and scrapers ask, without a key."""

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class Gate:
    """Names each request, refuses what is too large or has no key, and turns a fault into a 500."""

    def __init__(self, app: ASGIApp, *, state: ServerState, keys: KeyRing) -> None:
        self.app = app
        self.state = state
        self.keys = keys
        self.max_body_bytes = state.config.max_body_bytes
        self.log_requests = state.config.log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id"))
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["send"] = send
        ids = [(b"x-request-id", request_id.encode())]
        if is_anthropic(scope["path"]):
            ids.append((b"request-id", request_id.encode()))
        status = 0
        began = time.monotonic()
        counts = scope["method"] == "POST"
        self.state.active += counts

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *ids]
            await send(message)

        try:
            self._check_key(scope, headers)
            limited = self._limit_body(headers, receive)
            with self._trace(scope):
                await self.app(scope, limited, send_with_id)
        except ApiError as error:
            if status:
                raise
            await send_error(error, scope, send_with_id)
        except Exception:
            log.exception("request %s failed: %s %s", request_id, scope["method"], scope["path"])
            if status:
                raise
            await send_error(internal_error(request_id), scope, send_with_id)
        finally:
            self.state.active -= counts
            if self.log_requests:
                log.info(
                    "%s %s %d %.3f s",
                    scope["method"],
                    scope["path"],
                    status,
                    time.monotonic() - began,
                    extra={"request_id": request_id},
                )

    def _trace(self, scope: Scope) -> AbstractContextManager[None]:
        """Within: what is generated belongs to the caller's trace, where traces are made."""
        model = self.state.model
        if model is None or model.tracer is None:
            return nullcontext()
        return model.tracer.calling(scope["headers"], scope["path"])

    def _check_key(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        if not self.keys.required or scope["path"] in OPEN_PATHS:
            return
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        key = token.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        if not self.keys.accepts(key.decode("utf-8", "surrogateescape")):
            raise unauthorized()

    def _limit_body(self, headers: dict[bytes, bytes], receive: Receive) -> Receive:
        limit = self.max_body_bytes
        declared = headers.get(b"content-length")
        if declared is not None:
            if int(declared) > limit:
                raise body_too_large(limit)
            return receive
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise body_too_large(limit)
            return message

        return counted


async def send_error(error: ApiError, scope: Scope, send: Send) -> None:
    """A whole response from an error."""
    body = error_body(error, scope)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *((name.encode(), value.encode()) for name, value in error.headers.items()),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _request_id(given: bytes | None) -> str:
    """The caller's own id when it is one printable word, else a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode()
    return uuid.uuid4().hex

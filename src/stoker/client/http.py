"""An HTTP client for JSON and server-sent events, over pooled connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

from stoker import __version__
from stoker.errors import ConfigError, StokerError
from stoker.router.answer import AwaitedAnswer
from stoker.router.engines.handle import Address
from stoker.router.sse import EventReader
from stoker.router.upstream import Pool, Receiver, ResponseHead, UpstreamConnection, UpstreamFailure
from stoker.router.wire import join_headers

CONNECT_TIMEOUT = 10.0
_TRAILER_S = 1.0
"""How long an answer may stay open after its last event, before its connection is given up."""


class ServerUnreachable(StokerError):
    """A server could not be reached, or its answer broke off."""


class ServerRefused(StokerError):
    """A server answered with an error; `status` is its HTTP status."""

    def __init__(self, message: str, *, status: int, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        """Seconds that the server asks to wait, if it said so."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response. Names of `fields` are in lower case."""

    status: int
    fields: Mapping[bytes, bytes]
    body: bytes

    @property
    def request_id(self) -> str:
        """The server's name for the request; empty if it gave none."""
        return self.fields.get(b"x-request-id", b"").decode("latin-1")

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asks to wait before the next try, if it says so."""
        return _retry_after(self.fields)

    def json(self) -> Any:
        """The body as JSON. Raises `ServerUnreachable` when it is not: this is no such API."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise ServerUnreachable(
                f"the server's answer is not JSON: {_shorten(self.body)}"
            ) from None

    def raise_for_status(self) -> Self:
        """Itself when the status is 2xx; raises `ServerRefused` otherwise."""
        if 200 <= self.status < 300:
            return self
        raise ServerRefused(_error_text(self), status=self.status, retry_after=self.retry_after)


class ApiClient:
    """Asks one server. To be used in one event loop, as an async context manager.

    `url` is the server's address, with or without `/v1` at its end. Raises `ConfigError` when it
    is no address.
    """

    def __init__(
        self, url: str, *, api_key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self._address = _address(url)
        self._pool: Pool | None = None
        fields = {
            "host": self._address.host_header,
            "user-agent": f"stoker/{__version__}",
            "accept": "*/*",
        }
        if api_key:
            fields["authorization"] = f"Bearer {api_key}"
        fields |= {name.lower(): value for name, value in (headers or {}).items()}
        self._fields = [(_field(name), _field(value)) for name, value in fields.items()]
        self._prefix = quote(self._address.path, safe="/%")

    @property
    def url(self) -> str:
        """The address asked, without `/v1`."""
        scheme = "https" if self._address.tls else "http"
        return f"{scheme}://{self._address.host_header}{self._prefix}"

    async def __aenter__(self) -> Self:
        self._pool = Pool(self._address, connect_timeout=CONNECT_TIMEOUT)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._pool is not None
        self._pool.close()
        await asyncio.sleep(0)  # closed transports are let go by the loop

    async def get(self, path: str, *, within: float = 30.0) -> Answer:
        """GET `path`; any status. Raises `ServerUnreachable`."""
        return await self._whole(path, None, within)

    async def post(
        self,
        path: str,
        payload: Mapping[str, Any],
        *,
        within: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """POST JSON to `path`; any status. Raises `ServerUnreachable`."""
        return await self._whole(path, payload, within, headers)

    async def events(
        self, path: str, payload: Mapping[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """POST JSON and yield the events of the answer until `[DONE]`. Leaving early ends the
        request at the server.

        Raises `ServerRefused` (an error status, or an error event in the stream) or
        `ServerUnreachable`.
        """
        call = AwaitedAnswer()
        connection = await self.send(path, _encode(payload), call)
        try:
            head = await call.head
            if not 200 <= head.status < 300:
                Answer(head.status, head.fields, await call.whole()).raise_for_status()
            reader = EventReader()
            async for chunk in call.chunks():
                for data in reader.feed(chunk):
                    if data == b"[DONE]":
                        await call.end_within(_TRAILER_S)
                        return
                    yield _event(data, head)
        except UpstreamFailure as failure:
            raise self._unreachable(failure) from None
        finally:
            if not call.over:
                connection.abort()

    async def send(
        self,
        path: str,
        body: bytes | None,
        call: Receiver,
        headers: Mapping[str, str] | None = None,
        *,
        fresh: bool = False,
    ) -> UpstreamConnection:
        """Send one request (a GET without `body`); its answer goes to `call`.

        `fresh`: on a connection of its own. Raises `ServerUnreachable` when there is none.
        """
        assert self._pool is not None, "use `async with`"
        try:
            connection = (None if fresh else self._pool.idle()) or await self._pool.open()
        except UpstreamFailure as failure:
            raise self._unreachable(failure) from None
        fields = list(self._fields)
        fields += [(_field(k.lower()), _field(v)) for k, v in (headers or {}).items()]
        if body is not None:
            fields.append((b"content-type", b"application/json"))
            fields.append((b"content-length", b"%d" % len(body)))
        line = f"{'GET' if body is None else 'POST'} {self._prefix}{path} HTTP/1.1\r\n"
        connection.send(line.encode("ascii") + join_headers(fields) + b"\r\n", body or b"", call)
        return connection

    async def _whole(
        self,
        path: str,
        payload: Mapping[str, Any] | None,
        within: float | None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        body = None if payload is None else _encode(payload)
        try:
            async with asyncio.timeout(within):
                answer = await self._once(path, body, headers, fresh=False)
                if answer is None:  # an idle connection that the server was just closing
                    answer = await self._once(path, body, headers, fresh=True)
                assert answer is not None
                return answer
        except TimeoutError:
            raise ServerUnreachable(f"{self.url} gave no answer within {within:g} s") from None

    async def _once(
        self, path: str, body: bytes | None, headers: Mapping[str, str] | None, *, fresh: bool
    ) -> Answer | None:
        """None when a connection that had been used before broke before any answer."""
        call = AwaitedAnswer()
        connection = await self.send(path, body, call, headers, fresh=fresh)
        try:
            head = await call.head
            return Answer(head.status, head.fields, await call.whole())
        except UpstreamFailure as failure:
            if connection.reused and not connection.answered and not fresh:
                return None
            raise self._unreachable(failure) from None
        finally:
            if not call.over:
                connection.abort()

    def _unreachable(self, failure: UpstreamFailure) -> ServerUnreachable:
        return ServerUnreachable(f"{self.url}: {failure}")


def _address(url: str) -> Address:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ConfigError(
            f"{url!r} is no server's address; expected something like http://127.0.0.1:8000"
        )
    return Address.parse(url.rstrip("/").removesuffix("/v1"))


def _field(text: str) -> bytes:
    if not text.isprintable():
        raise ConfigError("an HTTP header may not hold a line break or a control character")
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise ConfigError("an HTTP header (or an API key) may hold Latin letters only") from None


def _encode(payload: Mapping[str, Any]) -> bytes:
    return json.dumps(payload, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _event(data: bytes, head: ResponseHead) -> dict[str, Any]:
    answer = Answer(head.status, head.fields, data)
    event = answer.json()
    if not isinstance(event, dict):
        raise ServerUnreachable(f"an event of the answer is no JSON object: {_shorten(data)}")
    if event.get("error"):
        raise ServerRefused(_error_text(answer), status=head.status)
    return event


def _error_text(answer: Answer) -> str:
    """What an error says: OpenAI's message, or the body itself."""
    try:
        error = json.loads(answer.body)["error"]
        text = error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, LookupError, TypeError, RecursionError):
        text = _shorten(answer.body) or "no reason given"
    return f"the server answered {answer.status}: {text}"


def _retry_after(fields: Mapping[bytes, bytes]) -> float | None:
    for name, unit in ((b"retry-after-ms", 1e-3), (b"retry-after", 1.0)):
        try:
            return max(0.0, float(fields[name]) * unit)
        except (KeyError, ValueError):  # not there, or a date
            continue
    return None


def _shorten(body: bytes) -> str:
    text = " ".join(body[:600].decode("utf-8", "replace").split())
    return text if len(text) <= 200 else f"{text[:199]}…"

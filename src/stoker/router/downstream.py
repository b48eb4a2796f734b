"""A client's connection: HTTP/1.1 in, answers out in the order of the requests."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol, cast

import httptools

from stoker.api.errors import ApiError, bad_request
from stoker.router.heads import KnownHead, split_head
from stoker.router.protocol import StreamProtocol
from stoker.router.request import BodySink, Request, new_request_id
from stoker.router.wire import (
    STATUS_LINES,
    Headers,
    WrittenHeaders,
    error_headers,
    join_headers,
    own_headers,
    status_line,
)

if TYPE_CHECKING:
    from stoker.router.server import RouterServer

_MAX_HEAD_BYTES = 64 * 1024
# After refusing a request that may still be arriving, what comes is read and dropped this long,
# or the client would see a reset instead of the reason.
_LINGER_S = 2.0
_NEVER = float("inf")
# What a form may have around the file that is uploaded with it.
_FORM_BYTES = 64 * 1024
_BODILESS = (204, 304)


class Work(Protocol):
    """What answers a request; tells the responder, and can be told to stop."""

    def cancel(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class ClientConnection(StreamProtocol):
    """Parses requests, hands each to the server in turn, writes the answers.

    One request is answered at a time. Requests that arrive meanwhile (pipelining) wait, parsed,
    and once two wait no more is read.
    """

    def __init__(self, server: RouterServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request | ApiError] = deque()
        self._request: Request | None = None
        self._work: Work | None = None
        self._chunked = False
        self._closing = False
        self._lingering = False
        self._reading = True
        self._held = False
        self._begun = 0
        self._flushing = False
        self._known: KnownHead[Request] | None = None
        """The head of the last request that came whole."""
        self._pieces: list[bytes] = []
        self._missing = 0
        """Of a body behind a known head: what came, and how much is still to come."""
        self.deadline = _NEVER
        """When the client has been idle, or slow with its request, for too long."""
        self._begin()

    def _begin(self) -> None:
        """Forget the request being parsed."""
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: bytes | bytearray = b""
        self._head_bytes = 0
        self._in_request = False
        self._in_head = False
        self._sink: BodySink | None = None

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)
        self._rest()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._server.connections.discard(self)
        self._abandon()
        self._waiting.clear()
        self._known = None
        self.deadline = _NEVER
        work, self._work = self._work, None
        if work is not None:
            work.cancel()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        if self._missing:
            self._gather(data)
            return
        known = self._known
        if known is not None and not self._in_request:
            found = known.body_of(data)
            if found is not None:
                begin, length = found
                came = len(data) - begin
                if came == length <= self._server.body_limit:
                    self._arrived(known.meaning.again(data[begin:]))
                    return
                if came < length <= self._server.body_limit:
                    self._begin_body(data[begin:], length - came)
                    return
        # The request that all of `data` belongs to, if it belongs to one.
        whole = self._begun if self._in_request else self._begun + 1
        alone = not self._in_request
        try:
            self._feed(data)
            if self._in_head and self._begun == whole:
                self._count_head(len(data))
        except ApiError as error:
            self._bad(error)
        else:
            if alone and self._begun == whole and not self._in_request:
                self._learn(data)
        self._next()

    def _begin_body(self, piece: bytes, missing: int) -> None:
        """The first piece of a body behind a known head; so much of it is to come."""
        self._in_request = True
        self._missing = missing
        self._pieces.append(piece)
        if self._request is None and not self._waiting:
            self._rest()

    def _learn(self, data: bytes) -> None:
        """`data` was one request, whole: know its head when it comes again."""
        if not self._waiting:
            return
        request = self._waiting[-1]
        if not isinstance(request, Request) or not request.keep_alive or not request.http11:
            return
        fields = request.fields
        if request.upload is not None or b"expect" in fields or b"upgrade" in fields:
            return
        head = split_head(data, request.headers)
        if head is not None and len(data) - head[2] == len(request.body):
            self._known = self._server.known_head(head[0], head[1], request)

    def _gather(self, data: bytes) -> None:
        """A piece of a body behind a known head, and perhaps of what follows."""
        missing = self._missing
        rest = data[missing:]
        self._pieces.append(data[:missing] if rest else data)
        self._missing = max(0, missing - len(data))
        if self._missing:
            return
        body = b"".join(self._pieces)
        self._pieces = []
        self._in_request = False
        assert self._known is not None
        self._arrived(self._known.meaning.again(body))
        if rest:
            self.data_received(rest)

    def _arrived(self, request: Request) -> None:
        """A request behind a known head is whole."""
        if self._request is not None or self._waiting or self._flushing:
            self._waiting.append(request)
            self._next()
            return
        self.deadline = _NEVER
        self._request = request
        server = self._server
        if request.memo.goes_to_engine:
            self._work = server.dispatcher.submit(request, self)
        else:
            self._work = server.handle(request, self)

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # Nothing here speaks another protocol, so the offer is ignored (RFC 9110, 7.8): the
            # same request again, without it.
            head = self._head_without_upgrade()
            self._parser = httptools.HttpRequestParser(self)
            self._feed(head + data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            raise cause if isinstance(cause, ApiError) else error from None
        except httptools.HttpParserError as error:
            raise bad_request(f"Not an HTTP/1.1 request: {error}.") from None

    def _head_without_upgrade(self) -> bytes:
        method, version = self._parser.get_method(), self._parser.get_http_version().encode()
        fields = [field for field in self._headers if field[0] not in (b"upgrade", b"connection")]
        if not self._parser.should_keep_alive():
            fields.append((b"connection", b"close"))
        line = b"%b %b HTTP/%b\r\n" % (method, self._target, version)
        return line + join_headers(fields) + b"\r\n"

    def pause_writing(self) -> None:
        self._flushing = True
        if self._work is not None:
            self._work.pause()

    def resume_writing(self) -> None:
        self._flushing = False
        if self._request is None:
            self._next()
        elif self._work is not None:
            self._work.resume()

    # -- httptools callbacks

    def on_message_begin(self) -> None:
        self._begin()
        self._in_request = self._in_head = True
        self._begun += 1
        if self._request is None and not self._waiting:
            self._rest()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > _MAX_HEAD_BYTES:
            message = f"The request's header is larger than {_MAX_HEAD_BYTES} bytes."
            raise ApiError(431, message, code="header_too_large")

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._sink = self._server.sink_for(
            self._parser.get_method(), self._target, self._headers, self._hold_reading
        )
        limit: int = self._server.config.router.body_limit
        if self._sink is not None:
            limit = self._server.config.batches.file_limit + _FORM_BYTES
        for name, value in self._headers:
            if name == b"content-length":
                if int(value) > limit:
                    raise _body_too_large(limit)
            elif name == b"expect":
                self._go_on(value)

    def _go_on(self, expected: bytes) -> None:
        """The client waits for word before it sends its body."""
        answering = self._request is not None  # whose answer must not be mixed with this
        if expected.lower() == b"100-continue" and not answering and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, chunk: bytes) -> None:
        if self._sink is not None:
            self._sink.feed(chunk)
            if self._request is None and not self._waiting:
                self._rest()  # it may take its time, as long as it goes on
            return
        limit = self._server.config.router.body_limit
        if len(self._body) + len(chunk) > limit:
            raise _body_too_large(limit)
        if not self._body:
            self._body = chunk
        elif isinstance(self._body, bytearray):
            self._body += chunk
        else:
            self._body = bytearray(self._body) + chunk

    def on_message_complete(self) -> None:
        parser = self._parser
        if parser.should_upgrade():
            return  # to be parsed once more
        request = Request(
            parser.get_method(),
            self._target,
            self._headers,
            bytes(self._body),
            http11=parser.get_http_version() == "1.1",
            keep_alive=parser.should_keep_alive(),
        )
        request.upload, self._sink = self._sink, None
        if request.upload is not None:
            request.upload.end()
        request.id = request.given_id or new_request_id()
        self._waiting.append(request)
        self._begin()

    # -- one request after another

    def _bad(self, error: ApiError) -> None:
        """What came cannot be read as a request, so nothing after it can either."""
        self._closing = True
        self._abandon()
        self._waiting.append(error)

    def _abandon(self) -> None:
        """What takes a body in will get no more of it."""
        if self._sink is not None:
            self._sink.abandon()
            self._sink = None
        for waiting in self._waiting:
            if isinstance(waiting, Request) and waiting.upload is not None:
                waiting.upload.abandon()

    def _hold_reading(self, hold: bool) -> None:
        """A body is taken in more slowly than it comes, or no longer."""
        self._held = hold
        self._read_if(len(self._waiting) < 2)

    def _next(self) -> None:
        """Answer the next request, if the last is answered."""
        if self._request is None and self._waiting:
            if self._flushing:
                return  # the last answer has not left yet
            self.deadline = _NEVER
            first = self._waiting.popleft()
            if isinstance(first, ApiError):
                self._request = Request(b"GET", b"/", [], b"", keep_alive=False)
                self._request.id = new_request_id()
                self._lingering = True
                headers = error_headers(first) + own_headers(self._request.id, "refused")
                self.respond(first.status, headers, first.body())
                return
            self._request = first
            self._work = self._server.handle(first, self)
        self._read_if(len(self._waiting) < 2)

    def _rest(self) -> None:
        """Nothing to answer: the client has this long for its next request, or for the rest of
        the one that has begun."""
        server = self._server
        wait = server.client_request if self._in_request else server.client_idle
        self.deadline = server.loop.time() + wait

    def _read_if(self, wanted: bool) -> None:
        wanted = wanted and not self._held
        if wanted != self._reading and self._transport is not None and not self._closing:
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _answered(self) -> None:
        request, self._request, self._work = self._request, None, None
        transport = self._transport
        assert request is not None
        assert transport is not None
        if not request.keep_alive or self._server.dispatcher.draining:
            self._closing = True
            self._waiting.clear()
            if self._lingering and transport.can_write_eof():
                transport.write_eof()
                self.deadline = self._server.loop.time() + _LINGER_S
            else:
                transport.close()
        elif self._waiting:
            self._server.loop.call_soon(self._next)
        else:
            self._rest()

    def close_if_idle(self) -> None:
        """Close a connection on which nothing is under way."""
        if self._request is None and not self._waiting:
            self.close()

    def close(self) -> None:
        """Close after what is written has left."""
        self._closing = True
        if self._transport is not None:
            self._transport.close()

    def expired(self) -> None:
        """`deadline` has passed: a request came too slowly, or none came."""
        self.deadline = _NEVER
        if self._lingering:
            if self._transport is not None:
                self._transport.abort()
        elif self._in_request:
            self._bad(ApiError(408, "The request did not arrive in time.", code="timeout"))
            self._next()
        else:
            self.close_if_idle()

    # -- Responder

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        request, transport = self._request, self._transport
        if request is None or transport is None:
            return
        length = b"" if status in _BODILESS else b"content-length: %d\r\n" % len(body)
        if request.method == b"HEAD":
            body = b""
        draining = self._server.dispatcher.draining
        if request.keep_alive and request.http11 and not draining and len(body) < 65536:
            line = STATUS_LINES.get(status) or status_line(status)
            fields = headers.raw if type(headers) is WrittenHeaders else join_headers(headers)
            transport.write(b"%b%b%b\r\n%b" % (line, fields, length, body))
        else:
            transport.writelines((self._head(status, headers, length), body))
        self._answered()

    def start(self, status: int, headers: Headers, length: int | None) -> None:
        request, transport = self._request, self._transport
        if request is None or transport is None:
            return
        self._chunked = False
        if length is not None:
            framing = b"content-length: %d\r\n" % length
        elif request.http11:
            self._chunked = True
            framing = b"transfer-encoding: chunked\r\n"
        else:
            request.keep_alive = False
            framing = b""
        transport.write(self._head(status, headers, framing))

    def write(self, chunk: bytes) -> None:
        transport = self._transport
        if self._request is None or transport is None or not chunk:
            return
        transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._chunked else chunk)

    def finish(self) -> None:
        if self._request is None or self._transport is None:
            return
        if self._chunked:
            self._transport.write(b"0\r\n\r\n")
        self._answered()

    def broken(self, message: str, *, event_stream: bool) -> None:
        """An event stream ends with an error event; of anything else the client must see that
        it is not whole, so the connection is cut."""
        transport = self._transport
        if self._request is None or transport is None:
            return
        if event_stream:
            error = ApiError(502, message, kind="server_error", code="engine_failed")
            self.write(b"\n\ndata: %b\n\n" % error.body())
            self.finish()
        else:
            self._closing = True
            transport.abort()

    def _head(self, status: int, headers: Headers, framing: bytes) -> bytes:
        request = self._request
        assert request is not None
        if not request.keep_alive or self._server.draining:
            framing += b"connection: close\r\n"
        elif not request.http11:
            framing += b"connection: keep-alive\r\n"
        return b"%b%b%b\r\n" % (status_line(status), join_headers(headers), framing)


def _body_too_large(limit: int) -> ApiError:
    message = f"The request's body is larger than {limit} bytes (router.body_limit)."
    return ApiError(413, message, code="request_too_large")

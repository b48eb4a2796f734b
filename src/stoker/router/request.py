"""A client's request: what came over the wire, and the few things routing needs of it."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

import msgspec

from stoker.errors import InvalidRequest
from stoker.router.config import Ability
from stoker.router.long_strings import WORTH_BYTES, Shortened, has_mark, shorten
from stoker.router.wire import Headers

if TYPE_CHECKING:
    from stoker.router.engines.handle import EngineHandle

BYTES_PER_TOKEN = 4
"""English text in a common vocabulary; only ever used to weigh requests against each other."""
DEFAULT_MAX_TOKENS = 256
"""What a request without `max_tokens` is taken to generate, for weighing."""

_MAX_REQUEST_ID = 128
_STORED = b"/v1/responses/"
_MULTIPART_MODEL = re.compile(rb'name="model"\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]{1,512})\r\n')


_id_prefix = f"req-{os.urandom(6).hex()}".encode()
_id_numbers = itertools.count(1)


def new_request_id() -> bytes:
    """An id that no other request has, of this process or another."""
    return b"%b%08x" % (_id_prefix, next(_id_numbers))


class Urgency(IntEnum):
    """Who goes first when requests wait, most urgent first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2
    BATCH = 3
    """Work that nobody waits for: behind everything else."""


_URGENCY = {level.name.lower().encode(): level for level in Urgency}


class BodySink(Protocol):
    """Takes a body as it arrives, instead of its being gathered."""

    def feed(self, chunk: bytes) -> None:
        """A piece of the body. Raises `ApiError` when it is not as it should be."""

    def end(self) -> None:
        """The body is whole. Raises `ApiError` when it should not be."""

    def abandon(self) -> None:
        """The rest of the body will never come."""


class HeadMemo:
    """What was worked out from a head, for all requests that have it."""

    __slots__ = (
        "digest",
        "features",
        "goes_to_engine",
        "multipart",
        "sent_heads",
        "sent_with_key",
    )

    def __init__(self) -> None:
        self.digest: bytes | None = None
        """SHA-256 of the key it brings; empty without one."""
        self.sent_heads: dict[EngineHandle, tuple[bytes, bytes]] = {}
        """What `forwarding.request_head` made of it, for each engine,"""
        self.sent_with_key = False
        """and whether the client's key is in it."""
        self.goes_to_engine = False
        """Whether it is known to be for an engine, and not for a service of the router's own."""
        self.features: Features | None = None
        """What routing goes by, as far as the head tells."""
        self.multipart = False
        """Whether the body is a form."""


class Request:
    """One HTTP request, body and all. Field names are in lower case."""

    __slots__ = (
        "body",
        "fields",
        "headers",
        "http11",
        "id",
        "keep_alive",
        "memo",
        "method",
        "on_behalf_of",
        "path",
        "target",
        "upload",
    )

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: Headers,
        body: bytes,
        *,
        http11: bool = True,
        keep_alive: bool = True,
        request_id: bytes = b"",
    ) -> None:
        self.method = method
        self.target = target
        """Path and query, as sent."""
        self.path = target.partition(b"?")[0]
        self.headers = headers
        self.fields = dict(headers)
        self.body = body
        self.http11 = http11
        self.keep_alive = keep_alive
        self.id = request_id
        self.upload: BodySink | None = None
        """Who has taken the body, where it was not gathered in `body`."""
        self.on_behalf_of: str | None = None
        """The name of the key it counts for, where the router itself makes it."""
        self.memo = HeadMemo()

    def again(self, body: bytes) -> Request:
        """Another request with the same head."""
        other = _new_request(Request)
        other.method = self.method
        other.target = self.target
        other.path = self.path
        other.headers = self.headers
        other.fields = self.fields
        other.body = body
        other.http11 = self.http11
        other.keep_alive = self.keep_alive
        given = self.given_id if b"x-request-id" in self.fields else b""
        other.id = given or b"%b%08x" % (_id_prefix, next(_id_numbers))
        other.upload = None
        other.on_behalf_of = None
        other.memo = self.memo
        return other

    @property
    def given_id(self) -> bytes:
        """The client's own id for it; empty without a usable one."""
        given = self.fields.get(b"x-request-id", b"")
        return given if len(given) <= _MAX_REQUEST_ID and given.isascii() else b""


_new_request = Request.__new__
_NONE = msgspec.Raw()


class _Body(msgspec.Struct):
    """The fields that routing reads; msgspec skips all others without making objects of them."""

    model: str | None = None
    stream: bool | None = None
    user: str | None = None
    previous_response_id: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n: msgspec.Raw = _NONE
    stream_options: msgspec.Raw = _NONE
    messages: msgspec.Raw = _NONE
    prompt: msgspec.Raw = _NONE
    input: msgspec.Raw = _NONE
    system: msgspec.Raw = _NONE
    instructions: msgspec.Raw = _NONE
    tools: msgspec.Raw = _NONE
    response_format: msgspec.Raw = _NONE
    structured_outputs: msgspec.Raw = _NONE


_decoder = msgspec.json.Decoder(_Body, strict=False)
_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_list_decoder = msgspec.json.Decoder(list[msgspec.Raw])


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


_options_decoder = msgspec.json.Decoder(_StreamOptions)
_STREAMS_CHUNKS = frozenset((b"/v1/chat/completions", b"/v1/completions"))
"""Routes whose streams tell what was used only when asked."""
_WRITES_NOTHING = frozenset((b"/v1/embeddings", b"/v1/rerank", b"/v1/score", b"/tokenize"))
_LISTS = (b'["', b"[[")
"""How lists of prompts begin."""
_WHERE = re.compile(r" - at `\$\.?([^`]*)`")


class Features(msgspec.Struct, eq=False):
    """What a policy may look at."""

    path: bytes
    model: str | None = None
    """The model meant: the client's name for it until the fleet resolves it."""
    asked_model: str | None = None
    """The model's name as it stands in the body."""
    is_json: bool = False
    stream: bool = False
    user: str | None = None
    session: str | None = None
    caller: str = ""
    """Whose request it is, for fairness: its API key, or the `user` it names."""
    urgency: Urgency = Urgency.NORMAL
    backend: str | None = None
    """The kind or the name of the engines that may answer; None for any."""
    max_tokens: int | None = None
    preamble: bytes = b""
    """What precedes the conversation in the prompt: system text and tools, as JSON."""
    prompt: bytes = b""
    """The messages, prompt or input, as JSON."""
    stored: bool = False
    """Whether it is about something that only one engine keeps: a stored response."""
    has_tools: bool = False
    has_schema: bool = False
    """Whether the answer must follow a schema or grammar."""
    prompt_tokens: int = 1
    """A rough count of the prompt's tokens."""
    output_tokens: int = DEFAULT_MAX_TOKENS
    """How many tokens the request may generate, or a guess."""
    tokens: list[int] | None = None
    """The prompt's tokens, where the policy wants them and an engine has told."""
    adapter: str | None = None
    """The LoRA adapter asked for, which caches are told apart by."""
    lacks_usage: bool = False
    """Whether its stream would not tell what was used, because the client did not ask."""
    stream_options: bytes | None = None
    """Its `stream_options`, as JSON."""
    answers: int = 1
    """How many answers are wanted: to the prompt, or to all of a list of them."""
    block_hashes: list[int] | None = None
    """Chained hashes of the prompt's blocks, once a policy has asked for them."""

    if TYPE_CHECKING:  # msgspec gives it to every Struct, and its stubs do not say so

        def __copy__(self) -> Features: ...

    @property
    def estimated_tokens(self) -> int:
        """What it may take at most, as far as can be told before."""
        return self.prompt_tokens + self.output_tokens * self.answers

    @property
    def words(self) -> int:
        """The words of the prompt's text. Scripts without spaces count 8 characters as one."""
        try:
            text = " ".join(_texts(msgspec.json.decode(self.prompt))) if self.prompt else ""
        except (msgspec.DecodeError, UnicodeDecodeError):
            return 0
        return max(len(text.split()), len(text) // 8)

    @property
    def needs(self) -> frozenset[Ability]:
        """What an engine must be able to do beyond text."""
        needs: set[Ability] = set()
        if self.has_tools:
            needs.add("tools")
        if self.has_schema:
            needs.add("schema")
        if b'"image_url"' in self.prompt or b'"input_image"' in self.prompt:
            needs.add("vision")
        if b'"input_audio"' in self.prompt:
            needs.add("audio")
        return frozenset(needs)


def _read_head(request: Request) -> Features:
    """What the head says, for all requests that have it."""
    path = request.path
    features = Features(path=path, stored=path.startswith(_STORED))
    fields = request.fields
    content_type = fields.get(b"content-type", b"")
    request.memo.multipart = content_type.startswith(b"multipart/")
    session = fields.get(b"x-session-id")
    if session is not None:
        features.session = session.decode("latin-1")
    backend = fields.get(b"x-stoker-backend")
    if backend is not None and backend != b"auto":
        features.backend = backend.decode("latin-1")
    features.caller = fields.get(b"authorization", b"").decode("latin-1")
    urgency = fields.get(b"x-stoker-urgency")
    if urgency is not None:
        if urgency not in _URGENCY:
            raise InvalidRequest(
                "the header x-stoker-urgency must be high, normal, low or batch, not "
                f"{urgency.decode('latin-1')!r}",
                param="x-stoker-urgency",
            )
        features.urgency = _URGENCY[urgency]
    if path in _WRITES_NOTHING:
        features.output_tokens = 0
    return features


def read_features(request: Request) -> Features:
    """Read what routing needs. Raises `InvalidRequest` when the body is not a JSON object."""
    memo = request.memo
    if memo.features is None:
        memo.features = _read_head(request)
    features = memo.features.__copy__()
    if memo.multipart:
        named = _MULTIPART_MODEL.search(request.body)
        if named:
            features.model = named[1].decode("utf-8", "replace")
        return features
    if not request.body:
        return features
    text_of: Callable[[msgspec.Raw], bytes] = bytes
    body = shortened = None
    if len(request.body) >= WORTH_BYTES:
        shortened = shorten(request.body)
    if shortened is not None:
        body = _decode_shortened(shortened)
        text_of = shortened.whole
    if body is None:
        body, text_of = _decode(request.body), bytes
    features.is_json = True
    features.model = features.asked_model = body.model
    if body.stream:
        features.stream = True
    if body.user:
        features.user = body.user
        if not features.caller:
            features.caller = body.user
    if body.previous_response_id is not None:
        features.stored = True
    most = body.max_tokens
    if most is None:
        most = body.max_completion_tokens
        if most is None:
            most = body.max_output_tokens
    if most is not None:
        if most < 0:
            most = 0
        features.max_tokens = most
        if features.output_tokens:
            features.output_tokens = most
    if body.n is not _NONE and (n := bytes(body.n)).isdigit():
        features.answers = max(1, min(int(n[:6]), 1000))
    if features.stream and request.path in _STREAMS_CHUNKS:
        options = body.stream_options
        _read_stream_options(features, None if options is _NONE else text_of(options))
    length = 0
    part = body.messages
    if part is _NONE:
        part = body.input if body.prompt is _NONE else body.prompt
    if part is not _NONE:
        features.prompt = prompt = text_of(part)
        length = len(prompt)
        if prompt.startswith(_LISTS):
            features.answers *= _items(prompt)
    if not (body.system is _NONE and body.instructions is _NONE and body.tools is _NONE):
        before = (body.system, body.instructions, body.tools)
        features.preamble = b"".join([text_of(one) for one in before if one is not _NONE])
        length += len(features.preamble)
    features.prompt_tokens = length // BYTES_PER_TOKEN + 1
    if body.tools is not _NONE:
        features.has_tools = text_of(body.tools) not in (b"null", b"[]")
    if body.response_format is not _NONE:
        features.has_schema = b"json_schema" in text_of(body.response_format)
    if body.structured_outputs is not _NONE:
        features.has_schema = text_of(body.structured_outputs) != b"null"
    return features


def _decode(body: bytes) -> _Body:
    """Raises `InvalidRequest`."""
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        found = _WHERE.search(str(error))
        field = found[1] if found else None
        reason = _WHERE.sub("", str(error))
        where = f"`{field}`: " if field else "the body must be a JSON object: "
        raise InvalidRequest(f"{where}{reason}", param=field or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None


def _decode_shortened(shortened: Shortened) -> _Body | None:
    """None where it takes the whole text: something is wrong in it, or a long string in a field
    that routing goes by."""
    try:
        body = _decoder.decode(shortened.text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if has_mark(body.model) or has_mark(body.user) or has_mark(body.previous_response_id):
        return None
    return body


def _items(prompt: bytes) -> int:
    """How many prompts there are in a list of texts, or of lists."""
    try:
        return max(1, len(_list_decoder.decode(prompt)))
    except msgspec.DecodeError:
        return 1


def _read_stream_options(features: Features, options: bytes | None) -> None:
    """Whether the client asked for the usage. What it asked for wrongly, the engine shall judge."""
    features.stream_options = options
    if options is None or options == b"null":
        features.lacks_usage = True
        return
    try:
        asked = _options_decoder.decode(options)
    except msgspec.MsgspecError:
        return
    # With both, an engine adds usage to every piece; only the client may want that.
    features.lacks_usage = not asked.include_usage and not asked.continuous_usage_stats


def _texts(part: object) -> Iterator[str]:
    """The texts of a prompt: a string, or strings in `content` and `text` fields."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, list):
        for item in part:
            yield from _texts(item)
    elif isinstance(part, dict):
        for field in ("content", "text"):
            yield from _texts(part.get(field))


def with_model(body: bytes, model: str) -> bytes:
    """The same JSON object with another `model`; every other field keeps its bytes."""
    fields = _fields_decoder.decode(body)
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)


def with_usage_asked(body: bytes, options: bytes | None) -> bytes:
    """The same JSON object, asking that a stream tell what was used; `options` are its
    `stream_options` so far."""
    if options is None:
        end = body.rindex(b"}")
        return body[:end] + b',"stream_options":{"include_usage":true}' + body[end:]
    fields = _fields_decoder.decode(body)
    inner = {} if options == b"null" else _fields_decoder.decode(options)
    inner["include_usage"] = msgspec.Raw(b"true")
    fields["stream_options"] = msgspec.Raw(msgspec.json.encode(inner))
    return msgspec.json.encode(fields)

"""Every operation of the router: what it answers itself, and what it hands on to engines.

Engines of other kinds may answer more, and say more, than is described for those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from pydantic import BaseModel

from stoker.api.anthropic import (
    AnthropicMessage,
    CountTokensRequest,
    MessagesRequest,
    TokenCount,
)
from stoker.api.anthropic_errors import AnthropicErrorResponse
from stoker.api.anthropic_events import MessageStreamEvent
from stoker.api.chat_batch import ChatBatchRequest
from stoker.api.embeddings import EmbeddingList, EmbeddingRequest
from stoker.api.errors import ErrorResponse
from stoker.api.openai import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    Completion,
    CompletionRequest,
)
from stoker.api.response_events import ResponseStreamEvent
from stoker.api.responses import (
    DeletedResponse,
    InputItemList,
    InputTokens,
    ResponseResource,
    ResponsesRequest,
)
from stoker.api.tokenize import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
)
from stoker.router import described
from stoker.router.batch_route import RequestList
from stoker.router.batches.objects import (
    Batch,
    BatchRequest,
    Deleted,
    File,
    FileForm,
    FilesQuery,
    ListQuery,
    Page,
)
from stoker.router.ledger.tables import GROUPS
from stoker.router.xgen import GenerateRequest

_OWN = (401,)
_STORED = (400, 401, 404, 500, 503)
_ENGINES = (400, 401, 403, 404, 413, 429, 500, 502, 503, 504)

Described = type[BaseModel] | type[msgspec.Struct]


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    summary: str
    answer: Described | str
    """A type, or a media type."""
    body: type[BaseModel] | None = None
    chunk: type[BaseModel] | None = None
    """What each event holds, where a stream is asked for."""
    errors: Iterable[int] = _OWN
    error: type[BaseModel] = ErrorResponse
    query: Mapping[str, Any] | None = None
    """The JSON schema of each parameter."""
    also: Mapping[int, Described] | None = None
    """What is answered with other statuses."""


def _engine(
    path: str,
    summary: str,
    body: type[BaseModel],
    answer: type[BaseModel],
    chunk: type[BaseModel] | None = None,
) -> Operation:
    return Operation("post", path, summary, answer, body, chunk, errors=_ENGINES)


def _parameters(model: type[BaseModel]) -> Mapping[str, Any]:
    """The fields of a query."""
    properties: dict[str, Any] = model.model_json_schema()["properties"]
    return {
        # A query has no null: what is left out is.
        name: schema["anyOf"][0] if "anyOf" in schema else schema
        for name, schema in properties.items()
    }


_DATE = {"type": "string", "format": "date"}
_GROUPS = f"({'|'.join(GROUPS)})"
_USAGE_QUERY = {
    "by": {"type": "string", "pattern": f"^({_GROUPS}(,{_GROUPS})*)?$"},
    "since": _DATE,
    "until": _DATE,
    "key": {"type": "string"},
}

OPERATIONS = (
    Operation(
        "get", "/health", "How the router and its engines are.", described.RouterHealth, errors=()
    ),
    Operation(
        "get",
        "/ready",
        "Whether every model has an engine now.",
        described.Ready,
        errors=(),
        also={503: described.Ready},
    ),
    Operation("get", "/metrics", "Counters, in Prometheus' text format.", "text/plain", errors=()),
    Operation("get", "/v1/models", "The models of the whole fleet.", described.FleetModels),
    Operation("get", "/v1/models/{model}", "One model.", described.FleetModel, errors=(401, 404)),
    Operation("get", "/models/status", "Every engine's load and memory.", described.ModelsStatus),
    Operation(
        "get",
        "/usage",
        "Who used what, and what it cost.",
        described.Usage,
        errors=(400, 401, 403, 503),
        query=_USAGE_QUERY,
    ),
    Operation(
        "post",
        "/generate",
        "A plain text for a plain prompt.",
        described.Generated,
        GenerateRequest,
        described.GeneratedEvent,
        errors=_ENGINES,
    ),
    Operation(
        "post",
        "/generate/stream",
        "The same as a stream; needs `stream: true`.",
        "text/event-stream",
        GenerateRequest,
        described.GeneratedEvent,
        errors=_ENGINES,
    ),
    Operation(
        "post",
        "/batch",
        "A list of requests, answered as a list.",
        described.BatchResults,
        RequestList,
        errors=_ENGINES,
    ),
    Operation("get", "/v1/files", "Files.", Page, errors=_STORED, query=_parameters(FilesQuery)),
    Operation("post", "/v1/files", "Upload a file.", File, FileForm, errors=(*_STORED, 413)),
    Operation("get", "/v1/files/{file_id}", "A file's card.", File, errors=_STORED),
    Operation("delete", "/v1/files/{file_id}", "Forget a file.", Deleted, errors=_STORED),
    Operation(
        "get",
        "/v1/files/{file_id}/content",
        "What a file holds.",
        "application/octet-stream",
        errors=_STORED,
    ),
    Operation("get", "/v1/batches", "Batches.", Page, errors=_STORED, query=_parameters(ListQuery)),
    Operation("post", "/v1/batches", "Begin a batch.", Batch, BatchRequest, errors=(*_STORED, 413)),
    Operation("get", "/v1/batches/{batch_id}", "How far a batch is.", Batch, errors=_STORED),
    Operation(
        "post", "/v1/batches/{batch_id}/cancel", "End a batch.", Batch, errors=(*_STORED, 409)
    ),
    _engine(
        "/v1/chat/completions",
        "Answer a conversation.",
        ChatCompletionRequest,
        ChatCompletion,
        ChatCompletionChunk,
    ),
    _engine(
        "/v1/chat/completions/batch", "Answer conversations.", ChatBatchRequest, ChatCompletion
    ),
    _engine("/v1/completions", "Continue prompts.", CompletionRequest, Completion, Completion),
    _engine("/v1/embeddings", "A vector for each input.", EmbeddingRequest, EmbeddingList),
    _engine(
        "/v1/responses",
        "Answer the input.",
        ResponsesRequest,
        ResponseResource,
        ResponseStreamEvent,
    ),
    _engine("/v1/responses/input_tokens", "Count tokens.", ResponsesRequest, InputTokens),
    Operation(
        "get",
        "/v1/responses/{response_id}",
        "A stored response.",
        ResponseResource,
        chunk=ResponseStreamEvent,
        errors=_ENGINES,
        query={
            "stream": {"type": "boolean"},
            "starting_after": {"type": "integer", "minimum": -1, "maximum": 2**31},
        },
    ),
    Operation(
        "delete",
        "/v1/responses/{response_id}",
        "Forget a response.",
        DeletedResponse,
        errors=_ENGINES,
    ),
    Operation(
        "post",
        "/v1/responses/{response_id}/cancel",
        "End a response made in the background.",
        ResponseResource,
        errors=_ENGINES,
    ),
    Operation(
        "get",
        "/v1/responses/{response_id}/input_items",
        "What a response was made from.",
        InputItemList,
        errors=_ENGINES,
        query={
            "after": {"type": "string"},
            "limit": {"type": "integer", "minimum": 1, "maximum": 100},
            "order": {"enum": ["asc", "desc"]},
        },
    ),
    Operation(
        "post",
        "/v1/messages",
        "Answer a conversation, as Anthropic's API does.",
        AnthropicMessage,
        MessagesRequest,
        MessageStreamEvent,
        errors=_ENGINES,
        error=AnthropicErrorResponse,
    ),
    Operation(
        "post",
        "/v1/messages/count_tokens",
        "Count tokens.",
        TokenCount,
        CountTokensRequest,
        errors=_ENGINES,
        error=AnthropicErrorResponse,
    ),
    _engine("/tokenize", "Token ids of a text.", TokenizeRequest, TokenizeResponse),
    _engine("/detokenize", "Text of token ids.", DetokenizeRequest, DetokenizeResponse),
)

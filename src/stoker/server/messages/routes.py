"""`POST /v1/messages` and `/v1/messages/count_tokens`, as Anthropic's clients know them."""

from __future__ import annotations

from typing import ClassVar

from fastapi import APIRouter, Request, Response

from stoker.api.anthropic import (
    AnthropicMessage,
    CountTokensRequest,
    MessagesRequest,
    TokenCount,
)
from stoker.api.anthropic_errors import AnthropicErrorResponse, anthropic_error
from stoker.api.anthropic_events import MessageStreamEvent, Ping
from stoker.api.errors import ApiError
from stoker.api.sse import named_event
from stoker.engine.outputs import RequestOutput
from stoker.server.conversation import PreparedChat, blaming, prepare_chat, submit_chats
from stoker.server.generation import finished_outputs, new_id
from stoker.server.messages.builder import MessageBuilder
from stoker.server.messages.conversation import FIELDS, chat_request
from stoker.server.openapi import describe
from stoker.server.parse import parse_body
from stoker.server.state import ServedModel, state_of
from stoker.server.stream import Encoder, EventStream

router = APIRouter(tags=["messages"])


@router.post(
    "/v1/messages",
    **describe(
        MessagesRequest,
        AnthropicMessage,
        chunk=MessageStreamEvent,
        error=AnthropicErrorResponse,
    ),
)
async def create_message(http: Request) -> Response:
    """Answer a conversation, whole or as a stream of events."""
    state = state_of(http)
    config = state.config
    model = state.ready()
    request = await parse_body(http, MessagesRequest)
    name = state.check_name(request.model)
    message_id = new_id("msg_")
    with blaming(FIELDS):
        chat = chat_request(request)
        prepared = await prepare_chat(model, config, chat)
        fills_context = _fit(model, prepared)
        streams = submit_chats(model, message_id, [prepared], chat)
    builder = MessageBuilder(
        message_id, name, prepared.reader.parser(), fills_context=fills_context
    )
    if request.stream:
        return EventStream(
            streams,
            MessageEncoder(builder, http.scope["state"]["request_id"]),
            keep_alive_interval=config.keep_alive_interval,
            timeout=config.request_timeout,
        )
    (output,) = await finished_outputs(streams, http.receive, config.request_timeout)
    builder.take(output)
    return Response(builder.message().model_dump_json(), media_type="application/json")


@router.post(
    "/v1/messages/count_tokens",
    **describe(CountTokensRequest, TokenCount, error=AnthropicErrorResponse),
)
async def count_tokens(http: Request) -> TokenCount:
    """How many tokens the input of a message would be."""
    state = state_of(http)
    model = state.ready()
    request = await parse_body(http, CountTokensRequest)
    state.check_name(request.model)
    with blaming(FIELDS):
        prepared = await prepare_chat(model, state.config, chat_request(request))
    return TokenCount(input_tokens=len(prepared.prompt.token_ids))


def _fit(model: ServedModel, chat: PreparedChat) -> bool:
    """Lower the limit of the answer to what the context has room for; whether that was needed.

    Every message must set `max_tokens`, so clients ask for as much as any model gives.
    """
    params = chat.prompt.params
    room = model.max_model_len - len(chat.prompt.token_ids)
    if params.max_tokens is None or not 0 < room < params.max_tokens:
        return False
    params.max_tokens = room
    return True


class MessageEncoder(Encoder):
    """A message as a stream of events."""

    keep_alive: ClassVar[bytes] = named_event("ping", Ping().model_dump_json())

    def __init__(self, builder: MessageBuilder, request_id: str) -> None:
        self._builder = builder
        self._request_id = request_id

    def encode(self, prompt_index: int, output: RequestOutput) -> bytes:
        return self._builder.take(output)

    def end(self) -> bytes:
        return b""

    def fail(self, error: ApiError) -> bytes:
        return named_event("error", anthropic_error(error, self._request_id))

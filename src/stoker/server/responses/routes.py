"""`/v1/responses`: create, fetch, listen, cancel and delete."""

from __future__ import annotations

import time
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from stoker.api.errors import ApiError, bad_request
from stoker.api.response_events import ResponseStreamEvent
from stoker.api.response_items import InputItem
from stoker.api.responses import (
    DeletedResponse,
    InputItemList,
    InputTokens,
    Reasoning,
    ResponseResource,
    ResponsesRequest,
    TextConfig,
)
from stoker.api.sse import DONE
from stoker.engine.outputs import RequestOutput
from stoker.server.conversation import blaming, prepare_chat, submit_chats
from stoker.server.generation import finished_outputs, new_id
from stoker.server.openapi import describe, errors, success
from stoker.server.parse import parse_body
from stoker.server.responses.background import BackgroundResponse
from stoker.server.responses.builder import ResponseBuilder
from stoker.server.responses.conversation import FIELDS, as_input, chat_request, input_items
from stoker.server.responses.store import StoredResponse
from stoker.server.state import ServerState, state_of
from stoker.server.stream import Encoder, EventStream, ListenerStream

router = APIRouter(tags=["responses"])


@router.post(
    "/v1/responses", **describe(ResponsesRequest, ResponseResource, chunk=ResponseStreamEvent)
)
async def create_response(http: Request) -> Response:
    """Answer the input: whole, as a stream of events, or in the background."""
    state = state_of(http)
    config = state.config
    model = state.ready()
    request = await parse_body(http, ResponsesRequest)
    name = state.check_name(request.model)
    items = _context(state, request)
    response = _new_response(request, name)
    with blaming(FIELDS):
        chat = chat_request(request, items)
        prepared = await prepare_chat(model, config, chat)
        streams = submit_chats(model, response.id, [prepared], chat)
    background: BackgroundResponse | None = None

    def keep(ended: ResponseResource) -> None:
        if background is not None:
            state.active -= 1
        if ended.store:
            state.responses.put(StoredResponse(ended, items, background))

    builder = ResponseBuilder(
        response,
        prepared.reader.parser(),
        model.tokenizer,
        num_logprobs=request.num_logprobs,
        on_end=keep,
    )
    if request.background:
        (stream,) = streams
        background = BackgroundResponse(builder, stream, timeout=config.request_timeout)
        state.active += 1
        state.responses.put(StoredResponse(response, items, background))
        if request.stream:
            return ListenerStream(
                background.listen(), keep_alive_interval=config.keep_alive_interval
            )
        return _json(response)
    if request.stream:
        return EventStream(
            streams,
            ResponseEncoder(builder),
            keep_alive_interval=config.keep_alive_interval,
            timeout=config.request_timeout,
        )
    (output,) = await finished_outputs(streams, http.receive, config.request_timeout)
    builder.take(output)
    builder.end()
    return _json(builder.response)


@router.post("/v1/responses/input_tokens", **describe(ResponsesRequest, InputTokens))
async def count_input_tokens(http: Request) -> InputTokens:
    """How many tokens the input of a response would be."""
    state = state_of(http)
    model = state.ready()
    request = await parse_body(http, ResponsesRequest)
    state.check_name(request.model)
    with blaming(FIELDS):
        chat = chat_request(request, _context(state, request))
        prepared = await prepare_chat(model, state.config, chat)
    return InputTokens(input_tokens=len(prepared.prompt.token_ids))


@router.post("/v1/responses/compact", include_in_schema=False)
async def compact() -> Response:
    """Refused as a route that is not there, by which clients know to keep the conversation."""
    raise ApiError(
        404,
        "This server does not compact conversations: send the items as they are.",
        code="unknown_url",
    )


@router.get(
    "/v1/responses/{response_id}",
    responses={
        200: success(ResponseResource, ResponseStreamEvent),
        **errors(400, 401, 404),
    },
)
async def get_response(
    http: Request,
    response_id: str,
    stream: bool = False,
    starting_after: Annotated[int, Query(ge=-1, le=2**31)] = -1,
) -> Response:
    """A stored response; of one made in the background also its events, from the beginning or
    after `starting_after`."""
    state = state_of(http)
    stored = _stored(state, response_id)
    if not stream:
        return _json(stored.current)
    if stored.background is None:
        raise bad_request(
            "Only responses made in the background can be streamed again.", param="stream"
        )
    return ListenerStream(
        stored.background.listen(starting_after),
        keep_alive_interval=state.config.keep_alive_interval,
    )


@router.post(
    "/v1/responses/{response_id}/cancel",
    responses={200: {"model": ResponseResource}, **errors(400, 401, 404)},
)
async def cancel_response(http: Request, response_id: str) -> Response:
    """End a response that is made in the background; one that has ended is left as it is."""
    stored = _stored(state_of(http), response_id)
    if stored.background is None:
        raise bad_request(
            "Only responses made in the background can be cancelled; to end any other, close "
            "its connection.",
            param="response_id",
        )
    await stored.background.cancel()
    return _json(stored.current)


@router.delete("/v1/responses/{response_id}", responses=errors(401, 404))
async def delete_response(http: Request, response_id: str) -> DeletedResponse:
    """Forget a response, and end it if it is still being made."""
    state = state_of(http)
    stored = _stored(state, response_id)
    if stored.background is not None:
        await stored.background.cancel()
    state.responses.remove(response_id)
    return DeletedResponse(id=response_id)


@router.get("/v1/responses/{response_id}/input_items", responses=errors(400, 401, 404))
async def list_input_items(
    http: Request,
    response_id: str,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> InputItemList:
    """What a stored response was made from, the items of earlier responses included."""
    items = list(_stored(state_of(http), response_id).items)
    if order == "desc":
        items.reverse()
    begin = 0
    if after is not None:
        ids = [item.id for item in items]
        if after not in ids:
            raise bad_request(f"No such item: {after!r}.", param="after")
        begin = ids.index(after) + 1
    page = items[begin : begin + limit]
    return InputItemList(
        data=page,
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=begin + limit < len(items),
    )


class ResponseEncoder(Encoder):
    """A response as a stream of events."""

    def __init__(self, builder: ResponseBuilder) -> None:
        self._builder = builder

    def begin(self) -> bytes:
        return b"".join(self._builder.begin())

    def encode(self, prompt_index: int, output: RequestOutput) -> bytes:
        return b"".join(self._builder.take(output))

    def end(self) -> bytes:
        return b"".join(self._builder.end()) + DONE

    def fail(self, error: ApiError) -> bytes:
        return b"".join(self._builder.fail(error)) + DONE


def _context(state: ServerState, request: ResponsesRequest) -> list[InputItem]:
    """The request's input, after what the response it follows was made from and brought."""
    items = input_items(request.input)
    previous_id = request.previous_response_id
    if previous_id is None:
        return items
    previous = state.responses.get(previous_id)
    if previous is None:
        raise bad_request(
            f"No response {previous_id!r} is stored here: it has expired, was made with "
            "'store' false, or by another server.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    if previous.current.status in ("queued", "in_progress"):
        raise bad_request(
            f"The response {previous_id!r} has not ended yet.", param="previous_response_id"
        )
    return [*previous.items, *as_input(previous.current.output), *items]


def _new_response(request: ResponsesRequest, name: str) -> ResponseResource:
    """The response before it begins."""

    def given(value: float | None, default: float) -> float:
        return default if value is None else value

    text = request.text or TextConfig()
    return ResponseResource(
        id=new_id("resp_"),
        created_at=int(time.time()),
        status="queued" if request.background else "in_progress",
        model=name,
        instructions=request.instructions,
        previous_response_id=request.previous_response_id,
        max_output_tokens=request.max_output_tokens,
        max_tool_calls=request.max_tool_calls,
        temperature=given(request.temperature, 1.0),
        top_p=given(request.top_p, 1.0),
        presence_penalty=given(request.presence_penalty, 0.0),
        frequency_penalty=given(request.frequency_penalty, 0.0),
        top_logprobs=request.top_logprobs or 0,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        tools=request.tools or [],
        tool_choice=request.tool_choice or "auto",
        text=text.model_dump(by_alias=True, exclude_none=True),
        reasoning=request.reasoning or Reasoning(),
        store=request.store is not False,
        background=bool(request.background),
        metadata=request.metadata or {},
        safety_identifier=request.safety_identifier,
        prompt_cache_key=request.prompt_cache_key,
    )


def _stored(state: ServerState, response_id: str) -> StoredResponse:
    stored = state.responses.get(response_id)
    if stored is None:
        raise ApiError(
            404,
            f"No response {response_id!r} is stored here.",
            param="response_id",
            code="response_not_found",
        )
    return stored


def _json(model: BaseModel) -> Response:
    return Response(model.model_dump_json(by_alias=True), media_type="application/json")

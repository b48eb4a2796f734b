"""`POST /v1/chat/completions/batch`: several conversations in one request, as vLLM takes them."""

from __future__ import annotations

import asyncio
import time

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from stoker.api.chat_batch import ChatBatchRequest
from stoker.api.errors import from_validation
from stoker.api.openai import ChatCompletion
from stoker.server.chat import chat_choice
from stoker.server.config import ServerConfig
from stoker.server.conversation import PreparedChat, blaming, prepare_chat, submit_chats
from stoker.server.generation import UsageCount, finished_outputs, new_id
from stoker.server.openapi import describe
from stoker.server.parse import parse_body
from stoker.server.state import ServedModel, state_of

router = APIRouter(tags=["chat"])


@router.post("/v1/chat/completions/batch", **describe(ChatBatchRequest, ChatCompletion))
async def create_chat_batch(http: Request) -> Response:
    """Answer every conversation; choice `i` answers conversation `i`."""
    state = state_of(http)
    model = state.ready()
    request = await parse_body(http, ChatBatchRequest)
    name = state.check_name(request.model)
    chats = [
        await _prepare(model, state.config, request, index)
        for index in range(len(request.messages))
    ]
    answer_id = new_id("chatcmpl-")
    created = int(time.time())
    streams = submit_chats(model, answer_id, chats, request)
    outputs = await finished_outputs(streams, http.receive, state.config.request_timeout)
    usage = UsageCount()
    choices = []
    for index, (chat, output) in enumerate(zip(chats, outputs, strict=True)):
        usage.add(index, output)
        choice = chat_choice(output.outputs[0], chat.reader, request.num_logprobs, model.tokenizer)
        choice.index = index
        choices.append(choice)
    answer = ChatCompletion(
        id=answer_id, created=created, model=name, choices=choices, usage=usage.usage()
    )
    return Response(answer.model_dump_json(), media_type="application/json")


async def _prepare(
    model: ServedModel, config: ServerConfig, request: ChatBatchRequest, index: int
) -> PreparedChat:
    with blaming({"messages": f"messages[{index}]"}):
        try:
            chat = request.conversation(index)
        except ValidationError as error:
            raise from_validation(error.errors(include_url=False), {}) from None
        prepared = await prepare_chat(model, config, chat)
    await asyncio.sleep(0)  # a long list of conversations must not hold up the streams
    return prepared

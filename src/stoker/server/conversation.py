"""From a chat request to the engine: one path for every API that holds conversations.

Responses and Messages bring their requests into the form of chat completions, so that whatever
chat completions can do, they can. What differs is how the answer is written down.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from stoker.api.errors import ApiError
from stoker.api.openai import ChatCompletionRequest, ChatFields
from stoker.engine.async_engine import RequestStream
from stoker.errors import InvalidRequest
from stoker.model.template import ChatTemplate
from stoker.server.answer import AnswerReader, marks_for
from stoker.server.config import ServerConfig
from stoker.server.constraint import constraint
from stoker.server.generation import EnginePrompt, constrain, encode, submit
from stoker.server.params import sampling_params
from stoker.server.render import render_messages
from stoker.server.state import ServedModel
from stoker.server.tools import (
    ToolUse,
    describe_tools,
    format_for,
    in_words,
    knows_tools,
    tool_use,
)


@dataclass(frozen=True, slots=True)
class PreparedChat:
    """A conversation as the engine takes it, and how to read the answer."""

    prompt: EnginePrompt
    reader: AnswerReader


async def prepare_chat(
    model: ServedModel, config: ServerConfig, request: ChatCompletionRequest
) -> PreparedChat:
    """Render, tokenize and constrain, without holding up the event loop.

    Raises:
        InvalidRequest: naming the field of a chat request that is wrong.
    """
    params = sampling_params(
        request,
        max_tokens=request.token_limit,
        logprobs=request.num_logprobs,
        sampling_mode=config.sampling_mode,
    )
    tools = tool_use(request, format_for(model.template, config.tool_call_parser))
    text = _render(request, model.template, tools)
    marks = marks_for(model.template, config.reasoning_parser)
    reader = AnswerReader(tools, marks, is_open=marks is not None and marks.opened_by(text))
    if reader.shows_special_tokens(model.tokenizer):
        params.skip_special_tokens = False
    await constrain(
        model,
        params,
        constraint(request, model.tokenizer, tools=tools, marks=marks, prompt=text),
    )
    prompt = await encode(model.tokenizer, text, add_special_tokens=False)
    return PreparedChat(EnginePrompt(prompt, params), reader)


def submit_chats(
    model: ServedModel,
    answer_id: str,
    chats: Sequence[PreparedChat],
    request: ChatFields,
) -> list[RequestStream]:
    """One stream per conversation, all or none.

    Raises what `AsyncEngine.generate` raises, naming the field of a chat request.
    """
    limit = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    with blaming({"prompt": "messages", "max_tokens": limit}):
        return submit(
            model, answer_id, [chat.prompt for chat in chats], priority=request.priority or 0
        )


def _render(request: ChatCompletionRequest, template: ChatTemplate, tools: ToolUse | None) -> str:
    """The prompt: the conversation, and the tools that may be called."""
    described = describe_tools(request) if tools is not None else []
    messages = request.messages
    if not knows_tools(template):
        messages, described = in_words(messages, described), []
    begin_answer = request.add_generation_prompt
    if begin_answer is None:
        begin_answer = not request.continue_final_message
    return render_messages(
        template,
        messages,
        add_generation_prompt=begin_answer,
        continue_final_message=bool(request.continue_final_message),
        tools=described or None,
        variables=request.chat_template_kwargs,
    )


@contextmanager
def blaming(fields: Mapping[str, str]) -> Iterator[None]:
    """Let errors name the field that the client wrote: `fields` maps ours to the client's.

    A place inside a field (`messages[2].content`) becomes the client's field as a whole.
    """
    try:
        yield
    except ApiError as error:
        info = error.info
        theirs = _theirs(info.param, fields)
        info.message = info.message.replace(f"'{info.param}'", f"'{theirs}'")
        info.param = theirs
        raise
    except InvalidRequest as error:
        error.param = _theirs(error.param, fields)
        raise


def _theirs(param: str | None, fields: Mapping[str, str]) -> str | None:
    if param is None:
        return None
    head = re.split(r"[.\[]", param, maxsplit=1)[0]
    return fields.get(head, param)

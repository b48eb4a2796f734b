"""From a chat request to the engine: one path for every API that holds conversations.

Responses and Messages bring their requests into the form of chat completions, so that whatever
chat completions can do, they can. What differs is how the answer is written down.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from stoker.api.errors import ApiError
from stoker.api.openai import ChatCompletionRequest
from stoker.engine.async_engine import RequestStream
from stoker.errors import InvalidRequest
from stoker.server.generation import encode, submit
from stoker.server.params import sampling_params
from stoker.server.render import render_messages
from stoker.server.state import ServedModel


async def render_prompt(model: ServedModel, request: ChatCompletionRequest) -> list[int]:
    """The conversation as the tokens that the model is to continue.

    Raises:
        InvalidRequest: the messages are wrong, or the chat template refused them.
    """
    begin_answer = request.add_generation_prompt
    if begin_answer is None:
        begin_answer = not request.continue_final_message
    text = render_messages(
        model.template,
        request.messages,
        add_generation_prompt=begin_answer,
        continue_final_message=bool(request.continue_final_message),
        variables=request.chat_template_kwargs,
    )
    return await encode(model.tokenizer, text, add_special_tokens=False)


def submit_chat(
    model: ServedModel,
    answer_id: str,
    prompts: Sequence[Sequence[int]],
    request: ChatCompletionRequest,
    *,
    max_tokens: int | None,
) -> list[RequestStream]:
    """A stream per rendered prompt, all sampled as `request` says, or none.

    Raises what `AsyncEngine.generate` raises, naming the fields of a chat request.
    """
    params = sampling_params(request, max_tokens=max_tokens, logprobs=request.num_logprobs)
    limit = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    with blaming({"prompt": "messages", "max_tokens": limit}):
        return submit(model, answer_id, prompts, params, priority=request.priority or 0)


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

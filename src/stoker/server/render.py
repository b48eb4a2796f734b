"""A conversation as the text that the model was trained to continue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stoker.api.errors import bad_request
from stoker.api.openai import ChatMessage
from stoker.model.template import ChatTemplate

# What `ChatTemplate.render` is told by other fields of the request.
_RESERVED = ("messages", "tools", "add_generation_prompt", "bos_token", "eos_token")


def render_messages(
    template: ChatTemplate,
    messages: Sequence[ChatMessage],
    *,
    add_generation_prompt: bool,
    continue_final_message: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """The messages through the model's chat template; `variables` are the template's own.

    `continue_final_message` cuts the text after the last message's content, so that the answer
    goes on where that message stops.

    Raises:
        InvalidRequest: the messages are wrong, or the template refused them.
    """
    for name in variables or ():
        if name in _RESERVED:
            raise bad_request(
                f"'{name}' cannot be set through chat_template_kwargs.",
                param="chat_template_kwargs",
            )
    text = template.render(
        [message.for_template() for message in messages],
        tools,
        add_generation_prompt=add_generation_prompt,
        **(variables or {}),
    )
    return _cut_after(text, messages[-1]) if continue_final_message else text


def _cut_after(text: str, message: ChatMessage) -> str:
    """`text` up to the end of `message`'s content, which a template may have stripped."""
    content = message.content
    if not isinstance(content, str) or not content.strip():
        raise bad_request(
            "'continue_final_message' needs text in the last message.",
            param="continue_final_message",
        )
    for wanted in (content, content.strip()):
        begin = text.rfind(wanted)
        if begin >= 0:
            return text[: begin + len(wanted)]
    raise bad_request(
        "'continue_final_message' does not work with this model: its chat template changes the "
        "last message.",
        param="continue_final_message",
    )

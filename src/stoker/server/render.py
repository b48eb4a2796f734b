"""A conversation as the text that the model was trained to continue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stoker.api.errors import bad_request
from stoker.api.openai import ChatMessage
from stoker.model.template import ChatTemplate

# What `ChatTemplate.render` is told by other fields of the request.
_RESERVED = (
    "messages",
    "tools",
    "add_generation_prompt",
    "continue_final_message",
    "bos_token",
    "eos_token",
)


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

    Raises:
        InvalidRequest: the messages are wrong, or the template refused them.
    """
    for name in variables or ():
        if name in _RESERVED:
            raise bad_request(
                f"'{name}' cannot be set through chat_template_kwargs.",
                param="chat_template_kwargs",
            )
    return template.render(
        [message.for_template() for message in messages],
        tools,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
        **(variables or {}),
    )

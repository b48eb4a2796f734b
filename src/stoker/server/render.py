"""A conversation as the text that the model was trained to continue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stoker.api.errors import bad_request
from stoker.api.openai import ChatMessage
from stoker.server.state import ServedModel


def render_messages(
    model: ServedModel,
    messages: Sequence[ChatMessage],
    *,
    add_generation_prompt: bool,
    continue_final_message: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> str:
    """The messages through the model's chat template; `extra` are the template's own variables.

    Raises:
        TemplateError: the template refused the messages.
        ApiError: 400, the model has no template.
    """
    if model.template is None:
        raise bad_request(
            "This model has no chat template. Use /v1/completions, or start the server with "
            "--chat-template.",
            param="messages",
        )
    return model.template.render(
        [message.for_template() for message in messages],
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
        **(extra or {}),
    )

"""The forms in which a prompt is handed to `LLM`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

from stoker.errors import InvalidRequest
from stoker.model.tokenizer import Tokenizer


class TextPrompt(TypedDict):
    """A prompt as text."""

    prompt: str
    cache_salt: NotRequired[str]


class TokensPrompt(TypedDict):
    """A prompt as token ids, with its text if there is one."""

    prompt_token_ids: list[int]
    prompt: NotRequired[str]
    cache_salt: NotRequired[str]


PromptType = str | TextPrompt | TokensPrompt | list[int]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, tokenized."""

    token_ids: list[int]
    text: str | None
    cache_salt: str | None


def as_list(prompts: PromptType | Sequence[PromptType]) -> list[PromptType]:
    """One prompt or several, as a list. A list of integers is one prompt."""
    if isinstance(prompts, str | Mapping) or _is_token_ids(prompts):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]


def tokenize(prompt: PromptType, tokenizer: Tokenizer) -> Prompt:
    """Bring a prompt of any form to token ids.

    Raises:
        InvalidRequest: it has none of the forms.
    """
    fields: dict[str, Any] = {}
    if isinstance(prompt, str):
        fields["prompt"] = prompt
    elif isinstance(prompt, Mapping):
        fields.update(prompt)
    elif _is_token_ids(prompt):
        fields["prompt_token_ids"] = prompt
    text, salt = fields.get("prompt"), fields.get("cache_salt")
    token_ids = fields.get("prompt_token_ids")
    if token_ids is not None:
        return Prompt(list(token_ids), text, salt)
    if not isinstance(text, str):
        raise InvalidRequest(
            'a prompt is a string, a list of token ids, {"prompt": …} or '
            f'{{"prompt_token_ids": […]}}; got {prompt!r:.100}',
            param="prompt",
        )
    return Prompt(tokenizer.encode(text), text, salt)


def _is_token_ids(value: object) -> bool:
    return isinstance(value, Sequence) and bool(value) and all(isinstance(v, int) for v in value)

"""The engine's log-probabilities in the two forms that OpenAI's answers have."""

from __future__ import annotations

from collections.abc import Sequence

from stoker.api.openai import (
    ChatLogprobs,
    CompletionLogprobs,
    PromptLogprobs,
    RankedLogprob,
    TokenLogprob,
    TopLogprob,
)
from stoker.engine.outputs import Logprob
from stoker.model.tokenizer import Tokenizer

LOWEST = -9999.0
"""Stands for minus infinity, which JSON cannot say."""

TokenLogprobs = dict[int, Logprob]
"""Token id → its log-probability; of the token that was chosen (or given) first."""


def chat_logprobs(
    entries: Sequence[TokenLogprobs], count: int, tokenizer: Tokenizer
) -> ChatLogprobs:
    """`count`: how many of the likeliest tokens to list beside each."""

    def top(token_id: int, entry: Logprob) -> TopLogprob:
        return TopLogprob(
            token=entry.decoded_token or "",
            logprob=max(entry.logprob, LOWEST),
            bytes=list(tokenizer.token_bytes(token_id)),
        )

    content: list[TokenLogprob] = []
    for entry in entries:
        chosen_id, chosen = next(iter(entry.items()))
        content.append(
            TokenLogprob(
                **top(chosen_id, chosen).model_dump(),
                top_logprobs=[top(token_id, other) for token_id, other in likeliest(entry, count)],
            )
        )
    return ChatLogprobs(content=content)


def completion_logprobs(
    entries: Sequence[TokenLogprobs | None],
    token_ids: Sequence[int],
    count: int,
    tokenizer: Tokenizer,
    offset: int = 0,
) -> CompletionLogprobs:
    """Columns for `token_ids`; `offset` is where the first of them begins in the choice's text."""
    columns = CompletionLogprobs(text_offset=[], token_logprobs=[], tokens=[], top_logprobs=[])
    for entry, token_id in zip(entries, token_ids, strict=True):
        if entry is None:
            token = tokenizer.decode([token_id], skip_special_tokens=False, continuation=True)
            columns.token_logprobs.append(None)
            columns.top_logprobs.append(None)
        else:
            chosen = entry[token_id]
            token = chosen.decoded_token or ""
            columns.token_logprobs.append(max(chosen.logprob, LOWEST))
            columns.top_logprobs.append(_by_text(entry, token_id, count))
        columns.tokens.append(token)
        columns.text_offset.append(offset)
        offset += len(token)
    return columns


def prompt_logprobs(entries: Sequence[TokenLogprobs | None] | None) -> PromptLogprobs | None:
    """Log-probabilities of a prompt in vLLM's form, where the engine has any."""
    if entries is None:
        return None
    return [None if entry is None else _ranked(entry) for entry in entries]


def _ranked(entry: TokenLogprobs) -> dict[int, RankedLogprob]:
    return {
        token_id: RankedLogprob(
            logprob=max(found.logprob, LOWEST), rank=found.rank, decoded_token=found.decoded_token
        )
        for token_id, found in entry.items()
    }


def likeliest(entry: TokenLogprobs, count: int) -> list[tuple[int, Logprob]]:
    """The `count` likeliest tokens of an entry, without the chosen one unless it is among them."""
    ranked = [(token_id, found) for token_id, found in entry.items() if (found.rank or 0) <= count]
    return sorted(ranked, key=lambda item: item[1].rank or 0)


def _by_text(entry: TokenLogprobs, chosen_id: int, count: int) -> dict[str, float]:
    """The likeliest tokens and the chosen one by their text; of equal texts the likelier."""
    found: dict[str, float] = {}
    for _, other in [*likeliest(entry, count), (chosen_id, entry[chosen_id])]:
        text = other.decoded_token or ""
        found[text] = max(other.logprob, LOWEST, found.get(text, LOWEST))
    return found

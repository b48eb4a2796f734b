"""What the readers in `hf` and `gguf` find out about a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import tokenizers

from stoker.model.tokenizer.vocabulary import TokenEncoding


@dataclass(frozen=True, slots=True)
class TokenizerParts:
    """A tokenizer taken to pieces; `Tokenizer` puts them together."""

    backend: tokenizers.Tokenizer
    """Text → ids. Adds special tokens itself only if the model's own file says how."""
    tokens: Sequence[str | None]
    """Token by id, as the file spells it; None where an id has no token."""
    encoding: TokenEncoding | None
    """How tokens spell bytes; None if the file decodes in a way we cannot stream."""
    added: Mapping[int, str]
    """Tokens matched literally in the text, special or not."""
    special_ids: frozenset[int]
    """Added tokens that are control marks and not part of the text."""
    bos_id: int | None
    eos_id: int | None
    eos_ids: frozenset[int]
    strip_leading_space: bool
    """The encoder puts a space before a text, which decoding takes away again."""
    chat_templates: Mapping[str, str]
    """Jinja sources by name; the usual one is called `default`."""
    prefix: tuple[int, ...] = field(default=())
    """Special tokens that go before a text, where the backend does not add them."""
    suffix: tuple[int, ...] = field(default=())

"""A model's vocabulary as llguidance wants it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from stoker.errors import InvalidRequest
from stoker.model.tokenizer import Tokenizer


class TokenTable:
    """Token id → bytes, and text → token ids, under the attribute names llguidance looks for."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """Ids from the tokenizer's size up to `vocab_size` have no token and are never allowed."""
        self._tokenizer = tokenizer
        self.tokens = [tokenizer.token_bytes(i) for i in range(vocab_size)]
        self.end_ids = sorted(i for i in tokenizer.eos_token_ids if i < vocab_size)
        if not self.end_ids:
            raise InvalidRequest(
                "structured_outputs needs a model with an end token, and this one has none",
                param="structured_outputs",
            )
        # As text, an end token inside a string would end the answer instead.
        special = tokenizer.special_ids | tokenizer.eos_token_ids
        self.special_token_ids = sorted(i for i in special if i < vocab_size)
        self.eos_token_id = self.end_ids[0]
        self.bos_token_id = tokenizer.bos_token_id
        self._byte_ids: dict[bytes, int] = {}
        for i in range(vocab_size - 1, -1, -1):
            if len(self.tokens[i]) == 1:
                self._byte_ids[self.tokens[i]] = i

    def trial_setting(self, limits: Mapping[str, int | bool]) -> str:
        """What the trial process must know of this vocabulary, and the limits it keeps, as JSON."""
        return json.dumps(
            {
                "limits": dict(limits),
                "vocab_size": len(self.tokens),
                "special": {i: self.tokens[i].decode() for i in self.special_token_ids},
                "end": self.eos_token_id,
            }
        )

    def __call__(self, text: str) -> list[int]:
        """The tokens a grammar's forced text is written with: the model's own, if they spell it.

        SentencePiece puts a space before a text; after a line end it does not.
        """
        for lead in ("", "\n"):
            ids = self._tokenizer.encode(lead + text, add_special_tokens=False)
            skip = self._spelling(ids, len(lead.encode()))
            if skip is not None and self._bytes(ids[skip:]) == text.encode():
                return ids[skip:]
        return [self._byte_ids[byte] for byte in self._split(text) if byte in self._byte_ids]

    def _spelling(self, ids: list[int], length: int) -> int | None:
        """How many of `ids` spell the first `length` bytes; None if a token crosses their end."""
        size = 0
        for count, token in enumerate(ids):
            if size == length:
                return count
            size += len(self.tokens[token])
            if size > length and length:
                return None
        return len(ids) if size == length else None

    def _bytes(self, ids: list[int]) -> bytes:
        return b"".join(self.tokens[i] for i in ids)

    @staticmethod
    def _split(text: str) -> list[bytes]:
        data = text.encode()
        return [data[i : i + 1] for i in range(len(data))]

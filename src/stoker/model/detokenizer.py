"""Tokens to text as they come, never half a character.

The pieces of text returned for the tokens of a sequence join to exactly what
`Tokenizer.decode` gives for all of them. Each token costs a table look-up, or, where characters
are split over tokens, the decoding of a few bytes.
"""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Iterable, Sequence

from stoker.model.tokenizer import Tokenizer

_LONGEST_CHARACTER = 4
"""Bytes of the longest UTF-8 character, so also the most tokens it can be split over."""


class IncrementalDetokenizer:
    """The text of one growing sequence."""

    __slots__ = ("_at_start", "_bytes", "_pending", "_skip", "_text")

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int] = (),
        *,
        skip_special_tokens: bool = True,
    ) -> None:
        """`prompt_ids` precede the text and are not part of it.

        With a prompt, a leading space belongs to the text, and a character that the prompt left
        unfinished is completed by it.
        """
        self._text = tokenizer.vocabulary.token_text
        self._bytes = tokenizer.vocabulary.token_bytes
        self._skip: frozenset[int] = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._at_start = tokenizer.strip_leading_space and len(prompt_ids) == 0
        self._pending = b""
        if len(prompt_ids):
            tail = b"".join(map(self._bytes, prompt_ids[-_LONGEST_CHARACTER:]))
            self._pending = tail[utf_8_decode(tail, "replace", False)[1] :]

    def append_one(self, token_id: int) -> str:
        """The text that this token completes."""
        if not self._pending and not self._at_start and token_id not in self._skip:
            text = self._text(token_id)
            if text is not None:
                return text
        return self.append((token_id,))

    def append(self, ids: Iterable[int]) -> str:
        """The text that these tokens complete."""
        out = ""
        for token_id in ids:
            if token_id in self._skip:
                continue
            text = None if self._pending else self._text(token_id)
            if text is None:
                data = self._pending + self._bytes(token_id)
                text, used = utf_8_decode(data, "replace", False)
                self._pending = data[used:]
            out += text
        return self._strip(out)

    def finish(self) -> str:
        """What is left when the sequence ends: U+FFFD for an unfinished character, or nothing."""
        rest, self._pending = self._pending, b""
        return self._strip(rest.decode("utf-8", "replace"))

    def _strip(self, text: str) -> str:
        if self._at_start and text:
            self._at_start = False
            return text.removeprefix(" ")
        return text

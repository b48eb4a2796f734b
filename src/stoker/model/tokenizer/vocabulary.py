"""Which bytes each token of a vocabulary stands for.

Two encodings cover the families we run. Byte-level BPE (GPT-2) writes every byte as one printable
character; SentencePiece writes a space as U+2581 and spells unknown characters as `<0xNN>` tokens.
Added tokens are literal text in both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum


class TokenEncoding(StrEnum):
    """How the strings of a vocabulary spell bytes."""

    BYTE_LEVEL = "byte-level BPE"
    SENTENCEPIECE = "SentencePiece"


SPACE = "\u2581"
"""SentencePiece's visible space."""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_alphabet() -> dict[str, int]:
    """GPT-2's character → byte table (Radford et al. 2019, the released encoder).

    Printable Latin-1 characters stand for themselves; the other 68 bytes are numbered from
    U+0100 in byte order.
    """
    table: dict[str, int] = {}
    shifted = 0x100
    for byte in range(256):
        if 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or 0xAE <= byte <= 0xFF:
            table[chr(byte)] = byte
        else:
            table[chr(shifted)] = byte
            shifted += 1
    return table


_TO_LATIN1 = {ord(char): byte for char, byte in byte_alphabet().items()}


class Vocabulary:
    """Token id → bytes, worked out when first asked for and then kept."""

    def __init__(
        self, tokens: Sequence[str | None], encoding: TokenEncoding, added: Mapping[int, str]
    ) -> None:
        """`tokens[i]` is token i as the file spells it (None: a hole); `added`: literal tokens."""
        self._tokens = tokens
        self._added = added
        self.encoding = encoding
        self._bytes: dict[int, bytes] = {}
        self._texts: dict[int, str | None] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes token `token_id` stands for; empty for an id that has no token."""
        found = self._bytes.get(token_id)
        if found is None:
            found = self._bytes[token_id] = self._spell(token_id)
        return found

    def token_text(self, token_id: int) -> str | None:
        """The token as text if it is whole characters, None if it holds a part of one."""
        try:
            return self._texts[token_id]
        except KeyError:
            pass
        try:
            text = self.token_bytes(token_id).decode("utf-8")
        except UnicodeDecodeError:
            text = None
        self._texts[token_id] = text
        return text

    def _spell(self, token_id: int) -> bytes:
        if not 0 <= token_id < len(self._tokens):
            return b""
        token = self._tokens[token_id]
        if token is None:
            return b""
        literal = self._added.get(token_id)
        if literal is not None:
            return literal.encode("utf-8", "replace")
        if self.encoding is TokenEncoding.BYTE_LEVEL:
            try:
                return token.translate(_TO_LATIN1).encode("latin-1")
            except UnicodeEncodeError:
                return token.encode("utf-8", "replace")
        byte = _BYTE_TOKEN.fullmatch(token)
        if byte is not None:
            return bytes.fromhex(byte[1])
        return token.replace(SPACE, " ").encode("utf-8", "replace")

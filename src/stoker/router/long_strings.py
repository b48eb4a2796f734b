"""Long strings of a JSON text, cut out before it is parsed.

To find the end of a string a parser looks at each of its bytes; `bytes.find` looks at dozens in
the same time. So a prompt of a few long strings is parsed without them. What stands in them is not
checked then: whether it is JSON, the engine judges. Where strings begin and end is certain.
"""

from __future__ import annotations

import secrets

import msgspec

WORTH_BYTES = 64 * 1024
"""Shorter texts are parsed in the time it takes to look for long strings."""
_LONG = 4096
# So many quotes are looked at, and more after a long string: a text of many short strings, or one
# full of quotes, is left to the parser.
_STEPS = 48
_BYTES_A_STEP = 2048
_MOST_BACKSLASHES = 64
# Nobody outside can know it, so it stands nowhere by chance or by intent.
_MARK = secrets.token_hex(16).encode()
_DIGITS = 8


class Shortened:
    """A text with its long strings cut out."""

    __slots__ = ("_strings", "text")

    def __init__(self, text: bytes, strings: list[bytes]) -> None:
        self.text = text
        """With marks for strings: parsed as before, if it was JSON."""
        self._strings = strings

    def whole(self, part: msgspec.Raw) -> bytes:
        """A part of the text as it was."""
        first, *rest = bytes(part).split(_MARK)
        if not rest:
            return first
        pieces = [first]
        for piece in rest:
            pieces.append(self._strings[int(piece[:_DIGITS])])
            pieces.append(piece[_DIGITS:])
        return b"".join(pieces)


def has_mark(value: str | None) -> bool:
    """Whether a string read from a shortened text had more in it."""
    return value is not None and _MARK.decode() in value


def shorten(text: bytes) -> Shortened | None:
    """Cut out the long strings; None where there are none, or where finding them does not pay."""
    find = text.find
    pieces: list[bytes] = []
    strings: list[bytes] = []
    begin, steps = 0, _STEPS
    opening = find(b'"')
    while opening >= 0 and steps > 0:
        closing = find(b'"', opening + 1)
        while closing >= 0 and text[closing - 1] == 0x5C:
            before = text[max(opening + 1, closing - _MOST_BACKSLASHES) : closing]
            backslashes = len(before) - len(before.rstrip(b"\\"))
            if backslashes % 2 == 0 and backslashes < _MOST_BACKSLASHES:
                break
            steps -= 1
            if steps <= 0 or backslashes == _MOST_BACKSLASHES:
                closing = -1
                break
            closing = find(b'"', closing + 1)
        if closing < 0:
            break
        if closing - opening > _LONG:
            pieces.append(text[begin : opening + 1])
            pieces.append(b"%b%08d" % (_MARK, len(strings)))
            strings.append(text[opening + 1 : closing])
            steps += (closing - opening) // _BYTES_A_STEP
            begin = closing
        steps -= 1
        opening = find(b'"', closing + 1)
    if not strings:
        return None
    pieces.append(text[begin:])
    return Shortened(b"".join(pieces), strings)

"""GBNF, the grammar notation of llama.cpp, read into a tree.

A grammar is a list of rules `name ::= …`, of which `root` is the whole answer. Terminals are
single characters: `"text"`, `[a-z]`, `[^"]`, `.`; `<[7]>` and `<name>` are single tokens. `*`,
`+`, `?`, `{m}`, `{m,}` and `{m,n}` repeat what they follow.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_DEPTH = 64
"""Parentheses within parentheses."""
MAX_REPEAT = 2000
"""Largest number in `{m,n}`."""
_LAST_CODE_POINT = 0x10FFFF
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n"} | {char: char for char in '\\"[]-'}


class GbnfError(ValueError):
    """The text is not a GBNF grammar; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One character out of a set, or out of all others."""

    ranges: tuple[tuple[int, int], ...]
    """First and last code point of each part."""
    negated: bool = False


@dataclass(frozen=True, slots=True)
class TokenRef:
    """One token, by id or by its text, or any other token."""

    token: int | str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class RuleRef:
    name: str


@dataclass(frozen=True, slots=True)
class Sequence:
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    item: Node
    least: int
    most: int | None
    """None: without limit."""


Node = Chars | TokenRef | RuleRef | Sequence | Choice | Repeat
EMPTY = Sequence(())


def parse_gbnf(text: str) -> dict[str, Node]:
    """The rules by name. Raises `GbnfError`."""
    rules = _Parser(text).rules()
    if "root" not in rules:
        raise GbnfError("there is no rule 'root', where a GBNF grammar begins")
    for name, rule in rules.items():
        for missing in sorted(references(rule) - rules.keys()):
            raise GbnfError(f"rule '{name}' uses '{missing}', which is not defined")
    return rules


def references(node: Node) -> set[str]:
    """Names of the rules that `node` mentions."""
    match node:
        case RuleRef(name):
            return {name}
        case Sequence(children) | Choice(children):
            return set().union(*map(references, children))
        case Repeat(item):
            return references(item)
        case _:
            return set()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._pos = 0
        self._depth = 0

    def rules(self) -> dict[str, Node]:
        rules: dict[str, Node] = {}
        self._space(newlines=True)
        while self._pos < len(self._text):
            name = self._name()
            if name in rules:
                raise self._error(f"rule '{name}' is defined twice")
            self._space(newlines=False)
            if not self._take("::="):
                raise self._error("expected '::='")
            self._space(newlines=True)
            rules[name] = self._choice(nested=False)
            if self._peek() not in ("\r", "\n", ""):
                raise self._error("expected the end of the rule")
            self._space(newlines=True)
        return rules

    def _choice(self, *, nested: bool) -> Node:
        options = [self._sequence(nested=nested)]
        while self._take("|"):
            self._space(newlines=True)
            options.append(self._sequence(nested=nested))
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _sequence(self, *, nested: bool) -> Node:
        items: list[Node] = []
        while True:
            found = self._item()
            if found is None:
                break
            while (repeated := self._repetition(found)) is not None:
                found = repeated
            items.append(found)
            self._space(newlines=nested)
        return items[0] if len(items) == 1 else Sequence(tuple(items))

    def _item(self) -> Node | None:
        char = self._peek()
        if char == '"':
            return self._literal()
        if char == "[":
            return self._char_class()
        if char == "(":
            return self._group()
        if char == "." and self._take("."):
            return Chars((), negated=True)
        if char in ("<", "!"):
            return self._token()
        if char in _WORD and char:
            return RuleRef(self._name())
        return None

    def _literal(self) -> Node:
        self._take('"')
        chars: list[Node] = []
        while not self._take('"'):
            code = self._char()
            chars.append(Chars(((code, code),)))
        return chars[0] if len(chars) == 1 else Sequence(tuple(chars))

    def _char_class(self) -> Chars:
        self._take("[")
        negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        while not self._take("]"):
            first = last = self._char()
            if self._peek() == "-" and self._text[self._pos + 1 : self._pos + 2] not in ("]", ""):
                self._pos += 1
                last = self._char()
                if last < first:
                    raise self._error("a range runs backwards")
            ranges.append((first, last))
        if not ranges and not negated:
            raise self._error("an empty set '[]' matches nothing")
        return Chars(tuple(ranges), negated)

    def _group(self) -> Node:
        self._take("(")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(f"more than {MAX_DEPTH} parentheses are open")
        self._space(newlines=True)
        inner = self._choice(nested=True)
        if not self._take(")"):
            raise self._error("expected ')'")
        self._depth -= 1
        return inner

    def _token(self) -> TokenRef:
        negated = self._take("!")
        if not self._take("<"):
            raise self._error("expected '<'")
        if self._take("["):
            number = self._integer()
            if not self._take("]>"):
                raise self._error("expected ']>'")
            return TokenRef(number, negated)
        end = self._text.find(">", self._pos)
        if end < 0:
            raise self._error("expected '>'")
        text = f"<{self._text[self._pos : end]}>"
        self._pos = end + 1
        return TokenRef(text, negated)

    def _repetition(self, item: Node) -> Node | None:
        for sign, least, most in (("*", 0, None), ("+", 1, None), ("?", 0, 1)):
            if self._take(sign):
                return Repeat(item, least, most)
        if not self._take("{"):
            return None
        self._space(newlines=False)
        least = self._integer()
        self._space(newlines=False)
        bound: int | None = least
        if self._take(","):
            self._space(newlines=False)
            bound = self._integer() if self._peek().isdecimal() else None
            self._space(newlines=False)
        if not self._take("}"):
            raise self._error("expected '}'")
        if max(least, bound or 0) > MAX_REPEAT:
            raise self._error(f"a repetition of more than {MAX_REPEAT}")
        if bound is not None and bound < least:
            raise self._error(f"'{{{least},{bound}}}' has more at least than at most")
        return Repeat(item, least, bound)

    def _char(self) -> int:
        """One character of a literal or a set, escapes resolved."""
        char = self._peek()
        if not char:
            raise self._error("the grammar ends in the middle of a literal or set")
        self._pos += 1
        if char != "\\":
            return ord(char)
        escape = self._peek()
        self._pos += 1
        if escape in _ESCAPES:
            return ord(_ESCAPES[escape])
        length = _HEX_DIGITS.get(escape)
        if length is None:
            raise self._error(f"unknown escape '\\{escape}'")
        digits = self._text[self._pos : self._pos + length]
        try:
            code = int(digits, 16)
        except ValueError:
            code = -1
        if len(digits) != length or not digits.isalnum() or not 0 <= code <= _LAST_CODE_POINT:
            raise self._error(f"'\\{escape}' needs {length} hexadecimal digits of a character")
        self._pos += length
        return code

    def _name(self) -> str:
        start = self._pos
        while self._peek() in _WORD and self._peek():
            self._pos += 1
        if start == self._pos:
            raise self._error("expected the name of a rule")
        return self._text[start : self._pos]

    def _integer(self) -> int:
        start = self._pos
        while self._peek().isdecimal() and self._peek().isascii():
            self._pos += 1
        digits = self._text[start : self._pos]
        if not 0 < len(digits) <= 9:
            raise self._error("expected a number of at most nine digits")
        return int(digits)

    def _space(self, *, newlines: bool) -> None:
        while (char := self._peek()) and (char in " \t#" or (newlines and char in "\r\n")):
            if char == "#":
                while self._peek() not in ("\r", "\n", ""):
                    self._pos += 1
            else:
                self._pos += 1

    def _peek(self) -> str:
        return self._text[self._pos : self._pos + 1]

    def _take(self, text: str) -> bool:
        if not self._text.startswith(text, self._pos):
            return False
        self._pos += len(text)
        return True

    def _error(self, message: str) -> GbnfError:
        line = self._text.count("\n", 0, self._pos) + 1
        column = self._pos - self._text.rfind("\n", 0, self._pos)
        return GbnfError(f"line {line}, column {column}: {message}")

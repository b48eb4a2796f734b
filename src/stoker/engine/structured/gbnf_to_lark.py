"""GBNF in the notation that llguidance reads.

llguidance cuts text into lexemes before it parses, always the longest it can, as compilers do.
GBNF has no lexemes: `[a-z]+ "b"` matches "ab". So every terminal that is written here is a single
character, and the parser alone decides, which is exact.
"""

from __future__ import annotations

from collections.abc import Callable

from stoker.engine.structured.gbnf import (
    EMPTY,
    Chars,
    Choice,
    GbnfError,
    Node,
    Repeat,
    RuleRef,
    Sequence,
    TokenRef,
    parse_gbnf,
)

_SURROGATES = (0xD800, 0xDFFF)
_ALL = ((0, _SURROGATES[0] - 1), (_SURROGATES[1] + 1, 0x10FFFF))


def gbnf_to_lark(text: str, token_id: Callable[[str], int | None]) -> str:
    """The same grammar in Lark. `token_id` finds the token of `<name>`. Raises `GbnfError`."""
    rules = {name: _without_right_recursion(name, rule) for name, rule in parse_gbnf(text).items()}
    return _Writer(list(rules), token_id).write(rules)


def _without_right_recursion(name: str, rule: Node) -> Node:
    """`a ::= x a | y` as `a ::= x* y`, the same by Arden's lemma.

    The parser keeps every open `a` until the end of the repetition, so right recursion costs time
    that grows with the square of the length; repetition does not.
    """
    again: list[Node] = []
    last: list[Node] = []
    for option in _options(rule):
        items = option.items if isinstance(option, Sequence) else (option,)
        if items and items[-1] == RuleRef(name):
            again.append(Sequence(items[:-1]))
        else:
            last.append(option)
    if not again or not last:
        return rule
    return Sequence((Repeat(Choice(tuple(again)), 0, None), Choice(tuple(last))))


def _options(node: Node) -> list[Node]:
    """The alternatives of a node: of `(x | y)?` x, y and nothing."""
    match node:
        case Choice(options):
            return [inner for option in options for inner in _options(option)]
        case Repeat(item, 0, 1):
            return [*_options(item), EMPTY]
        case _:
            return [node]


class _Writer:
    def __init__(self, names: list[str], token_id: Callable[[str], int | None]) -> None:
        # Lark's names are more restricted than GBNF's, and upper case means something there.
        self._names = {name: f"r{i}" for i, name in enumerate(names)} | {"root": "start"}
        self._token_id = token_id
        self._terminals: dict[str, str] = {}

    def write(self, rules: dict[str, Node]) -> str:
        lines = [f"{self._names[name]}: {self._node(rule)}" for name, rule in rules.items()]
        lines += [f"{name}: /{regex}/" for regex, name in self._terminals.items()]
        return "\n".join(lines) + "\n"

    def _node(self, node: Node) -> str:
        match node:
            case Chars():
                return self._terminals.setdefault(_regex(node), f"C{len(self._terminals)}")
            case TokenRef():
                return self._token(node)
            case RuleRef(name):
                return self._names[name]
            case Sequence(items):
                return " ".join(map(self._atom, items)) or '""'
            case Choice(options):
                return " | ".join(map(self._node, options))
            case Repeat(item, least, most):
                return f"{self._atom(item)}{_bounds(least, most)}"

    def _atom(self, node: Node) -> str:
        if isinstance(node, Chars | TokenRef | RuleRef):
            return self._node(node)
        return f"({self._node(node)})"

    def _token(self, node: TokenRef) -> str:
        number = node.token if isinstance(node.token, int) else self._token_id(node.token)
        if number is None:
            raise GbnfError(f"'{node.token}' is no token of this model")
        return f"<[{'^' if node.negated else ''}{number}]>"


def _bounds(least: int, most: int | None) -> str:
    simple = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((least, most))
    if simple is not None:
        return simple
    return f"{{{least},{'' if most is None else most}}}"


def _regex(chars: Chars) -> str:
    """A set of characters as a regular expression; surrogates are no characters."""
    parts = [
        (max(first, low), min(last, high))
        for first, last in chars.ranges
        for low, high in _ALL
        if first <= high and last >= low
    ]
    if chars.negated:
        parts = _complement(parts)
    if not parts:
        raise GbnfError("a set of characters matches nothing")
    inner = "".join(
        f"\\x{{{low:X}}}" if low == high else f"\\x{{{low:X}}}-\\x{{{high:X}}}"
        for low, high in parts
    )
    return f"[{inner}]"


def _complement(parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    result = []
    for low, high in _ALL:
        start = low
        for first, last in sorted(parts):
            if last < start or first > high:
                continue
            if first > start:
                result.append((start, first - 1))
            start = last + 1
        if start <= high:
            result.append((start, high))
    return result

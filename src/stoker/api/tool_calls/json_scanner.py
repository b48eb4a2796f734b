"""JSON, checked one character at a time (RFC 8259)."""

from __future__ import annotations

from enum import Enum, auto

_SPACE = frozenset(" \t\n\r")
_ESCAPES = frozenset('"\\/bfnrt')
_HEX = frozenset("0123456789abcdefABCDEF")
_DIGITS = frozenset("0123456789")
_LITERALS = {"t": "rue", "f": "alse", "n": "ull"}


class State(Enum):
    """What the scanner is in, or waits for."""

    VALUE = auto()
    """A value, which must come."""
    VALUE_OR_END = auto()
    """The first element of an array, or its end."""
    KEY = auto()
    KEY_OR_END = auto()
    COLON = auto()
    COMMA_OR_END = auto()
    STRING = auto()
    ESCAPE = auto()
    HEX = auto()
    NUMBER = auto()
    LITERAL = auto()
    DONE = auto()
    """The value is whole."""


class JsonScanner:
    """Follows one JSON value."""

    __slots__ = ("_expected", "_in_key", "_number", "_open", "state")

    def __init__(self) -> None:
        self.state = State.VALUE
        self._open: list[str] = []
        self._in_key = False
        self._expected = ""
        self._number = ""

    @property
    def is_closed(self) -> bool:
        """The value is whole and nothing can be added to it."""
        return self.state is State.DONE

    @property
    def is_whole(self) -> bool:
        """What was taken is a value; a number may still go on."""
        return self.is_closed or (self.state is State.NUMBER and self._ends_number)

    @property
    def _ends_number(self) -> bool:
        return not self._open and self._number in "01fx"

    def take(self, text: str) -> int:
        """Take characters up to the end of the value; returns how many."""
        for count, char in enumerate(text):
            if self.is_closed or not self.push(char):
                return count
        return len(text)

    def push(self, char: str) -> bool:
        """Take the next character. False, and nothing taken, if JSON cannot go on with it."""
        match self.state:
            case State.STRING:
                return self._in_string(char)
            case State.ESCAPE:
                if char == "u":
                    self._expected = "hhhh"
                    self.state = State.HEX
                    return True
                return self._to(State.STRING, char in _ESCAPES)
            case State.HEX:
                if char not in _HEX:
                    return False
                self._expected = self._expected[1:]
                return self._to(State.HEX if self._expected else State.STRING)
            case State.NUMBER:
                return self._in_number(char)
            case State.LITERAL:
                if char != self._expected[0]:
                    return False
                self._expected = self._expected[1:]
                return True if self._expected else self._value_ended()
        if char in _SPACE:
            return self.state is not State.DONE
        return self._structure(char)

    def _structure(self, char: str) -> bool:
        """A character outside of strings, numbers and literals that is no white space."""
        match self.state:
            case State.VALUE:
                return self._value(char)
            case State.VALUE_OR_END:
                return self._close("[") if char == "]" else self._value(char)
            case State.KEY_OR_END if char == "}":
                return self._close("{")
            case State.KEY | State.KEY_OR_END if char == '"':
                self._in_key = True
                return self._to(State.STRING)
            case State.COLON:
                return self._to(State.VALUE, char == ":")
            case State.COMMA_OR_END if char == ",":
                return self._to(State.KEY if self._open[-1] == "{" else State.VALUE)
            case State.COMMA_OR_END if char in "}]":
                return self._close("{" if char == "}" else "[")
        return False

    def _value(self, char: str) -> bool:
        if char == '"':
            self._in_key = False
            return self._to(State.STRING)
        if char in "{[":
            self._open.append(char)
            return self._to(State.KEY_OR_END if char == "{" else State.VALUE_OR_END)
        if char in _LITERALS:
            self._expected = _LITERALS[char]
            return self._to(State.LITERAL)
        if char == "-" or char in _DIGITS:
            self._number = "-" if char == "-" else "0" if char == "0" else "1"
            return self._to(State.NUMBER)
        return False

    def _in_string(self, char: str) -> bool:
        if char == '"':
            if self._in_key:
                return self._to(State.COLON)
            return self._value_ended()
        if char == "\\":
            return self._to(State.ESCAPE)
        return char >= " "

    def _in_number(self, char: str) -> bool:
        """`_number` is the part it is in: `-`, `0`, `1` (digits), `.`, `f` (digits of the
        fraction), `e`, `s` (the sign of the exponent) or `x` (its digits)."""
        part = self._number
        if char in _DIGITS:
            if part == "0":
                return False
            self._number = {"-": "0" if char == "0" else "1", "1": "1"}.get(
                part, "f" if part in ".f" else "x"
            )
            return True
        if char == "." and part in "01":
            self._number = "."
            return True
        if char in "eE" and part in "01f":
            self._number = "e"
            return True
        if char in "+-" and part == "e":
            self._number = "s"
            return True
        if part not in "01fx" or not self._open:
            return False
        self._value_ended()
        if self.push(char):
            return True
        self.state = State.NUMBER
        return False

    def _close(self, opening: str) -> bool:
        if not self._open or self._open[-1] != opening:
            return False
        self._open.pop()
        return self._value_ended()

    def _value_ended(self) -> bool:
        return self._to(State.COMMA_OR_END if self._open else State.DONE)

    def _to(self, state: State, taken: bool = True) -> bool:
        if taken:
            self.state = state
        return taken

"""The machinery that all formats of tool calls share.

A parser is a generator that reads the text from front to back, written as if all of it were
there; where text is missing it yields and goes on when more has come. What it emits therefore
cannot depend on how the text was cut.

A call is announced as soon as its name is known and its arguments begin, and from then on its
arguments are passed on as they come. Text that turns out to be no call before that point is
content, and so is whatever follows the point where a call that was announced stops being JSON:
nothing that the model wrote is lost, except marks and white space around calls.
"""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Collection, Generator

from stoker.api.tool_calls.deltas import Content, Delta, ToolCall, merge
from stoker.api.tool_calls.json_scanner import JsonScanner

Steps = Generator[None, None, bool]
"""Yields for more text; returns whether what it looked for was there."""

_ARGUMENTS = frozenset({'"arguments"', '"parameters"'})
_KEYS = _ARGUMENTS | {'"name"', '"type"', '"id"'}
"""Members of a call's object, as JSON; an object with others is no call."""
_SPACE = " \t\r\n"
_ALPHABET = string.ascii_letters + string.digits


class ToolCallParser:
    """Splits an answer into content and calls. Subclasses say in `_run` how calls look."""

    def __init__(self, tool_names: Collection[str]) -> None:
        """An object that names none of `tool_names` is no call."""
        self._names = frozenset(tool_names)
        self._text = ""
        self._at_end = False
        self._deltas: list[Delta] = []
        self._unclear = ""
        """Text taken since a call may have begun, while it is not announced."""
        self._space = ""
        self._after_call = False
        self._has_content = False
        self.num_calls = 0
        """Calls announced so far."""
        self._steps = self._run()
        self._running = True

    def feed(self, text: str) -> list[Delta]:
        """What `text` adds to the answer."""
        self._text += text
        return self._advance()

    def finish(self) -> list[Delta]:
        """What was held back, when the text has ended."""
        self._at_end = True
        deltas = self._advance()
        if not self._after_call and self._space:
            deltas = merge([*deltas, Content(self._space)])
        return deltas

    def _run(self) -> Steps:
        """Read the whole text."""
        raise NotImplementedError

    def _advance(self) -> list[Delta]:
        if self._running:
            try:
                next(self._steps)
            except StopIteration:
                self._running = False
        if not self._running:
            self._content(self._take(len(self._text)))
        deltas, self._deltas = self._deltas, []
        return merge(deltas)

    # ── reading ─────────────────────────────────────────────────────────────────────────────

    def _take(self, count: int) -> str:
        taken, self._text = self._text[:count], self._text[count:]
        return taken

    def _more(self) -> Steps:
        """Wait until there is text; False at the end."""
        while not self._text:
            if self._at_end:
                return False
            yield
        return True

    def _next_is(self, mark: str) -> Steps:
        """Whether the text goes on with `mark`."""
        while len(self._text) < len(mark) and mark.startswith(self._text):
            if self._at_end:
                return False
            yield
        return self._text.startswith(mark)

    def _skip(self, mark: str) -> Steps:
        """Take white space and `mark`, or only the white space."""
        yield from self._spaces()
        found = yield from self._next_is(mark)
        if found:
            self._take(len(mark))
        return found

    def _spaces(self) -> Generator[None, None, str]:
        """Take white space and return it."""
        space = ""
        while (yield from self._more()):
            rest = self._text.lstrip(_SPACE)
            space += self._take(len(self._text) - len(rest))
            if rest:
                break
        return space

    def _content_until(self, mark: str) -> Steps:
        """Emit content up to `mark` and take that; False if it does not come."""
        while True:
            found = self._text.find(mark)
            if found >= 0:
                self._content(self._take(found))
                self._take(len(mark))
                return True
            keep = 0 if self._at_end else _overlap(self._text, mark)
            self._content(self._take(len(self._text) - keep))
            if self._at_end:
                return False
            yield

    # ── calls ───────────────────────────────────────────────────────────────────────────────

    def _call(self, opening: str) -> Steps:
        """Read an object with a name and arguments as a call; False if it is none.

        `opening`: what was taken before it, content if the object turns out to be no call.
        """
        self._unclear = opening
        return (yield from self._call_object())

    def _calls_in_list(self, opening: str) -> Steps:
        """Read calls in brackets, the first of which is the next character."""
        opening += self._take(1)
        opening += yield from self._spaces()
        while (yield from self._call(opening)):
            opening = ""
            if not (yield from self._skip(",")):
                return (yield from self._skip("]"))
            yield from self._spaces()
        return False

    def _calls_in_row(self, opening: str, separator: str) -> Steps:
        """Read calls one after another, perhaps with a separator; False if there is none."""
        if not (yield from self._next_is("{")):
            self._content(opening)
            return False
        while (yield from self._call(opening)):
            opening = ""
            yield from self._skip(separator)
            yield from self._spaces()
            if not self._text.startswith("{"):
                return True
        return False

    def _call_object(self) -> Steps:
        first = self.num_calls
        name: str | None = None
        arguments: str | None = None
        whole = yield from self._mark("{")
        while whole:
            key = yield from self._value()
            if key not in _KEYS or not (yield from self._mark(":")):
                whole = False
                break
            is_arguments = key in _ARGUMENTS and self.num_calls == first
            yield from self._gap()
            if is_arguments and name is not None and self._text.startswith("{"):
                self._announce(name)
                whole = (yield from self._value(pass_on=True)) is not None
            else:
                value = yield from self._value()
                whole = value is not None
                if key == '"name"' and name is None:
                    name = self._known_name(value)
                    whole = name is not None
                elif is_arguments:
                    arguments = _as_object(value)
                    whole = arguments is not None
            if not whole or not (yield from self._mark(",")):
                break
        whole = whole and (yield from self._mark("}"))
        if self.num_calls == first:
            if not whole or name is None:
                self._content(self._unclear)
                return False
            self._announce(name)
            self._pass_on(arguments or "{}")
        return whole

    def _value(self, *, pass_on: bool = False) -> Generator[None, None, str | None]:
        """Take a JSON value and return its text; None if there is none.

        `pass_on`: it is the arguments of the call that was announced last.
        """
        yield from self._gap()
        scanner = JsonScanner()
        value = ""
        while (yield from self._more()):
            count = scanner.take(self._text)
            text = self._keep(count)
            value += text
            if pass_on:
                self._pass_on(text)
            if scanner.is_whole and (scanner.is_closed or self._text):
                return value
            if self._text:
                break
        return None

    def _mark(self, char: str) -> Steps:
        """Take white space and `char`; False if something else comes."""
        yield from self._gap()
        found = yield from self._next_is(char)
        if found:
            self._keep(1)
        return found

    def _gap(self) -> Steps:
        """Take white space within a call."""
        while (yield from self._more()):
            rest = self._text.lstrip(_SPACE)
            self._keep(len(self._text) - len(rest))
            if rest:
                return True
        return False

    def _keep(self, count: int) -> str:
        """Take text that is content if what it belongs to is no call."""
        text = self._take(count)
        self._unclear += text
        return text

    def _known_name(self, value: str | None) -> str | None:
        name = _string(value)
        return name if name in self._names else None

    def _announce(self, name: str) -> None:
        """A call begins: white space around it goes away, unless there is text on both sides."""
        if not self._has_content:
            self._space = ""
        self._after_call = True
        self._deltas.append(ToolCall(self.num_calls, name=name, id=self._new_id()))
        self.num_calls += 1

    def _pass_on(self, arguments: str) -> None:
        """More of the arguments of the call that was announced last."""
        if arguments:
            self._deltas.append(ToolCall(self.num_calls - 1, arguments))

    def _new_id(self) -> str:
        return "call_" + random_id(24)

    # ── content ─────────────────────────────────────────────────────────────────────────────

    def _content(self, text: str) -> None:
        """Emit content; white space waits, as it goes away before and after calls."""
        if self._after_call:
            text = text.lstrip(_SPACE)
        if not text:
            return
        self._after_call = False
        text = self._space + text
        visible = text.rstrip(_SPACE)
        self._space = text[len(visible) :]
        if visible:
            self._has_content = True
            self._deltas.append(Content(visible))


def random_id(length: int) -> str:
    """Letters and digits, different for every call."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _string(value: str | None) -> str | None:
    """The string that JSON text stands for; None if it is no string of valid Unicode."""
    if value is None or not value.startswith('"'):
        return None
    text: str = json.loads(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    return text


def _as_object(value: str | None) -> str | None:
    """Arguments as JSON text: of an object, of an object written as a string, or of null."""
    if value == "null":
        return "{}"
    if value is not None and value.startswith("{"):
        return value
    text = _string(value)
    if text is None or not text.startswith("{"):
        return None
    scanner = JsonScanner()
    return text if scanner.take(text) == len(text) and scanner.is_whole else None


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of `text` may be the beginning of `mark`."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if mark.startswith(text[-length:]):
            return length
    return 0

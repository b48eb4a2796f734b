"""What rendering a chat template may use up, and the checks that hold it to that.

A loop pass or a call is one piece of work, and so are every `WORK_UNIT` characters or items
handled; work is counted, and a clock only catches what counting misses. Values may not grow beyond
`MAX_CHARS` and `MAX_ITEMS`, and what could make a huge value in one step is checked before it is
done.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jinja2

MAX_SOURCE_CHARS = 1 << 20
MAX_CHARS = 8 << 20
"""The longest string a template may make, its output included."""
MAX_ITEMS = 1_000_000
"""The most values that one value may hold, nested ones included."""
MAX_WORK = 1_000_000
"""Loop passes and calls, plus one for every `WORK_UNIT` characters or items handled."""
WORK_UNIT = 64
MAX_SECONDS = 10.0
"""Catches what the budget cannot count, such as comparing long values in a long loop."""
MAX_INT_BITS = 4096
_MAX_WIDTH = 10_000
_STR_METHODS = """
    capitalize casefold count endswith find format format_map index isalnum isalpha isascii
    isdecimal isdigit islower isnumeric isspace istitle isupper join ljust lower lstrip partition
    removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines
    startswith strip swapcase title upper zfill
"""
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(_STR_METHODS.split()),
    dict: frozenset({"copy", "get", "items", "keys", "values"}),
    list: frozenset({"copy", "count", "index"}),
    tuple: frozenset({"count", "index"}),
    bytes: frozenset(),
    int: frozenset(),
    float: frozenset(),
}
"""Methods of built-in types that a template may call."""


class LimitExceeded(Exception):
    """The template asked for more work or memory than a prompt can need."""


class _Budget:
    """What one rendering has left to spend."""

    __slots__ = ("deadline", "work")

    def __init__(self) -> None:
        self.work = MAX_WORK
        self.deadline = time.monotonic() + MAX_SECONDS

    def charge(self, work: int) -> None:
        self.work -= work
        if self.work < 0 or time.monotonic() > self.deadline:
            raise LimitExceeded("it runs for too long")


_budget: ContextVar[_Budget | None] = ContextVar("_budget", default=None)


@contextmanager
def budget() -> Iterator[None]:
    """Gives what is rendered inside a budget of its own."""
    token = _budget.set(_Budget())
    try:
        yield
    finally:
        _budget.reset(token)


def charge(work: int) -> None:
    """Spend from the budget of this rendering. Raises `LimitExceeded` when it is used up."""
    # Constant expressions are evaluated while compiling, when there is no budget yet: there are
    # no loops then, and the size checks hold all the same.
    current = _budget.get()
    if current is not None:
        current.charge(work)


def check_size(size: int) -> None:
    """Refuse a string of more than `MAX_CHARS` characters."""
    if size > MAX_CHARS:
        raise LimitExceeded(f"it makes a value of more than {MAX_CHARS} characters")


def charge_value(value: Any) -> Any:
    """Charge for a value just made; refuse it if it is too large."""
    if isinstance(value, str):
        check_size(len(value))
        charge(1 + len(value) // WORK_UNIT)
    elif isinstance(value, list | tuple | dict):
        charge(1 + count_items(value) // WORK_UNIT)
    elif isinstance(value, int) and value.bit_length() > MAX_INT_BITS:
        raise LimitExceeded(f"it computes a number of more than {MAX_INT_BITS} bits")
    return value


def count_items(value: Any) -> int:
    """Values inside `value`, one held in two places counted twice, as printing it would."""
    count = 0
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        values = inner.values() if isinstance(inner, dict) else inner
        count += len(values)
        if count > MAX_ITEMS:
            raise LimitExceeded(f"it makes a value that holds more than {MAX_ITEMS} others")
        waiting.extend(item for item in values if isinstance(item, list | tuple | dict))
    return count


def check_format(pattern: str) -> None:
    """Refuse format strings whose width or precision is large or computed."""
    if re.search(r"\d{5}|%[^a-zA-Z%]*\*|:[^{}]*\{", pattern):
        raise LimitExceeded("it formats with a width that is computed or too large")


def check_replace(text: str, old: Any, new: Any) -> None:
    """Refuse a replacement whose result would be too large."""
    if isinstance(old, str) and isinstance(new, str):
        check_size(len(text) + text.count(old) * (len(new) - len(old)))


def check_call(function: Any, args: tuple[Any, ...]) -> None:
    """Refuse methods of built-in values outside `_METHODS` or with a result too large."""
    owner: Any = getattr(function, "__self__", None)
    kind = next((kind for kind in _METHODS if isinstance(owner, kind)), None)
    if kind is None:
        return
    name = function.__name__
    if name not in _METHODS[kind]:
        raise jinja2.TemplateRuntimeError(
            f"the method {name!r} of {kind.__name__} is not available to chat templates"
        )
    if name in ("ljust", "rjust", "zfill"):
        if any(isinstance(arg, int) and arg > _MAX_WIDTH for arg in args):
            raise LimitExceeded(f"it pads to more than {_MAX_WIDTH} characters")
    elif name == "replace" and len(args) >= 2:
        check_replace(owner, args[0], args[1])
    elif name == "join" and args and hasattr(args[0], "__len__"):
        check_size(len(owner) * len(args[0]))

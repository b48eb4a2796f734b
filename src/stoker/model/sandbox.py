"""A Jinja2 environment for templates that come with a model and so cannot be trusted.

Jinja2's own sandbox keeps a template away from Python's internals. This one also bounds what a
template may use up: every loop pass, call and operation is charged against a budget, no value may
grow beyond `MAX_CHARS`, and what could build a huge value in one step is checked beforehand. A
template that would loop for hours or fill the memory ends with `LimitExceeded` instead.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes, pass_context
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_SOURCE_CHARS = 1 << 20
MAX_CHARS = 8 << 20
"""The longest string a template may make, its output included."""
MAX_ITEMS = 1_000_000
"""The most values that one value may hold, nested ones included."""
MAX_WORK = 1_000_000
"""Loop passes and calls, plus one for every 64 characters or items handled."""
MAX_SECONDS = 10.0
"""Catches what the budget cannot count, such as comparing long values in a long loop."""

_UNIT = 64
_SIZED = (str, list, tuple, dict, range)
_MAX_WIDTH = 10_000
_MAX_INT_BITS = 4096
_WITHHELD_FILTERS = (
    "batch",
    "center",
    "pprint",
    "random",
    "slice",
    "sum",
    "urlize",
    "wordwrap",
    "xmlattr",
)
"""They would need guards of their own and have no use in a prompt."""
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


def _charge(work: int) -> None:
    # Constant expressions are evaluated while compiling, when there is no budget yet: there are
    # no loops then, and the size checks hold all the same.
    budget = _budget.get()
    if budget is not None:
        budget.charge(work)


def _check_size(size: int) -> None:
    if size > MAX_CHARS:
        raise LimitExceeded(f"it makes a value of more than {MAX_CHARS} characters")


def _charge_value(value: Any) -> Any:
    """Charge for a value just made; refuse it if it is too large."""
    if isinstance(value, str):
        _check_size(len(value))
        _charge(1 + len(value) // _UNIT)
    elif isinstance(value, list | tuple | dict):
        _charge(1 + _count_items(value) // _UNIT)
    elif isinstance(value, int) and value.bit_length() > _MAX_INT_BITS:
        raise LimitExceeded(f"it computes a number of more than {_MAX_INT_BITS} bits")
    return value


def _count_items(value: Any) -> int:
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


def _check_format(pattern: str) -> None:
    """Refuse format strings whose width or precision is large or computed."""
    if re.search(r"\d{5}|%[^a-zA-Z%]*\*|:[^{}]*\{", pattern):
        raise LimitExceeded("it formats with a width that is computed or too large")


def _check_replace(text: str, old: Any, new: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        _check_size(len(text) + text.count(old) * (len(new) - len(old)))


def _check_call(function: Any, args: tuple[Any, ...]) -> None:
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
        _check_replace(owner, args[0], args[1])
    elif name == "join" and args and hasattr(args[0], "__len__"):
        _check_size(len(owner) * len(args[0]))


class _Counted:
    """Something to loop over, each pass charged for."""

    __slots__ = ("_items", "_work")

    def __init__(self, items: Any, work: int) -> None:
        self._items = items
        self._work = work

    def __iter__(self) -> Iterator[Any]:
        return _counted(self._items, self._work)

    def __len__(self) -> int:
        return len(self._items)


def _counted(items: Iterable[Any], work: int) -> Iterator[Any]:
    for item in items:
        _charge(work)
        yield item


def _loop_over(items: Any, work: int = 1) -> Any:
    if isinstance(items, jinja2.Undefined):
        return items  # the loop raises, or has no passes, as it would without us
    # Jinja2 asks for the length only of what has one.
    return _Counted(items, work) if hasattr(items, "__len__") else _counted(items, work)


def _concatenate(values: list[Any]) -> Any:
    """The `~` operator."""
    return _charge_value("".join([str(_charge_value(value)) for value in values]))


@pass_context  # keeps it from being evaluated while compiling
def _spend(_: Context, work: int) -> None:
    _charge(work)


def _filter(node: nodes.Node, name: str, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


class _Limits(NodeTransformer):
    """Puts the charges into a parsed template, where Jinja2 has no hook for them."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        self.generic_visit(node)
        node.iter = _filter(node.iter, "_loop_over", nodes.Const(_literal_work(node)))
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:  # noqa: N802
        self.generic_visit(node)
        spend = _filter(nodes.Const(_literal_work(node)), "_spend")
        node.body.insert(0, nodes.ExprStmt(spend, lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), "_concatenate")

    def visit_List(self, node: nodes.List) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, "_charged")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, "_charged")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, "_charged") if node.ctx == "load" else node


def _literal_work(node: nodes.Node) -> int:
    """What writing the literal text below `node` once costs."""
    return 1 + sum(len(data.data) for data in node.find_all(nodes.TemplateData)) // _UNIT


class _Generation(Extension):
    """`{% generation %}` marks the assistant's tokens for training; here its body is all."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Namespace(Namespace):
    """`namespace()`, printed without what it holds, which may hold itself many times over."""

    def __repr__(self) -> str:
        return "<Namespace>"


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Jinja2 as chat templates expect it, sandboxed and bounded."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _Generation],
            finalize=_charge_value,
            cache_size=0,
        )
        self.globals = {
            "range": self.globals["range"],  # the sandbox's, of at most 100 000
            "dict": dict,
            "namespace": _Namespace,
            "cycler": self.globals["cycler"],
            "joiner": self.globals["joiner"],
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }
        filters = {name: f for name, f in self.filters.items() if name not in _WITHHELD_FILTERS}
        filters["tojson"] = _to_json
        filters["indent"] = _indent(filters["indent"])
        filters["replace"] = _replace(filters["replace"])
        filters["join"] = _join(filters["join"])
        filters["format"] = _format(filters["format"])
        self.filters = {name: _charged_filter(function) for name, function in filters.items()}
        self.filters["_loop_over"] = _loop_over
        self.filters["_concatenate"] = _concatenate
        self.filters["_charged"] = _charge_value
        self.filters["_spend"] = _spend

    def compile_bounded(self, source: str) -> jinja2.Template:
        """Compile `source`, charges included.

        Raises `LimitExceeded` or `jinja2.TemplateSyntaxError`.
        """
        if len(source) > MAX_SOURCE_CHARS:
            raise LimitExceeded(f"it is longer than {MAX_SOURCE_CHARS} characters")
        tree = _Limits().visit(self.parse(source))
        code = self.compile(tree)
        return self.template_class.from_code(self, code, self.make_globals(None))

    def render_bounded(self, template: jinja2.Template, variables: dict[str, Any]) -> str:
        """Render within the limits; raises `LimitExceeded` and whatever the template raises."""
        token = _budget.set(_Budget())
        try:
            pieces: list[str] = []
            size = 0
            for piece in template.generate(variables):
                size += len(piece)
                _check_size(size)
                pieces.append(piece)
            return "".join(pieces)
        finally:
            _budget.reset(token)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        _charge(1)
        _check_call(__obj, (*args, *kwargs.values()))
        if isinstance(__obj, LoopContext) and args:  # {% for … recursive %}
            args = (_loop_over(args[0]), *args[1:])
        return _charge_value(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(times, int) and isinstance(many, str | list | tuple):
                    _check_size(len(many) * times)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() * right > _MAX_INT_BITS:
                raise LimitExceeded(f"it computes a number of more than {_MAX_INT_BITS} bits")
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
        return _charge_value(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_format(value.__self__)
        return wrapped


def _charged_filter(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, charged for what it reads and what it makes."""

    @wraps(function)  # keeps Jinja2's marks on the function
    def charged(*args: Any, **kwargs: Any) -> Any:
        _charge(1 + sum(len(arg) for arg in args if isinstance(arg, _SIZED)) // _UNIT)
        return _charge_value(function(*args, **kwargs))

    return charged


def _indent(function: Callable[..., Any]) -> Callable[..., Any]:
    def indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> Any:
        size = width if isinstance(width, int) else len(width)
        _check_size(len(text) + (text.count("\n") + 1) * size)
        return function(text, width, first, blank)

    return indent


def _replace(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def replace(context: Any, text: str, old: str, new: str, count: int | None = None) -> Any:
        _check_replace(str(text), old, new)
        return function(context, text, old, new, count)

    return replace


def _join(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def join(context: Any, items: Iterable[Any], d: str = "", attribute: Any = None) -> Any:
        items = list(items)
        _check_size(len(items) * len(str(d)))
        return function(context, items, d, attribute)

    return join


def _format(function: Callable[..., Any]) -> Callable[..., Any]:
    def format_(pattern: str, *args: Any, **kwargs: Any) -> Any:
        _check_format(str(pattern))
        return function(pattern, *args, **kwargs)

    return format_


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as prompts want it: Jinja2's own filter escapes it for HTML."""
    if isinstance(indent, int) and indent > 16:
        raise LimitExceeded("it indents JSON by more than 16")
    if isinstance(value, list | tuple | dict):
        _count_items(value)
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    _check_format(pattern)
    return datetime.now().strftime(pattern)

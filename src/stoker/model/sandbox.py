"""A Jinja2 environment for templates that come with a model and so cannot be trusted.

Jinja2's own sandbox keeps a template away from Python's internals. This one also bounds what a
template may use up: every loop pass, call and operation is charged against a budget, no value may
grow beyond `MAX_CHARS`, and what could build a huge value in one step is checked beforehand. A
template that would loop for hours or fill the memory ends with `LimitExceeded` instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from stoker.model.sandbox_limits import (
    MAX_INT_BITS,
    MAX_SOURCE_CHARS,
    WORK_UNIT,
    LimitExceeded,
    budget,
    charge,
    charge_value,
    check_call,
    check_format,
    check_replace,
    check_size,
    count_items,
)

__all__ = ["LimitExceeded", "TemplateEnvironment"]

_SIZED = (str, list, tuple, dict, range)
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
        charge(work)
        yield item


def _loop_over(items: Any, work: int = 1) -> Any:
    if isinstance(items, jinja2.Undefined):
        return items  # the loop raises, or has no passes, as it would without us
    # Jinja2 asks for the length only of what has one.
    return _Counted(items, work) if hasattr(items, "__len__") else _counted(items, work)


def _concatenate(values: list[Any]) -> Any:
    """The `~` operator."""
    return charge_value("".join([str(charge_value(value)) for value in values]))


def _filter(node: nodes.Node, name: str, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


class _Limits(NodeTransformer):
    """Puts the charges into a parsed template, where Jinja2 has no hook for them."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        self.generic_visit(node)
        node.iter = _filter(node.iter, "_loop_over", nodes.Const(_literal_work(node)))
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
    return 1 + sum(len(data.data) for data in node.find_all(nodes.TemplateData)) // WORK_UNIT


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
            finalize=charge_value,
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
        self.filters["_charged"] = charge_value

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
        pieces: list[str] = []
        size = 0
        with budget():
            for piece in template.generate(variables):
                size += len(piece)
                check_size(size)
                pieces.append(piece)
        return "".join(pieces)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        charge(1)
        check_call(__obj, (*args, *kwargs.values()))
        if isinstance(__obj, LoopContext) and args:  # {% for … recursive %}
            args = (_loop_over(args[0]), *args[1:])
        return charge_value(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(times, int) and isinstance(many, str | list | tuple):
                    check_size(len(many) * times)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() * right > MAX_INT_BITS:
                raise LimitExceeded(f"it computes a number of more than {MAX_INT_BITS} bits")
        elif operator == "%" and isinstance(left, str):
            check_format(left)
        return charge_value(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            check_format(value.__self__)
        return wrapped


def _charged_filter(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, charged for what it reads and what it makes."""

    @wraps(function)  # keeps Jinja2's marks on the function
    def charged(*args: Any, **kwargs: Any) -> Any:
        charge(1 + sum(len(arg) for arg in args if isinstance(arg, _SIZED)) // WORK_UNIT)
        return charge_value(function(*args, **kwargs))

    return charged


def _indent(function: Callable[..., Any]) -> Callable[..., Any]:
    def indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> Any:
        size = width if isinstance(width, int) else len(width)
        check_size(len(text) + (text.count("\n") + 1) * size)
        return function(text, width, first, blank)

    return indent


def _replace(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def replace(context: Any, text: str, old: str, new: str, count: int | None = None) -> Any:
        check_replace(str(text), old, new)
        return function(context, text, old, new, count)

    return replace


def _join(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def join(context: Any, items: Iterable[Any], d: str = "", attribute: Any = None) -> Any:
        items = list(items)
        check_size(len(items) * len(str(d)))
        return function(context, items, d, attribute)

    return join


def _format(function: Callable[..., Any]) -> Callable[..., Any]:
    def format_(pattern: str, *args: Any, **kwargs: Any) -> Any:
        check_format(str(pattern))
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
        count_items(value)
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
    check_format(pattern)
    return datetime.now().strftime(pattern)

"""Reads `stoker.yaml`, and says what is wrong with it before anything starts.

A wrong file raises `ConfigError`, whose message names the file, the line, the field, what was
found and what was expected. `${NAME}` in a value is replaced by that environment variable.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from stoker.errors import ConfigError, why
from stoker.router.config import Config


def load_config(
    path: Path,
    *,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Config:
    """Read and check a configuration file.

    `overrides` come from the command line: `{"router.port": 9000}`. Raises `ConfigError` with
    `FILE:LINE: field: reason` for each thing that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such file. stoker.example.yaml shows what it may say; "
            "`stoker up` in a folder without one serves the default model"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({why(error)})") from error
    return parse_config(text, source=str(path), environment=environment, overrides=overrides)


def parse_config(
    text: str,
    *,
    source: str = "stoker.yaml",
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Config:
    """Check the text of a configuration file; `source` names it in errors."""
    environment = os.environ if environment is None else environment
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{source}:{line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML: {error}") from error
    if root is None:
        raise ConfigError(f"{source}:1: the file is empty; it needs at least `engines:`")
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{source}:1: expected `field: value` lines, found something else")
    data: dict[str, Any] = _Reader(source, environment).value(root)
    for place, value in (overrides or {}).items():
        *sections, field = place.split(".")
        inner: Any = data
        for section in sections:
            # What is no section is refused below, with its line.
            inner = inner.setdefault(section, {}) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner[field] = value
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, root, source, overrides or {}))) from error


class _Reader:
    """Turns YAML nodes into values, refusing what YAML lets pass in silence."""

    _VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

    def __init__(self, source: str, environment: Mapping[str, str]) -> None:
        self._source = source
        self._environment = environment
        self._scalars = yaml.SafeLoader("")
        self._open: set[int] = set()

    def value(self, node: yaml.Node) -> Any:
        if id(node) in self._open:
            raise self._error(node, "a YAML anchor that contains itself")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node)
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item) for item in node.value]
            return self._scalar(node)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key, str):
                raise self._error(key_node, "a field's name must be text")
            if key in result:
                raise self._error(key_node, f"the field {key!r} is given twice")
            result[key] = self.value(value_node)
        return result

    def _scalar(self, node: yaml.Node) -> Any:
        if node.tag == "tag:yaml.org,2002:str":
            return self._VARIABLE.sub(lambda match: self._variable(match, node), node.value)
        try:
            return self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise self._error(node, f"cannot read the value {node.value!r}") from error

    def _variable(self, match: re.Match[str], node: yaml.Node) -> str:
        name = match[1]
        try:
            return self._environment[name]
        except KeyError:
            raise self._error(node, f"the environment variable {name} is not set") from None

    def _error(self, node: yaml.Node, reason: str) -> ConfigError:
        return ConfigError(f"{self._source}:{node.start_mark.line + 1}: {reason}")


def _explain(
    error: ValidationError, root: yaml.Node, source: str, overrides: Mapping[str, object]
) -> list[str]:
    lines = []
    for problem in error.errors(include_url=False):
        location = problem["loc"]
        field = ".".join(str(part) for part in location)
        reason = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            reason = f"no such field{_meant(location)}; see stoker.example.yaml for those there are"
        elif problem["type"] == "missing":
            reason = "this field is required"
        elif isinstance(problem["input"], str | int | float | bool):
            reason = f"{reason} (found {problem['input']!r})"
        where = "command line" if field in overrides else f"{source}:{_line_of(root, location)}"
        lines.append(f"{where}: {field + ': ' if field else ''}{reason}")
    return lines


def _meant(location: tuple[int | str, ...]) -> str:
    """The field that a wrong one at `location` is most like, as a question."""
    fields = {name: field.annotation for name, field in Config.model_fields.items()}
    for part in location[:-1]:
        inner = _model_in(fields.get(part)) if isinstance(part, str) else None
        if inner is not None:
            fields = {name: field.annotation for name, field in inner.model_fields.items()}
    near = get_close_matches(str(location[-1]), fields, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The settings that a field of this type holds, also as one of several."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _line_of(root: yaml.Node, location: tuple[int | str, ...]) -> int:
    """The line, from 1, of the deepest node on the way to `location` that the file has."""
    node, line = root, root.start_mark.line + 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            for key_node, value_node in node.value:
                if key_node.value == part:
                    node, line = value_node, key_node.start_mark.line + 1
                    break
            else:
                return line
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line
    return line

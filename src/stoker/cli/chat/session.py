"""A conversation and its settings, changed by messages and `/` commands. Knows no terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stoker.errors import InvalidRequest

_ROLES = ("system", "user", "assistant")


def _number(text: str) -> float:
    return float(text)


def _mode(text: str) -> str:
    from stoker.api.sampling_presets import PRESETS

    if text not in PRESETS:
        raise ValueError(f"expected {', '.join(PRESETS)}")
    return text


SETTINGS: dict[str, Callable[[str], object]] = {
    "temperature": _number,
    "top_p": _number,
    "top_k": int,
    "min_p": _number,
    "repetition_penalty": _number,
    "presence_penalty": _number,
    "frequency_penalty": _number,
    "max_tokens": int,
    "seed": int,
    "stop": str,
    "sampling_mode": _mode,
}
"""What `/set` knows, and how a value is read."""

HELP = """\
/help               this list
/clear              forget the conversation
/system [TEXT]      show or set the system message; begins anew
/set [NAME VALUE]   show settings or change one: temperature, max_tokens, seed, sampling_mode …
/unset NAME         back to the default
/retry              answer the last message again
/undo               take back the last message and its answer
/show               the conversation so far
/save FILE          write the conversation as JSON
/load FILE          go on with a saved one
/exit               leave; so do /bye, /quit and Ctrl+D
\"\"\"                 begins and ends a message of several lines; Ctrl+C stops an answer"""


@dataclass
class Session:
    """What was said and how the next answer is asked for."""

    model: str
    system: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    """Without the system message."""
    settings: dict[str, object] = field(default_factory=dict)
    ended: bool = False

    def payload(self) -> dict[str, Any]:
        """The body that asks for the next answer."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return {
            "model": self.model,
            "messages": [*system, *self.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.settings,
        }

    def ask(self, text: str) -> None:
        """Take in what the user says."""
        self.messages.append({"role": "user", "content": text})

    def answered(self, text: str) -> None:
        """Take in an answer. An empty one, stopped before its first word, takes the question
        back: most templates want the roles to alternate."""
        if text:
            self.messages.append({"role": "assistant", "content": text})
        else:
            self.take_back()

    def take_back(self) -> bool:
        """Drop the last question and what came after it; False when there is none."""
        while self.messages:
            if self.messages.pop()["role"] == "user":
                return True
        return False

    def command(self, line: str) -> tuple[str, bool]:
        """Carry out a `/` command: what to tell the user, and whether an answer is wanted now.

        Raises `InvalidRequest` for one that is unknown or wrong.
        """
        name, _, rest = line[1:].partition(" ")
        rest = rest.strip()
        match name:
            case "help" | "?":
                return HELP, False
            case "exit" | "bye" | "quit":
                self.ended = True
                return "", False
            case "clear":
                self.messages.clear()
                return "Forgotten.", False
            case "system":
                return self._system(rest), False
            case "set":
                return self._set(rest), False
            case "unset":
                if self.settings.pop(rest, None) is None:
                    raise InvalidRequest(f"{rest or 'nothing'} is not set")
                return "", False
            case "retry":
                return self._retry()
            case "undo":
                return ("Taken back." if self.take_back() else "There is nothing to undo."), False
            case "show":
                return self._shown(), False
            case "save":
                return self._save(rest), False
            case "load":
                return self._load(rest), False
        raise InvalidRequest(f"there is no command /{name}; see /help")

    def _system(self, text: str) -> str:
        if not text:
            return self.system or "There is no system message."
        self.system = text
        self.messages.clear()
        return ""

    def _set(self, rest: str) -> str:
        name, _, value = rest.partition(" ")
        if not name:
            return "\n".join(f"{k} {v}" for k, v in self.settings.items()) or "Nothing is set."
        if name not in SETTINGS:
            raise InvalidRequest(f"there is no setting {name}; there are {', '.join(SETTINGS)}")
        try:
            self.settings[name] = SETTINGS[name](value.strip())
        except ValueError as error:
            raise InvalidRequest(f"{name}: {error}") from None
        return ""

    def _retry(self) -> tuple[str, bool]:
        question = next((m for m in reversed(self.messages) if m["role"] == "user"), None)
        if question is None:
            return "There is nothing to answer again.", False
        self.take_back()
        self.messages.append(question)
        return "", True

    def _shown(self) -> str:
        system = [f"system: {self.system}"] if self.system else []
        lines = [*system, *(f"{m['role']}: {m['content']}" for m in self.messages)]
        return "\n".join(lines) or "Nothing was said yet."

    def _save(self, name: str) -> str:
        path = _path(name)
        system = [{"role": "system", "content": self.system}] if self.system else []
        saved = {"model": self.model, "messages": [*system, *self.messages]}
        try:
            path.write_text(json.dumps(saved, indent=2, ensure_ascii=False) + "\n", "utf-8")
        except OSError as error:
            raise InvalidRequest(f"{path} cannot be written: {error.strerror}") from None
        return f"Saved to {path}."

    def _load(self, name: str) -> str:
        path = _path(name)
        try:
            messages = json.loads(path.read_text("utf-8"))["messages"]
            found = [{"role": str(m["role"]), "content": str(m["content"])} for m in messages]
        except OSError as error:
            raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, LookupError, TypeError, RecursionError):
            raise InvalidRequest(f"{path} is no saved conversation") from None
        if any(message["role"] not in _ROLES for message in found):
            raise InvalidRequest(f"{path}: a role must be one of {', '.join(_ROLES)}")
        self.system = None
        if found and found[0]["role"] == "system":
            self.system = found.pop(0)["content"]
        self.messages = found
        return f"{len(found)} messages loaded."


def _path(name: str) -> Path:
    if not name:
        raise InvalidRequest("name a file")
    return Path(name).expanduser()

"""Chat templates: from messages to the text a model was trained to answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import nodes

from stoker.errors import InvalidRequest, TemplateError
from stoker.model.messages import Message, check_messages
from stoker.model.sandbox import LimitExceeded, TemplateEnvironment
from stoker.model.tokenizer import Tokenizer

_NO_TEMPLATE = (
    "the model has no chat template, so it cannot be given messages; start with --chat-template "
    "FILE to give it one, or send plain prompts to /v1/completions"
)


class ChatTemplate:
    """A model's chat template, compiled once. Threads may share it."""

    def __init__(
        self,
        source: str | Mapping[str, str] | None,
        *,
        bos_token: str = "",
        eos_token: str = "",
    ) -> None:
        """`source` is Jinja text, or several by name of which `default` is used, and `tool_use`
        when tools are given; None makes every `render` say that there is no template.

        Raises `TemplateError` if a source is not valid Jinja.
        """
        sources = {"default": source} if isinstance(source, str) else dict(source or {})
        self._templates = {name: _Template(text) for name, text in sources.items()}
        self._special = {"bos_token": bos_token, "eos_token": eos_token}
        self.default = sources.get("default")
        """The Jinja source that is used without tools; None: there is no template."""
        self.text = "\n".join(sources.values())
        """The Jinja sources, by which a model's marks for tools and reasoning can be told."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, source: str | None = None) -> ChatTemplate:
        """The template that came with the model, or `source` in its place."""
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        return cls(
            tokenizer.chat_templates if source is None else source,
            bos_token="" if bos is None else tokenizer.id_to_token(bos) or "",
            eos_token="" if eos is None else tokenizer.id_to_token(eos) or "",
        )

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        """The prompt for `messages`; `variables` are passed on to the template.

        `continue_final_message` cuts the text after the last message's content, so that the
        answer goes on where that message stops. The text already holds the special tokens:
        encode it with `add_special_tokens=False`. Raises `InvalidRequest` for messages that are
        wrong in themselves, `TemplateError` for those that this template refuses.
        """
        template = self._templates.get("tool_use") if tools else None
        template = template or self._templates.get("default")
        if template is None:
            raise TemplateError(_NO_TEMPLATE, param="messages")
        text = template.render(
            messages,
            {
                **self._special,
                **variables,
                "tools": [dict(tool) for tool in tools] if tools else None,
                "add_generation_prompt": add_generation_prompt,
            },
        )
        return _cut_after(text, messages[-1].get("content")) if continue_final_message else text


class _Template:
    """One compiled source and what it expects of messages."""

    def __init__(self, source: str) -> None:
        self._environment = TemplateEnvironment()
        try:
            self._compiled = self._environment.compile_bounded(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"the chat template is not valid Jinja (line {error.lineno}): {error.message}"
            ) from error
        except (LimitExceeded, RecursionError) as error:
            raise TemplateError(f"the chat template is refused: {error}") from error
        tree = self._environment.parse(source)
        self._wants_parts = _loops_over_content(tree)
        self._takes_both = self._wants_parts and _tests_types(tree)
        self._knows_developer = "developer" in source

    def render(self, messages: object, variables: dict[str, Any]) -> str:
        checked = [
            self._adapt(message)
            for message in check_messages(messages, keep_parts=self._wants_parts)
        ]
        try:
            return self._environment.render_bounded(
                self._compiled, {**variables, "messages": checked}
            )
        except LimitExceeded as error:
            raise TemplateError(f"the chat template was stopped: {error}") from error
        except RecursionError as error:
            raise TemplateError("the chat template calls itself too deeply") from error
        except jinja2.TemplateError as error:
            raise TemplateError(
                f"the chat template refused the messages: {error.message}", param="messages"
            ) from error
        except Exception as error:  # a template may raise what any Python expression may
            raise TemplateError(
                f"the chat template failed: {type(error).__name__}: {error}", param="messages"
            ) from error

    def _adapt(self, message: Message) -> Message:
        if message["role"] == "developer" and not self._knows_developer:
            message["role"] = "system"
        if self._wants_parts and not self._takes_both and isinstance(message["content"], str):
            message["content"] = [{"type": "text", "text": message["content"]}]
        return message


def _cut_after(text: str, content: object) -> str:
    """`text` up to the end of a message's `content`, which the template may have stripped."""
    if not isinstance(content, str) or not content.strip():
        raise InvalidRequest(
            "'continue_final_message' needs text in the last message.",
            param="continue_final_message",
        )
    for wanted in (content, content.strip()):
        begin = text.rfind(wanted)
        if begin >= 0:
            return text[: begin + len(wanted)]
    raise InvalidRequest(
        "'continue_final_message' does not work with this model: its chat template changes the "
        "last message.",
        param="continue_final_message",
    )


def _loops_over_content(tree: nodes.Template) -> bool:
    """Whether the template has a loop over a message's content, so expects parts."""
    aliases = {
        node.target.name
        for node in tree.find_all(nodes.Assign)
        if isinstance(node.target, nodes.Name) and _is_content(node.node)
    }
    return any(
        _is_content(loop.iter) or (isinstance(loop.iter, nodes.Name) and loop.iter.name in aliases)
        for loop in tree.find_all(nodes.For)
    )


def _is_content(node: nodes.Node) -> bool:
    """`message.content` or `message['content']`."""
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    return (
        isinstance(node, nodes.Getitem)
        and isinstance(node.arg, nodes.Const)
        and node.arg.value == "content"
    )


def _tests_types(tree: nodes.Template) -> bool:
    """Whether the template asks what kind of value it has, so copes with text as well."""
    kinds = ("string", "iterable", "sequence", "mapping")
    return any(test.name in kinds for test in tree.find_all(nodes.Test))

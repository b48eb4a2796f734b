"""The forms in which models write tool calls."""

from __future__ import annotations

from stoker.api.tool_calls.parser import Steps, ToolCallParser, random_id

TOOL_CALL, TOOL_CALL_END = "<tool_call>", "</tool_call>"
TOOL_CALLS, CALL_ID, ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
PYTHON_TAG = "<|python_tag|>"
FENCE, FENCE_END = "```json", "```"


class HermesParser(ToolCallParser):
    """`<tool_call>{"name": …, "arguments": {…}}</tool_call>`, anywhere and any number of times:
    Hermes, Qwen 2.5 and 3, and many that were tuned on their data."""

    def _run(self) -> Steps:
        while (yield from self._content_until(TOOL_CALL)):
            opening = TOOL_CALL + (yield from self._spaces())
            while (yield from self._call(opening)):
                opening = yield from self._spaces()
                if not self._text.startswith("{"):
                    yield from self._skip(TOOL_CALL_END)
                    break
        return True


class MistralParser(ToolCallParser):
    """`[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`, and from tokenizer version 11 on
    `[TOOL_CALLS]name[ARGS]{…}` for each call."""

    def _run(self) -> Steps:
        while (yield from self._content_until(TOOL_CALLS)):
            opening = TOOL_CALLS + (yield from self._spaces())
            if self._text.startswith("["):
                yield from self._calls_in_list(opening)
            elif self._text.startswith("{"):
                yield from self._call(opening)
            else:
                yield from self._named_call(opening)
        return True

    def _named_call(self, opening: str) -> Steps:
        self._unclear = opening
        name = ""
        while (yield from self._more()) and self._text[0] not in "[{" and self._may_be(name):
            name += self._keep(1)
        if name in self._names:
            if (yield from self._next_is(CALL_ID)):
                self._keep(len(CALL_ID))
                while (yield from self._more()) and self._text[0].isalnum():
                    self._keep(1)
            if (yield from self._next_is(ARGS)):
                self._keep(len(ARGS))
            yield from self._gap()
            if self._text.startswith("{"):
                self._announce(name)
                return (yield from self._value(pass_on=True)) is not None
        self._content(self._unclear)
        return False

    def _may_be(self, beginning: str) -> bool:
        return any(name.startswith(beginning) for name in self._names)

    def _new_id(self) -> str:
        return random_id(9)  # the models' templates accept no other length


class Llama3JsonParser(ToolCallParser):
    """`{"name": …, "parameters": {…}}` as the whole answer, several with `;` between them,
    with or without `<|python_tag|>` before: Llama 3.1 to 3.3."""

    def _run(self) -> Steps:
        opening = yield from self._spaces()
        if (yield from self._next_is(PYTHON_TAG)):
            opening += self._take(len(PYTHON_TAG)) + (yield from self._spaces())
        return (yield from self._calls_in_row(opening, ";"))


class JsonParser(ToolCallParser):
    """An object with a name and arguments as the answer, or a list of them, perhaps in a fence of
    backquotes: what models write that were only told about tools in words."""

    def _run(self) -> Steps:
        opening = yield from self._spaces()
        fenced = yield from self._next_is(FENCE)
        if fenced:
            opening += self._take(len(FENCE)) + (yield from self._spaces())
        if (yield from self._next_is("[")):
            called = yield from self._calls_in_list(opening)
        else:
            called = yield from self._calls_in_row(opening, ",")
        if called and fenced:
            yield from self._skip(FENCE_END)
        return called

"""An answer's text taken apart: reasoning, content and tool calls, whole or as it comes."""

from __future__ import annotations

from stoker.api.openai import AnswerFunction, AnswerMessage, AnswerToolCall, FinishReason
from stoker.api.reasoning import MARKS, ReasoningMarks, ReasoningParser, marks_of_template
from stoker.api.sse import json_string
from stoker.api.tool_calls import Content, Delta, Reasoning, ToolCall, ToolCallParser, merge
from stoker.engine.outputs import CompletionOutput
from stoker.model.template import ChatTemplate
from stoker.model.tokenizer import Tokenizer
from stoker.server.generation import wire_reason
from stoker.server.tools import ToolUse


class AnswerParser:
    """Takes the text of one answer through the parsers that its request needs."""

    def __init__(self, reasoning: ReasoningParser | None, tools: ToolCallParser | None) -> None:
        self._reasoning = reasoning
        self._tools = tools

    def feed(self, text: str) -> list[Delta]:
        """What `text` adds."""
        deltas = [Content(text)] if self._reasoning is None else self._reasoning.feed(text)
        return merge([found for delta in deltas for found in self._find_calls(delta)])

    def finish(self) -> list[Delta]:
        """What was held back, when the text has ended."""
        deltas = [] if self._reasoning is None else self._reasoning.finish()
        found = [found for delta in deltas for found in self._find_calls(delta)]
        if self._tools is not None:
            found += self._tools.finish()
        return merge(found)

    @property
    def has_calls(self) -> bool:
        return self._tools is not None and self._tools.num_calls > 0

    def _find_calls(self, delta: Delta) -> list[Delta]:
        if self._tools is None or not isinstance(delta, Content):
            return [delta]
        return self._tools.feed(delta.text)


class AnswerReader:
    """Makes the parsers of a request's answers."""

    def __init__(
        self, tools: ToolUse | None, marks: ReasoningMarks | None, *, is_open: bool
    ) -> None:
        """`is_open`: the prompt ended with the mark that begins reasoning."""
        self._tools = tools
        self._marks = marks
        self._is_open = is_open

    @property
    def is_plain(self) -> bool:
        """The text is the content, and there is nothing to take apart."""
        return self._tools is None and self._marks is None

    def shows_special_tokens(self, tokenizer: Tokenizer) -> bool:
        """Whether a mark it looks for is a special token, which must then be in the text."""
        wanted = set() if self._tools is None else set(self._tools.format.marks)
        if self._marks is not None:
            wanted |= {self._marks.begin, self._marks.end}
        return any(tokenizer.token_to_id(mark) in tokenizer.special_ids for mark in wanted)

    def parser(self) -> AnswerParser:
        """A parser for one answer."""
        reasoning = None
        if self._marks is not None:
            reasoning = ReasoningParser(self._marks, is_open=self._is_open)
        return AnswerParser(reasoning, None if self._tools is None else self._tools.parser())

    def read(self, text: str) -> AnswerMessage:
        """The message that a whole answer is."""
        if self.is_plain:
            return AnswerMessage(content=text)
        parser = self.parser()
        content = reasoning = ""
        calls: list[AnswerToolCall] = []
        for delta in [*parser.feed(text), *parser.finish()]:
            match delta:
                case Content(piece):
                    content += piece
                case Reasoning(piece):
                    reasoning += piece
                case ToolCall(index, arguments, name, identifier):
                    if name is not None and identifier is not None:
                        function = AnswerFunction(name=name, arguments="")
                        calls.append(AnswerToolCall(id=identifier, function=function))
                    calls[index].function.arguments += arguments
        return AnswerMessage(
            content=None if calls and not content else content,
            reasoning_content=reasoning or None,
            reasoning=reasoning or None,
            tool_calls=calls or None,
        )


def marks_for(template: ChatTemplate, name: str | None) -> ReasoningMarks | None:
    """The marks by their `name` (`none`: there are none), or (None) those in the template."""
    if name is None:
        return marks_of_template(template.text)
    return MARKS.get(name)


def finish_reason(choice: CompletionOutput, *, has_calls: bool) -> FinishReason:
    """Why a finished answer ended; one that was not cut off and has calls, for its calls."""
    reason = wire_reason(choice.finish_reason)
    return "tool_calls" if has_calls and reason == "stop" else reason


def delta_json(delta: Delta) -> str:
    """A delta as the `delta` of a chat chunk."""
    match delta:
        case Content(text):
            return f'{{"content":{json_string(text)}}}'
        case Reasoning(text):
            quoted = json_string(text)
            return f'{{"reasoning_content":{quoted},"reasoning":{quoted}}}'
        case ToolCall(index, arguments, name, identifier):
            begin = function = ""
            if name is not None and identifier is not None:
                begin = f'"id":{json_string(identifier)},"type":"function",'
                function = f'"name":{json_string(name)},'
            return (
                f'{{"tool_calls":[{{"index":{index},{begin}"function":{{{function}'
                f'"arguments":{json_string(arguments)}}}}}]}}'
            )

"""A message in the making: the engine's outputs become its content blocks and its events."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from stoker.api.anthropic import (
    AnswerBlock,
    AnswerText,
    AnswerThinking,
    AnswerToolUse,
    AnthropicMessage,
    MessagesUsage,
    StopReason,
)
from stoker.api.anthropic_events import (
    BlockDelta,
    BlockDeltaEvent,
    BlockStart,
    BlockStop,
    Ending,
    InputDelta,
    MessageDelta,
    MessageStart,
    MessageStop,
    SignatureDelta,
    TextDelta,
    ThinkingDelta,
)
from stoker.api.sse import named_event
from stoker.api.tool_calls import Content, Delta, Reasoning, ToolCall, merge
from stoker.engine.outputs import CompletionOutput, RequestOutput
from stoker.server.answer import AnswerParser
from stoker.server.generation import UsageCount, check_ended

Kind = Literal["text", "thinking", "tool_use"]


class MessageBuilder:
    """Takes the outputs of one answer; each step returns the events it causes."""

    def __init__(
        self, message_id: str, model: str, parser: AnswerParser, *, fills_context: bool
    ) -> None:
        """`fills_context`: an answer that is cut off has reached the end of the context, not the
        limit that was asked for."""
        self._id = message_id
        self._model = model
        self._parser = parser
        self._fills_context = fills_context
        self._usage = UsageCount()
        self._blocks: list[_Block] = []
        self._is_open = False
        """Whether the last block may still grow."""
        self._started = False
        self._events: list[BaseModel] = []
        self._stop_reason: StopReason | None = None
        self._stop_sequence: str | None = None

    def take(self, output: RequestOutput) -> bytes:
        """Raises what `check_ended` raises."""
        (choice,) = output.outputs
        check_ended(choice)
        self._usage.add(0, output)
        if not self._started:
            self._started = True
            self._events.append(MessageStart(message=self._message([])))
        deltas = self._parser.feed(choice.text)
        if choice.finish_reason is not None:
            deltas = merge(deltas + self._parser.finish())
        for delta in deltas:
            self._add(delta)
        if choice.finish_reason is not None:
            self._end(choice)
        return self._take_events()

    def message(self) -> AnthropicMessage:
        """The message as far as it is."""
        return self._message([block.answer() for block in self._blocks])

    def _message(self, content: list[AnswerBlock]) -> AnthropicMessage:
        return AnthropicMessage(
            id=self._id,
            content=content,
            model=self._model,
            stop_reason=self._stop_reason,
            stop_sequence=self._stop_sequence,
            usage=self._message_usage(),
        )

    def _add(self, delta: Delta) -> None:
        match delta:
            case Content(text):
                block = self._block("text")
                block.pieces.append(text)
                self._changed(TextDelta(text=text))
            case Reasoning(text):
                block = self._block("thinking")
                block.pieces.append(text)
                self._changed(ThinkingDelta(thinking=text))
            case ToolCall():
                if delta.name is not None:
                    self._begin(_Block("tool_use", id=delta.id or "", name=delta.name))
                if delta.arguments:
                    self._blocks[-1].pieces.append(delta.arguments)
                    self._changed(InputDelta(partial_json=delta.arguments))

    def _end(self, choice: CompletionOutput) -> None:
        if not self._blocks:
            self._block("text")
        self._close()
        if choice.finish_reason == "length":
            full = self._fills_context
            self._stop_reason = "model_context_window_exceeded" if full else "max_tokens"
        elif self._parser.has_calls:
            self._stop_reason = "tool_use"
        elif isinstance(choice.stop_reason, str):
            self._stop_reason, self._stop_sequence = "stop_sequence", choice.stop_reason
        else:
            self._stop_reason = "end_turn"
        ending = Ending(stop_reason=self._stop_reason, stop_sequence=self._stop_sequence)
        self._events.append(MessageDelta(delta=ending, usage=self._message_usage()))
        self._events.append(MessageStop())

    def _block(self, kind: Kind) -> _Block:
        """The open block if it is of this kind, else a new one."""
        if not self._is_open or self._blocks[-1].kind != kind:
            self._begin(_Block(kind))
        return self._blocks[-1]

    def _begin(self, block: _Block) -> None:
        self._close()
        self._blocks.append(block)
        self._is_open = True
        self._events.append(BlockStart(index=len(self._blocks) - 1, content_block=block.answer()))

    def _close(self) -> None:
        if self._is_open:
            if self._blocks[-1].kind == "thinking":
                self._changed(SignatureDelta(signature=""))
            self._events.append(BlockStop(index=len(self._blocks) - 1))
            self._is_open = False

    def _changed(self, delta: BlockDelta) -> None:
        self._events.append(BlockDeltaEvent(index=len(self._blocks) - 1, delta=delta))

    def _message_usage(self) -> MessagesUsage:
        usage = self._usage.usage()
        details = usage.prompt_tokens_details
        cached = details.cached_tokens if details else 0
        return MessagesUsage(
            input_tokens=usage.prompt_tokens - cached,
            output_tokens=usage.completion_tokens,
            cache_read_input_tokens=cached,
        )

    def _take_events(self) -> bytes:
        events, self._events = self._events, []
        return b"".join(
            named_event(event.type, event.model_dump_json())  # type: ignore[attr-defined]
            for event in events
        )


@dataclass(slots=True)
class _Block:
    """A content block in the making."""

    kind: Kind
    id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)

    def answer(self) -> AnswerBlock:
        text = "".join(self.pieces)
        match self.kind:
            case "text":
                return AnswerText(text=text)
            case "thinking":
                return AnswerThinking(thinking=text)
            case "tool_use":
                return AnswerToolUse(id=self.id, name=self.name, input=_object(text))


def _object(arguments: str) -> dict[str, Any]:
    """Arguments as an object; empty for those that were cut off, which are no JSON."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}

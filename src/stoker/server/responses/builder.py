"""A response in the making: the engine's outputs become its items and its events."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from typing import Any, TypeVar

from stoker.api.errors import ApiError
from stoker.api.openai import TokenLogprob
from stoker.api.response_events import ErrorEvent, ErrorPayload, Event, ResponseEvent
from stoker.api.response_items import ItemStatus, OutputItem
from stoker.api.responses import (
    FailureCode,
    IncompleteDetails,
    InputTokensDetails,
    OutputTokensDetails,
    ResponseError,
    ResponseResource,
    ResponseUsage,
    Status,
)
from stoker.api.sse import named_event
from stoker.api.tool_calls import Content, Delta, Reasoning, ToolCall, merge
from stoker.engine.outputs import RequestOutput
from stoker.model.tokenizer import Tokenizer
from stoker.server.answer import AnswerParser
from stoker.server.generation import UsageCount, check_ended, new_id
from stoker.server.logprobs import chat_logprobs
from stoker.server.responses.items import (
    OpenFunctionCall,
    OpenItem,
    OpenMessage,
    OpenReasoning,
)

ItemT = TypeVar("ItemT", bound=OpenItem)


class ResponseBuilder:
    """Takes the outputs of one answer; each step returns the events it causes."""

    def __init__(
        self,
        response: ResponseResource,
        parser: AnswerParser,
        tokenizer: Tokenizer,
        *,
        num_logprobs: int | None,
        on_end: Callable[[ResponseResource], None],
    ) -> None:
        """`response`: as it is before it begins. `on_end` gets it as it is in the end, before the
        event that says so."""
        self.response = response
        self._parser = parser
        self._tokenizer = tokenizer
        self._num_logprobs = num_logprobs
        self._on_end = on_end
        self._numbers = count()
        self._events: list[Event] = []
        self._output: list[OutputItem] = []
        self._open: OpenItem | None = None
        self._usage = UsageCount()
        self._logprobs: list[TokenLogprob] = []
        """Of tokens whose text has not come yet."""
        self._is_cut = False

    def begin(self) -> list[bytes]:
        self._whole("response.created")
        if self.response.status == "queued":
            self._whole("response.queued")
        self.response = self.response.model_copy(update={"status": "in_progress"})
        self._whole("response.in_progress")
        return self._take_events()

    def take(self, output: RequestOutput) -> list[bytes]:
        """Raises what `check_ended` raises."""
        (choice,) = output.outputs
        check_ended(choice)
        self._usage.add(0, output)
        self._is_cut = choice.finish_reason == "length"
        if self._num_logprobs is not None:
            found = chat_logprobs(choice.logprobs or [], self._num_logprobs, self._tokenizer)
            self._logprobs += found.content
        deltas = self._parser.feed(choice.text)
        if choice.finish_reason is not None:
            deltas = merge(deltas + self._parser.finish())
        for delta in deltas:
            self._add(delta)
        return self._take_events()

    def end(self) -> list[bytes]:
        """The answer is whole, or as long as it may be."""
        if not self._output and self._open is None:
            self._begin(OpenMessage(0, self._numbers))
        if self._is_cut:
            self._close("incomplete")
            details = IncompleteDetails(reason="max_output_tokens")
            return self._end("incomplete", incomplete_details=details)
        self._close("completed")
        return self._end("completed", completed_at=int(time.time()))

    def fail(self, error: ApiError) -> list[bytes]:
        """The answer cannot be finished."""
        info = error.info
        self._close("incomplete")
        self._events.append(
            ErrorEvent(
                sequence_number=next(self._numbers),
                code=info.code,
                message=info.message,
                param=info.param,
                error=ErrorPayload(
                    type=info.type, code=info.code, message=info.message, param=info.param
                ),
            )
        )
        code: FailureCode = "invalid_prompt" if error.status < 500 else "server_error"
        failure = ResponseError(code=code, message=info.message)
        return self._end("failed", error=failure)

    def cancel(self) -> list[bytes]:
        """Nobody wants the rest of the answer."""
        self._close("incomplete")
        return self._end("cancelled")

    def _add(self, delta: Delta) -> None:
        match delta:
            case Content(text):
                message = self._open
                if not isinstance(message, OpenMessage):
                    message = self._begin(OpenMessage(self._next_index, self._numbers))
                self._events.append(message.add(text, self._logprobs))
            case Reasoning(text):
                reasoning = self._open
                if not isinstance(reasoning, OpenReasoning):
                    reasoning = self._begin(OpenReasoning(self._next_index, self._numbers))
                self._events.append(reasoning.add(text))
            case ToolCall():
                call = self._open
                if delta.name is not None or not isinstance(call, OpenFunctionCall):
                    call = self._begin(
                        OpenFunctionCall(
                            self._next_index,
                            self._numbers,
                            call_id=delta.id or new_id("call_"),
                            name=delta.name or "",
                        )
                    )
                if delta.arguments:
                    self._events.append(call.add(delta.arguments))
        self._logprobs = []

    @property
    def _next_index(self) -> int:
        return len(self._output) + (self._open is not None)

    def _begin(self, item: ItemT) -> ItemT:
        """Close the item that is open, if one is, and open the next."""
        self._close("completed")
        self._open = item
        self._events += item.begin()
        return item

    def _close(self, status: ItemStatus) -> None:
        if self._open is not None:
            item = self._open.item(status)
            self._events += self._open.end(item)
            self._output.append(item)
            self._open = None

    def _end(self, status: Status, **changes: Any) -> list[bytes]:
        changes |= {"status": status, "output": self._output, "usage": self._response_usage()}
        self.response = self.response.model_copy(update=changes)
        self._on_end(self.response)
        # Nothing in the API stands for a cancelled response; it is not whole.
        self._whole("response.incomplete" if status == "cancelled" else f"response.{status}")
        return self._take_events()

    def _response_usage(self) -> ResponseUsage:
        usage = self._usage.usage()
        details = usage.prompt_tokens_details
        return ResponseUsage(
            input_tokens=usage.prompt_tokens,
            input_tokens_details=InputTokensDetails(
                cached_tokens=details.cached_tokens if details else 0
            ),
            output_tokens=usage.completion_tokens,
            output_tokens_details=OutputTokensDetails(),
            total_tokens=usage.total_tokens,
        )

    def _whole(self, kind: str) -> None:
        self._events.append(
            ResponseEvent.model_construct(
                type=kind, sequence_number=next(self._numbers), response=self.response
            )
        )

    def _take_events(self) -> list[bytes]:
        events, self._events = self._events, []
        return [named_event(event.type, event.model_dump_json(by_alias=True)) for event in events]

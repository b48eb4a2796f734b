"""Items of a response while the model writes them: their events, and what they come to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from stoker.api.openai import TokenLogprob
from stoker.api.response_events import (
    ArgumentsDelta,
    ArgumentsDone,
    Event,
    ItemEvent,
    PartEvent,
    ReasoningDelta,
    ReasoningDone,
    TextDelta,
    TextDone,
)
from stoker.api.response_items import (
    ItemStatus,
    OutputFunctionCall,
    OutputItem,
    OutputMessage,
    OutputPart,
    OutputReasoning,
    OutputReasoningText,
    OutputText,
)
from stoker.server.generation import new_id

Numbers = Iterator[int]
"""Gives every event of a response its number."""


class OpenItem(ABC):
    """One item that is being written."""

    def __init__(self, prefix: str, index: int, numbers: Numbers) -> None:
        """`index`: its place in the response's output."""
        self.id = new_id(prefix)
        self.index = index
        self._numbers = numbers
        self._pieces: list[str] = []

    @abstractmethod
    def begin(self) -> Iterator[Event]:
        """The events that announce it."""

    @abstractmethod
    def end(self, item: OutputItem) -> Iterator[Event]:
        """The events that say it is done, as `item`."""

    @abstractmethod
    def item(self, status: ItemStatus) -> OutputItem:
        """The item with what was written so far."""

    def _added(self, item: OutputItem) -> Event:
        return ItemEvent(
            type="response.output_item.added",
            sequence_number=next(self._numbers),
            output_index=self.index,
            item=item,
        )

    def _done(self, item: OutputItem) -> Event:
        return ItemEvent(
            type="response.output_item.done",
            sequence_number=next(self._numbers),
            output_index=self.index,
            item=item,
        )

    def _part_added(self, part: OutputPart) -> Event:
        return PartEvent(
            type="response.content_part.added",
            sequence_number=next(self._numbers),
            item_id=self.id,
            output_index=self.index,
            content_index=0,
            part=part,
        )

    def _part_done(self, part: OutputPart) -> Event:
        return PartEvent(
            type="response.content_part.done",
            sequence_number=next(self._numbers),
            item_id=self.id,
            output_index=self.index,
            content_index=0,
            part=part,
        )


class OpenMessage(OpenItem):
    """The answer proper, a message of one part."""

    def __init__(self, index: int, numbers: Numbers) -> None:
        super().__init__("msg_", index, numbers)
        self._logprobs: list[TokenLogprob] = []

    def begin(self) -> Iterator[Event]:
        yield self._added(OutputMessage(id=self.id, status="in_progress", content=[]))
        yield self._part_added(OutputText(text=""))

    def add(self, text: str, logprobs: Sequence[TokenLogprob]) -> Event:
        self._pieces.append(text)
        self._logprobs += logprobs
        return TextDelta(
            sequence_number=next(self._numbers),
            item_id=self.id,
            output_index=self.index,
            content_index=0,
            delta=text,
            logprobs=list(logprobs),
        )

    def end(self, item: OutputItem) -> Iterator[Event]:
        part = self._part()
        yield TextDone(
            sequence_number=next(self._numbers),
            item_id=self.id,
            output_index=self.index,
            content_index=0,
            text=part.text,
            logprobs=part.logprobs,
        )
        yield self._part_done(part)
        yield self._done(item)

    def item(self, status: ItemStatus) -> OutputMessage:
        return OutputMessage(id=self.id, status=status, content=[self._part()])

    def _part(self) -> OutputText:
        return OutputText(text="".join(self._pieces), logprobs=self._logprobs)


class OpenReasoning(OpenItem):
    """What the model writes before its answer."""

    def __init__(self, index: int, numbers: Numbers) -> None:
        super().__init__("rs_", index, numbers)

    def begin(self) -> Iterator[Event]:
        yield self._added(OutputReasoning(id=self.id, status="in_progress", content=[]))
        yield self._part_added(OutputReasoningText(text=""))

    def add(self, text: str) -> Event:
        self._pieces.append(text)
        return ReasoningDelta(
            sequence_number=next(self._numbers),
            item_id=self.id,
            output_index=self.index,
            content_index=0,
            delta=text,
        )

    def end(self, item: OutputItem) -> Iterator[Event]:
        part = self._part()
        yield ReasoningDone(
            sequence_number=next(self._numbers),
            item_id=self.id,
            output_index=self.index,
            content_index=0,
            text=part.text,
        )
        yield self._part_done(part)
        yield self._done(item)

    def item(self, status: ItemStatus) -> OutputReasoning:
        return OutputReasoning(id=self.id, status=status, content=[self._part()])

    def _part(self) -> OutputReasoningText:
        return OutputReasoningText(text="".join(self._pieces))


class OpenFunctionCall(OpenItem):
    """A call that the model asks for."""

    def __init__(self, index: int, numbers: Numbers, *, call_id: str, name: str) -> None:
        super().__init__("fc_", index, numbers)
        self._call_id = call_id
        self._name = name

    def begin(self) -> Iterator[Event]:
        yield self._added(self.item("in_progress"))

    def add(self, arguments: str) -> Event:
        self._pieces.append(arguments)
        return ArgumentsDelta(
            sequence_number=next(self._numbers),
            item_id=self.id,
            output_index=self.index,
            delta=arguments,
        )

    def end(self, item: OutputItem) -> Iterator[Event]:
        yield ArgumentsDone(
            sequence_number=next(self._numbers),
            item_id=self.id,
            output_index=self.index,
            name=self._name,
            arguments="".join(self._pieces),
        )
        yield self._done(item)

    def item(self, status: ItemStatus) -> OutputFunctionCall:
        return OutputFunctionCall(
            id=self.id,
            call_id=self._call_id,
            name=self._name,
            arguments="".join(self._pieces),
            status=status,
        )

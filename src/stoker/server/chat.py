"""`POST /v1/chat/completions`."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request, Response

from stoker.api.openai import (
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
)
from stoker.api.sse import DONE, ChunkWriter, json_string
from stoker.api.tool_calls import merge
from stoker.engine.outputs import CompletionOutput, RequestOutput
from stoker.model.tokenizer import Tokenizer
from stoker.server.answer import (
    AnswerParser,
    AnswerReader,
    delta_json,
    finish_reason,
)
from stoker.server.conversation import prepare_chat, submit_chats
from stoker.server.generation import (
    UsageCount,
    check_ended,
    finished_outputs,
    new_id,
)
from stoker.server.logprobs import chat_logprobs, prompt_logprobs
from stoker.server.openapi import describe
from stoker.server.parse import parse_body
from stoker.server.state import state_of
from stoker.server.stream import Encoder, EventStream

router = APIRouter(tags=["chat"])


@router.post(
    "/v1/chat/completions",
    **describe(ChatCompletionRequest, ChatCompletion, chunk=ChatCompletionChunk),
)
async def create_chat_completion(http: Request) -> Response:
    """Answer a conversation, whole or as a stream of server-sent events."""
    state = state_of(http)
    model = state.ready()
    request = await parse_body(http, ChatCompletionRequest)
    name = state.check_name(request.model)
    config = state.config
    chat = await prepare_chat(model, config, request)
    answer_id = new_id("chatcmpl-")
    created = int(time.time())
    streams = submit_chats(model, answer_id, [chat], request)
    if request.stream:
        encoder = ChatEncoder(
            ChunkWriter(
                answer_id=answer_id, kind="chat.completion.chunk", created=created, model=name
            ),
            model.tokenizer,
            chat.reader,
            num_logprobs=request.num_logprobs,
            include_usage=request.include_usage or config.force_include_usage,
            continuous_usage=request.continuous_usage,
        )
        return EventStream(
            streams,
            encoder,
            keep_alive_interval=config.keep_alive_interval,
            timeout=config.request_timeout,
        )
    (output,) = await finished_outputs(streams, http.receive, config.request_timeout)
    usage = UsageCount()
    usage.add(0, output)
    answer = ChatCompletion(
        id=answer_id,
        created=created,
        model=name,
        choices=[
            chat_choice(choice, chat.reader, request.num_logprobs, model.tokenizer)
            for choice in output.outputs
        ],
        usage=usage.usage(),
        prompt_logprobs=prompt_logprobs(output.prompt_logprobs),
    )
    return Response(answer.model_dump_json(), media_type="application/json")


def chat_choice(
    choice: CompletionOutput, reader: AnswerReader, num_logprobs: int | None, tokenizer: Tokenizer
) -> ChatChoice:
    """A whole answer as the choice that it is."""
    logprobs = None
    if num_logprobs is not None:
        logprobs = chat_logprobs(choice.logprobs or [], num_logprobs, tokenizer)
    message = reader.read(choice.text)
    return ChatChoice(
        index=choice.index,
        message=message,
        logprobs=logprobs,
        finish_reason=finish_reason(choice, has_calls=message.tool_calls is not None),
        stop_reason=choice.stop_reason,
    )


class ChatEncoder(Encoder):
    """Outputs as chat chunks: the role first, then pieces of text, then why it ended."""

    def __init__(
        self,
        writer: ChunkWriter,
        tokenizer: Tokenizer,
        reader: AnswerReader,
        *,
        num_logprobs: int | None,
        include_usage: bool,
        continuous_usage: bool,
    ) -> None:
        self._chunk = writer.chunk
        self._tokenizer = tokenizer
        self._num_logprobs = num_logprobs
        self._include_usage = include_usage
        self._continuous_usage = continuous_usage
        self._usage = UsageCount()
        self._reader = reader
        self._parsers: dict[int, AnswerParser] = {}

    def encode(self, prompt_index: int, output: RequestOutput) -> bytes:
        self._usage.add(prompt_index, output)
        usage = None
        if self._include_usage:
            usage = self._usage.usage().model_dump_json() if self._continuous_usage else "null"
        events: list[str] = []
        for choice in output.outputs:
            index = choice.index
            parser = self._parsers.get(index)
            if parser is None:
                parser = self._parsers[index] = self._reader.parser()
                events.append(
                    self._chunk(
                        f'{{"index":{index},"delta":{{"role":"assistant","content":""}},'
                        '"logprobs":null,"finish_reason":null}',
                        usage,
                    )
                )
            logprobs = self._logprobs(choice)
            for delta in self._deltas(choice, parser):
                events.append(
                    self._chunk(
                        f'{{"index":{index},"delta":{delta},"logprobs":{logprobs},'
                        '"finish_reason":null}',
                        usage,
                    )
                )
                logprobs = "null"
            if choice.finish_reason is not None:
                check_ended(choice)
                events.append(self._chunk(_last(choice, has_calls=parser.has_calls), usage))
        return "".join(events).encode()

    def _deltas(self, choice: CompletionOutput, parser: AnswerParser) -> list[str]:
        """What is new of an answer; with log-probabilities at least one delta to carry them."""
        if self._reader.is_plain:
            if choice.text or choice.logprobs:
                return [f'{{"content":{json_string(choice.text)}}}']
            return []
        found = parser.feed(choice.text)
        if choice.finish_reason is not None:
            found = merge(found + parser.finish())
        return [delta_json(delta) for delta in found] or (["{}"] if choice.logprobs else [])

    def end(self) -> bytes:
        if not self._include_usage:
            return DONE
        return self._chunk("", self._usage.usage().model_dump_json()).encode() + DONE

    def _logprobs(self, choice: CompletionOutput) -> str:
        if self._num_logprobs is None:
            return "null"
        return chat_logprobs(
            choice.logprobs or [], self._num_logprobs, self._tokenizer
        ).model_dump_json()


def _last(choice: CompletionOutput, *, has_calls: bool) -> str:
    reason = choice.stop_reason
    stop_reason = (
        "null" if reason is None else json_string(reason) if isinstance(reason, str) else reason
    )
    return (
        f'{{"index":{choice.index},"delta":{{}},"logprobs":null,'
        f'"finish_reason":"{finish_reason(choice, has_calls=has_calls)}",'
        f'"stop_reason":{stop_reason}}}'
    )

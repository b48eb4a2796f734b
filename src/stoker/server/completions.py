"""`POST /v1/completions`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from stoker.api.openai import Completion, CompletionChoice, CompletionRequest, PromptLogprobs
from stoker.api.sse import DONE, ChunkWriter, json_string
from stoker.engine.outputs import CompletionOutput, RequestOutput
from stoker.model.tokenizer import Tokenizer
from stoker.server.constraint import constraint
from stoker.server.generation import (
    EnginePrompt,
    UsageCount,
    check_ended,
    constrain,
    encode,
    finished_outputs,
    new_id,
    submit,
    wire_reason,
)
from stoker.server.logprobs import TokenLogprobs, completion_logprobs, prompt_logprobs
from stoker.server.openapi import describe
from stoker.server.params import sampling_params
from stoker.server.parse import parse_body
from stoker.server.state import ServedModel, state_of
from stoker.server.stream import Encoder, EventStream

router = APIRouter(tags=["completions"])


@router.post("/v1/completions", **describe(CompletionRequest, Completion, chunk=Completion))
async def create_completion(http: Request) -> Response:
    """Continue one or more prompts, whole or as a stream of server-sent events."""
    state = state_of(http)
    model = state.ready()
    request = await parse_body(http, CompletionRequest)
    name = state.check_name(request.model)
    params = sampling_params(
        request,
        max_tokens=max(request.token_limit, 1),
        logprobs=request.logprobs,
        sampling_mode=state.config.sampling_mode,
    )
    await constrain(model, params, constraint(request, model.tokenizer))
    if request.echo and request.logprobs is not None:
        params.prompt_logprobs = max(params.prompt_logprobs or 0, request.logprobs)
    prompts = await _tokenize(model, request)
    answer_id = new_id("cmpl-")
    created = int(time.time())
    streams = submit(
        model,
        answer_id,
        [EnginePrompt(prompt, params) for prompt in prompts],
        priority=request.priority or 0,
    )
    config = state.config
    choices = ChoiceMaker(request, prompts, model.tokenizer)
    if request.stream:
        encoder = CompletionEncoder(
            ChunkWriter(answer_id=answer_id, kind="text_completion", created=created, model=name),
            choices,
            include_usage=request.include_usage or config.force_include_usage,
            continuous_usage=request.continuous_usage,
        )
        return EventStream(
            streams,
            encoder,
            keep_alive_interval=config.keep_alive_interval,
            timeout=config.request_timeout,
        )
    outputs = await finished_outputs(streams, http.receive, config.request_timeout)
    usage = UsageCount()
    for index, output in enumerate(outputs):
        choices.trim(output)
        usage.add(index, output)
    answer = Completion(
        id=answer_id,
        created=created,
        model=name,
        choices=[
            choices.make(index, output, choice)
            for index, output in enumerate(outputs)
            for choice in output.outputs
        ],
        usage=usage.usage(),
    )
    return Response(answer.model_dump_json(), media_type="application/json")


async def _tokenize(model: ServedModel, request: CompletionRequest) -> list[list[int]]:
    special = request.add_special_tokens is not False
    prompts: list[list[int]] = []
    for prompt in request.prompts:
        if isinstance(prompt, str):
            prompts.append(await encode(model.tokenizer, prompt, add_special_tokens=special))
            await asyncio.sleep(0)  # a long list of prompts must not hold up the streams
        else:
            prompts.append(prompt)
    return prompts


class ChoiceMaker:
    """Outputs as choices: each choice begins with the prompt where `echo` asks for it."""

    def __init__(
        self, request: CompletionRequest, prompts: Sequence[Sequence[int]], tokenizer: Tokenizer
    ) -> None:
        self._request = request
        self._prompts = prompts
        self._tokenizer = tokenizer
        self._n = request.n or 1
        self._lengths: dict[int, int] = {}
        """Characters sent of each choice."""
        self.plain = request.logprobs is None and not request.echo
        """A choice is its text and nothing else."""

    def trim(self, output: RequestOutput) -> None:
        """Drop the token that was generated only because the engine makes at least one."""
        if self._request.token_limit == 0:
            for choice in output.outputs:
                choice.text, choice.token_ids, choice.logprobs = "", [], []
                choice.finish_reason, choice.stop_reason = "length", None

    def index(self, prompt_index: int, choice: CompletionOutput) -> int:
        return prompt_index * self._n + choice.index

    def make(
        self, prompt_index: int, output: RequestOutput, choice: CompletionOutput
    ) -> CompletionChoice:
        """The next piece of a choice, or all of it."""
        index = self.index(prompt_index, choice)
        text = choice.text
        token_ids = choice.token_ids
        entries = list[TokenLogprobs | None](choice.logprobs or [])
        if self._request.echo and index not in self._lengths:
            text = self._prompt_text(prompt_index) + text
            token_ids = [*output.prompt_token_ids, *token_ids]
            entries = [*(output.prompt_logprobs or []), *entries]
        begin = self._lengths.get(index, 0)
        self._lengths[index] = begin + len(text)
        logprobs = None
        if self._request.logprobs is not None:
            logprobs = completion_logprobs(
                entries, token_ids, self._request.logprobs, self._tokenizer, begin
            )
        return CompletionChoice(
            index=index,
            text=text,
            logprobs=logprobs,
            finish_reason=None
            if choice.finish_reason is None
            else wire_reason(choice.finish_reason),
            stop_reason=choice.stop_reason,
            prompt_logprobs=self._prompt_logprobs(output),
        )

    def _prompt_logprobs(self, output: RequestOutput) -> PromptLogprobs | None:
        if self._request.prompt_logprobs is None:  # `echo` may have asked for them
            return None
        return prompt_logprobs(output.prompt_logprobs)

    def _prompt_text(self, prompt_index: int) -> str:
        prompt = self._request.prompts[prompt_index]
        if isinstance(prompt, str):
            return prompt
        return self._tokenizer.decode(prompt, skip_special_tokens=False)


class CompletionEncoder(Encoder):
    """Outputs as completion chunks."""

    def __init__(
        self,
        writer: ChunkWriter,
        choices: ChoiceMaker,
        *,
        include_usage: bool,
        continuous_usage: bool,
    ) -> None:
        self._chunk = writer.chunk
        self._choices = choices
        self._include_usage = include_usage
        self._continuous_usage = continuous_usage
        self._usage = UsageCount()

    def encode(self, prompt_index: int, output: RequestOutput) -> bytes:
        choices = self._choices
        if not choices.plain:
            choices.trim(output)
        self._usage.add(prompt_index, output)
        usage = None
        if self._include_usage:
            usage = self._usage.usage().model_dump_json() if self._continuous_usage else "null"
        events: list[str] = []
        for choice in output.outputs:
            if choice.finish_reason is not None or not choices.plain:
                check_ended(choice)
                made = choices.make(prompt_index, output, choice)
                events.append(self._chunk(made.model_dump_json(), usage))
            elif choice.text:
                index = choices.index(prompt_index, choice)
                events.append(
                    self._chunk(
                        f'{{"index":{index},"text":{json_string(choice.text)},'
                        '"logprobs":null,"finish_reason":null,"stop_reason":null}',
                        usage,
                    )
                )
        return "".join(events).encode()

    def end(self) -> bytes:
        if not self._include_usage:
            return DONE
        return self._chunk("", self._usage.usage().model_dump_json()).encode() + DONE

"""`LLM`: a model in this process, for scripts. Its methods and results are vLLM's."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import count
from types import TracebackType
from typing import Any, TypeVar

from stoker.engine.config import EngineConfig
from stoker.engine.engine import Engine
from stoker.engine.factory import build_engine
from stoker.engine.outputs import BeamSearchOutput, BeamSearchSequence, RequestOutput
from stoker.engine.progress import Advance, progress_bar
from stoker.engine.prompts import Prompt, PromptType, as_list, tokenize
from stoker.engine.sampling_params import BeamSearchParams, RequestOutputKind, SamplingParams
from stoker.errors import InvalidRequest
from stoker.model.template import ChatTemplate
from stoker.model.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

T = TypeVar("T")
Message = Mapping[str, Any]

_WITHOUT_EFFECT = frozenset(
    {
        *("cpu_offload_gb", "disable_log_stats", "dtype", "enable_chunked_prefill"),
        *("enforce_eager", "gpu_memory_utilization", "swap_space", "tokenizer_mode"),
        "trust_remote_code",
    }
)
"""Settings of vLLM that scripts often give and that have nothing to set here."""


class LLM:
    """Generates text with one model.

    Args:
        model: `smollm2`, `hf:org/repo`, `hf:org/repo:file.gguf` or a path.
        chat_template: the Jinja source to use in place of the model's own.
        settings: fields of `EngineConfig`, such as `max_model_len` or `max_num_seqs`. Those of
            vLLM that mean nothing here (`gpu_memory_utilization` …) are named in a warning.

    Raises:
        InvalidRequest: a setting is unknown or wrong.
        ModelError: the model cannot be found, read or run.
        MemoryPlanError: it does not fit.
    """

    def __init__(
        self, model: str = "smollm2", *, chat_template: str | None = None, **settings: Any
    ) -> None:
        ignored = sorted(_WITHOUT_EFFECT & settings.keys())
        if ignored:
            logger.warning("without effect in Stoker: %s", ", ".join(ignored))
        known = {name: value for name, value in settings.items() if name not in ignored}
        config = EngineConfig.from_mapping({"max_waiting_requests": 0} | known)
        loaded = build_engine(model, config, chat_template=chat_template)
        self.engine: Engine = loaded.engine
        self._tokenizer = loaded.tokenizer
        self._template = loaded.template
        self._ids = count()

    def get_tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """What is used where no parameters are given."""
        return SamplingParams()

    def generate(
        self,
        prompts: PromptType | Sequence[PromptType],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        priority: int | Sequence[int] = 0,
    ) -> list[RequestOutput]:
        """Answer all prompts; the results are in the order of the prompts.

        Args:
            prompts: one or several of: text, token ids, `{"prompt": …}`,
                `{"prompt_token_ids": […]}`.
            sampling_params: for all prompts, or one for each.
            use_tqdm: show a progress bar.
            priority: for all prompts, or one for each; lower goes first, where the policy is
                `priority`.

        Raises:
            InvalidRequest: a prompt or parameter is wrong; nothing was computed.
        """
        tokenized = [tokenize(prompt, self._tokenizer) for prompt in as_list(prompts)]
        params = _for_each(
            sampling_params or self.get_default_sampling_params(), len(tokenized), "sampling_params"
        )
        final = [replace(p, output_kind=RequestOutputKind.FINAL_ONLY) for p in params]
        return self._run(
            tokenized, final, _for_each(priority, len(tokenized), "priority"), use_tqdm
        )

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer a conversation, or each of several.

        Args:
            messages: a conversation: `[{"role": …, "content": …}, …]`; or a list of them.
            chat_template: the Jinja source to use in place of the model's own.
            add_generation_prompt: end the prompt with the beginning of the assistant's turn.
            continue_final_message: leave the last message open, to be continued.
            tools: function definitions handed to the template.
            chat_template_kwargs: further variables for the template.

        Raises:
            InvalidRequest: a message or parameter is wrong; nothing was computed.
            TemplateError: the template refuses the messages, or there is none.
        """
        if continue_final_message and add_generation_prompt:
            raise InvalidRequest(
                "continue_final_message leaves no room for a new turn: "
                "set add_generation_prompt=False",
                param="add_generation_prompt",
            )
        template = self._template
        if chat_template is not None:
            template = ChatTemplate.of(self._tokenizer, chat_template)
        prompts: list[PromptType] = []
        for conversation in _conversations(messages):
            text = template.render(
                conversation,
                tools,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **(chat_template_kwargs or {}),
            )
            ids = self._tokenizer.encode(text, add_special_tokens=False)
            prompts.append({"prompt_token_ids": ids, "prompt": text})
        return self.generate(prompts, sampling_params, use_tqdm=use_tqdm)

    def beam_search(
        self,
        prompts: PromptType | Sequence[PromptType],
        params: BeamSearchParams,
        *,
        use_tqdm: bool = False,
    ) -> list[BeamSearchOutput]:
        """The `params.beam_width` best answers to each prompt, best first.

        Raises:
            InvalidRequest: a prompt or parameter is wrong; nothing was computed.
        """
        tokenized = [tokenize(prompt, self._tokenizer) for prompt in as_list(prompts)]
        outputs = self._run(tokenized, [params] * len(tokenized), [0] * len(tokenized), use_tqdm)
        return [self._beams(output, params) for output in outputs]

    def reset_prefix_cache(self) -> bool:
        """Forget all cached prefixes."""
        return self.engine.reset_prefix_cache()

    def close(self) -> None:
        """Free the model."""
        self.engine.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(
        self,
        prompts: list[Prompt],
        params: Sequence[SamplingParams | BeamSearchParams],
        priorities: Sequence[int],
        use_tqdm: bool,
    ) -> list[RequestOutput]:
        """Submit everything, then step until all is answered; on an error nothing is left."""
        requests = []
        for prompt, wanted, priority in zip(prompts, params, priorities, strict=True):
            request = self.engine.make_request(
                str(next(self._ids)),
                prompt.token_ids,
                wanted,
                priority=priority,
                prompt=prompt.text,
                cache_salt=prompt.cache_salt,
            )
            requests.append(request)
        finished: dict[str, RequestOutput] = {}
        bar: AbstractContextManager[Advance] = (
            progress_bar(len(requests)) if use_tqdm else nullcontext(_ignore)
        )
        try:
            for request in requests:
                self.engine.add(request)
            with bar as advance:
                while self.engine.has_unfinished:
                    for output in self.engine.step():
                        finished[output.request_id] = output
                        tokens = sum(len(answer.token_ids) for answer in output.outputs)
                        advance(len(output.prompt_token_ids), tokens)
        finally:
            self.engine.abort_all()
        return [finished[request.request_id] for request in requests]

    def _beams(self, output: RequestOutput, params: BeamSearchParams) -> BeamSearchOutput:
        beams = []
        for answer in output.outputs:
            tokens = output.prompt_token_ids + answer.token_ids
            text = self._tokenizer.decode(tokens, skip_special_tokens=params.skip_special_tokens)
            beams.append(
                BeamSearchSequence(
                    tokens,
                    answer.cumulative_logprob or 0.0,
                    answer.logprobs or [],
                    text,
                    answer.finish_reason,
                    answer.stop_reason,
                )
            )
        return BeamSearchOutput(beams)


def _for_each(value: T | Sequence[T], number: int, name: str) -> list[T]:
    """One value for all, or one for each."""
    if isinstance(value, Sequence):
        values: list[T] = list(value)
        if len(values) != number:
            raise InvalidRequest(
                f"{number} prompts need one {name} for all or {number}, got {len(values)}",
                param=name,
            )
        return values
    return [value] * number


def _conversations(
    messages: Sequence[Message] | Sequence[Sequence[Message]],
) -> Sequence[Sequence[Message]]:
    if messages and not isinstance(messages[0], Mapping):
        return messages  # type: ignore[return-value]
    return [messages]  # type: ignore[list-item]


def _ignore(prompt_tokens: int, answer_tokens: int) -> None:
    """Where nobody watches."""

"""From the fields of a request to the engine's `SamplingParams`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from stoker.api.generation import GenerationFields
from stoker.api.sampling_presets import PRESETS, choose_preset
from stoker.engine.sampling_params import RequestOutputKind, SamplingParams

_SAME_NAME = (
    "n",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "min_tokens",
    "prompt_logprobs",
    "allowed_token_ids",
    "bad_words",
    "skip_special_tokens",
)


def sampling_params(
    request: GenerationFields,
    *,
    max_tokens: int | None,
    logprobs: int | None,
    sampling_mode: str | None = None,
) -> SamplingParams:
    """The request's fields where it gives them, else those of its preset (`sampling_mode` if it
    chooses none), else the engine's defaults.

    Raises:
        InvalidRequest: naming the field that is wrong.
    """
    preset = choose_preset(request.sampling_mode, request.task_type, request.urgency)
    if preset is None and sampling_mode is not None:
        preset = PRESETS[sampling_mode]
    given: dict[str, Any] = {} if preset is None else asdict(preset)
    given |= {name: value for name in _SAME_NAME if (value := getattr(request, name)) is not None}
    if request.logit_bias is not None:
        given["logit_bias"] = {int(token): bias for token, bias in request.logit_bias.items()}
    kind = RequestOutputKind.DELTA if request.stream else RequestOutputKind.FINAL_ONLY
    return SamplingParams(max_tokens=max_tokens, logprobs=logprobs, output_kind=kind, **given)

"""Sampling parameters: what is refused, by which name, and what is brought to a plain form."""

from __future__ import annotations

import math
from typing import Any

import pytest

from stoker.engine.sampling_params import (
    BeamSearchParams,
    SamplingParams,
    StructuredOutputsParams,
)
from stoker.errors import InvalidRequest

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("n", 1.5),
        ("n", True),
        ("n", 1025),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("repetition_penalty", 0.0),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("top_k", 1.0),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("seed", 2**64),
        ("seed", 1.0),
        ("max_tokens", 0),
        ("min_tokens", -1),
        ("min_tokens", 17),
        ("logprobs", -2),
        ("prompt_logprobs", -2),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("stop", ["x"] * 65),
        ("bad_words", "word"),
        ("bad_words", [1]),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", ["1"]),
        ("allowed_token_ids", []),
        ("logit_bias", {"x": 1.0}),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {1: 101.0}),
        ("logit_bias", {1: NAN}),
        ("logit_bias", [1]),
        ("ignore_eos", 1),
        ("skip_special_tokens", None),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=field) as refused:
        SamplingParams(**{field: value})
    assert refused.value.param == field


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize(
    "field",
    [
        *("presence_penalty", "frequency_penalty", "repetition_penalty"),
        *("temperature", "top_p", "min_p"),
    ],
)
def test_numbers_must_be_finite(field: str, value: float) -> None:
    with pytest.raises(InvalidRequest) as refused:
        SamplingParams(**{field: value})  # type: ignore[arg-type]
    assert refused.value.param == field


def test_messages_say_what_was_wanted() -> None:
    with pytest.raises(InvalidRequest, match=r"^temperature must be in \[0, 2\], got 3$"):
        SamplingParams(temperature=3)
    with pytest.raises(InvalidRequest, match=r"^top_p must be in \(0, 1\], got 0$"):
        SamplingParams(top_p=0)
    with pytest.raises(InvalidRequest, match="a finite number above 0, got inf"):
        SamplingParams(repetition_penalty=INF)
    with pytest.raises(InvalidRequest, match=r"at most max_tokens \(4\), got 5"):
        SamplingParams(max_tokens=4, min_tokens=5)


def test_values_come_to_a_plain_form() -> None:
    params = SamplingParams(
        stop="END",
        seed=-1,
        temperature=1e-6,
        stop_token_ids=[3, 4, 3],
        logit_bias={"7": 1},  # type: ignore[dict-item]
    )
    assert params.stop_strings == ["END"]
    assert params.seed is None
    assert params.is_greedy
    assert params.stop_token_ids == [3, 4]
    assert params.logit_bias == {7: 1.0}
    assert SamplingParams(temperature=0.001).temperature == 0.01
    assert SamplingParams(stop=["a", "b", "a"]).stop_strings == ["a", "b"]
    assert SamplingParams().stop_strings == []


def test_stop_strings_need_text() -> None:
    with pytest.raises(InvalidRequest, match="detokenize=True"):
        SamplingParams(stop="x", detokenize=False)


def test_a_field_assigned_later_is_checked_by_validate() -> None:
    params = SamplingParams()
    params.temperature = NAN
    with pytest.raises(InvalidRequest, match="temperature"):
        params.validate()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("beam_width", 0),
        ("beam_width", 2.0),
        ("max_tokens", 0),
        ("temperature", -1.0),
        ("length_penalty", NAN),
        ("length_penalty", 1000.0),
        ("ignore_eos", "no"),
    ],
)
def test_a_wrong_beam_parameter_is_refused_with_its_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        BeamSearchParams(**({"beam_width": 2, "max_tokens": 4} | {field: value}))
    assert refused.value.param == field


def test_structured_outputs_take_exactly_one_constraint() -> None:
    assert StructuredOutputsParams(choice=["a", "b"]).choice == ["a", "b"]
    with pytest.raises(InvalidRequest, match="found none"):
        StructuredOutputsParams()
    with pytest.raises(InvalidRequest, match="found json and regex"):
        StructuredOutputsParams(json="{}", regex="a+")

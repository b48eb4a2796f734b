"""Constraints that leave no token to choose end their request, and say so."""

from __future__ import annotations

from typing import Any

import pytest

from stoker.engine.sampling_params import SamplingParams, StructuredOutputsParams
from tests.engine.doubles import EOS, finish_all, make_engine


@pytest.mark.parametrize(
    "constraints",
    [
        {"allowed_token_ids": [EOS], "min_tokens": 2},
        {"allowed_token_ids": [97], "bad_words": ["a"]},
        {
            "allowed_token_ids": [97],
            "structured_outputs": StructuredOutputsParams(choice=["yes", "no"]),
        },
    ],
)
def test_a_dead_end_ends_one_request_with_its_reason(constraints: dict[str, Any]) -> None:
    engine = make_engine()
    engine.submit("stuck", [1, 2, 3], SamplingParams(max_tokens=8, **constraints))
    engine.submit("other", [1, 2, 3], SamplingParams(max_tokens=8, ignore_eos=True))
    outputs = finish_all(engine)
    (stuck,) = outputs["stuck"].outputs
    assert stuck.finish_reason == "error"
    assert isinstance(stuck.stop_reason, str)
    assert "no token is left" in stuck.stop_reason
    assert len(outputs["other"].outputs[0].token_ids) == 8

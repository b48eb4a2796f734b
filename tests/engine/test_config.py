"""Engine settings: what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from stoker.engine.config import EngineConfig
from stoker.errors import InvalidRequest


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_model_len", 0),
        ("max_num_seqs", 0),
        ("max_num_seqs", 1.5),
        ("max_num_batched_tokens", 64),  # fewer than sequences
        ("long_prefill_token_threshold", -1),
        ("scheduling_policy", "random"),
        ("block_size", 0),
        ("kv_cache_dtype", "fp8"),
        ("kv_cache_memory_bytes", 0),
        ("max_logprobs", -2),
        ("weight_format", "q2"),
        ("runner", "gpu"),
        ("threads", 0),
        ("max_waiting_requests", -1),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=name) as refused:
        EngineConfig.from_mapping({name: value})
    assert refused.value.param == name


def test_an_unknown_setting_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidRequest, match=r"no engine setting 'max_seqs'.*max_num_seqs"):
        EngineConfig.from_mapping({"max_seqs": 3})

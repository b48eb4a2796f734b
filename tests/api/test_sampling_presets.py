"""The presets, and who chooses among them."""

from __future__ import annotations

import pytest

from stoker.api.sampling_presets import (
    PRESETS,
    SamplingMode,
    Urgency,
    choose_preset,
)
from stoker.engine.sampling_params import SamplingParams


def test_values() -> None:
    values = {mode: (p.temperature, p.top_p, p.top_k) for mode, p in PRESETS.items()}
    assert values == {
        "creative": (0.9, 0.95, 50),
        "balanced": (0.7, 0.9, 40),
        "precise": (0.3, 0.8, 20),
        "deterministic": (0.0, 1.0, 1),
    }
    for preset in PRESETS.values():
        SamplingParams(temperature=preset.temperature, top_p=preset.top_p, top_k=preset.top_k)


@pytest.mark.parametrize(
    ("mode", "task", "urgency", "expected"),
    [
        (None, None, None, None),
        ("creative", None, None, "creative"),
        ("creative", "code_generation", "high", "creative"),
        (None, "code_generation", None, "precise"),
        (None, "creative_writing", "low", "creative"),
        (None, "chat", "normal", "balanced"),
        (None, "anything", None, "balanced"),
        (None, "creative_writing", "high", "deterministic"),
        (None, None, "high", "deterministic"),
        (None, None, "normal", "balanced"),
        (None, None, "low", "balanced"),
    ],
)
def test_choice(
    mode: SamplingMode | None,
    task: str | None,
    urgency: Urgency | None,
    expected: SamplingMode | None,
) -> None:
    assert choose_preset(mode, task, urgency) == (None if expected is None else PRESETS[expected])

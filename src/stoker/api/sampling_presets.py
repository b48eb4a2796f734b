"""Named sampling settings, chosen by name or by what the text is for.

A preset gives values only to what a request leaves open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SamplingMode = Literal["creative", "balanced", "precise", "deterministic"]
Urgency = Literal["low", "normal", "high"]


@dataclass(frozen=True, slots=True)
class SamplingPreset:
    """The three values that set how freely a model writes."""

    temperature: float
    top_p: float
    top_k: int


PRESETS: dict[str, SamplingPreset] = {
    "creative": SamplingPreset(0.9, 0.95, 50),
    "balanced": SamplingPreset(0.7, 0.9, 40),
    "precise": SamplingPreset(0.3, 0.8, 20),
    "deterministic": SamplingPreset(0.0, 1.0, 1),
}
"""By `SamplingMode`."""

_MODE_OF_TASK: dict[str, SamplingMode] = {
    "code_generation": "precise",
    "data_extraction": "precise",
    "translation": "precise",
    "creative_writing": "creative",
    "brainstorming": "creative",
}
"""All other tasks are balanced."""


def choose_preset(
    mode: SamplingMode | None = None,
    task_type: str | None = None,
    urgency: Urgency | None = None,
) -> SamplingPreset | None:
    """The preset for a request; None if it asks for none.

    A mode that is named wins. Else high urgency makes the answer deterministic (the likeliest
    one, without retries), and then the task decides: code is written precisely, fiction freely.
    What is left is balanced.
    """
    if mode is not None:
        return PRESETS[mode]
    if urgency == "high":
        return PRESETS["deterministic"]
    if task_type is None and urgency is None:
        return None
    return PRESETS[_MODE_OF_TASK.get(task_type or "", "balanced")]

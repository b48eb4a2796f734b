"""Named sampling settings, chosen by name or by what the text is for.

A preset gives values only to what a request leaves open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

SamplingMode = Literal["creative", "balanced", "precise", "deterministic"]
TaskType = Literal[
    "code_generation",
    "data_extraction",
    "translation",
    "question_answering",
    "summarization",
    "chat",
    "creative_writing",
    "brainstorming",
]
Urgency = Literal["low", "normal", "high"]


@dataclass(frozen=True, slots=True)
class SamplingPreset:
    """The three values that set how freely a model writes."""

    temperature: float
    top_p: float
    top_k: int


PRESETS: dict[SamplingMode, SamplingPreset] = {
    "creative": SamplingPreset(0.9, 0.95, 50),
    "balanced": SamplingPreset(0.7, 0.9, 40),
    "precise": SamplingPreset(0.3, 0.8, 20),
    "deterministic": SamplingPreset(0.0, 1.0, 1),
}

_MODE_OF_TASK: dict[TaskType, SamplingMode] = {
    "code_generation": "precise",
    "data_extraction": "precise",
    "translation": "precise",
    "question_answering": "balanced",
    "summarization": "balanced",
    "chat": "balanced",
    "creative_writing": "creative",
    "brainstorming": "creative",
}

SAMPLING_MODES: tuple[str, ...] = get_args(SamplingMode)


def choose_preset(
    mode: SamplingMode | None = None,
    task_type: TaskType | None = None,
    urgency: Urgency | None = None,
) -> SamplingPreset | None:
    """The preset for a request; None if it asks for none.

    A mode that is named wins. Else a task decides (code is written precisely, fiction freely);
    of a request that says only how urgent it is, `high` makes it deterministic, anything else
    balanced. High urgency goes before the task: the likeliest answer, without retries.
    """
    if mode is not None:
        return PRESETS[mode]
    if urgency == "high":
        return PRESETS["deterministic"]
    if task_type is not None:
        return PRESETS[_MODE_OF_TASK[task_type]]
    return None if urgency is None else PRESETS["balanced"]

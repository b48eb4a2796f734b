"""Figures as people read them."""

from __future__ import annotations

import pytest

from stoker.cli import units


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.4, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (11100, "3 h 5 min"),
        (176_400, "2 d 1 h"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert units.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (85e-6, "85.0 µs"), (0.0123, "12.3 ms"), (0.85, "850 ms"), (1.25, "1.25 s")],
)
def test_latencies(seconds: float | None, text: str) -> None:
    assert units.latency(seconds) == text


def test_the_others() -> None:
    assert [units.rate(v) for v in (None, 0, 0.25, 12.34, 1234.5)] == [
        *("–", "0", "0.25", "12.3", "1,234"),
    ]
    shares = [units.share(v) for v in (None, 0.0, 0.002, 0.094, 0.096, 0.425, 1.0)]
    assert shares == ["–", "0 %", "0.2 %", "9.4 %", "10 %", "42 %", "100 %"]
    assert [units.count(v) for v in (None, 0, 12345)] == ["–", "0", "12,345"]
    assert [units.memory(v) for v in (None, 412 * 2**20, 3 * 2**30)] == ["–", "412 MiB", "3.0 GiB"]

"""Figures as people read them."""

from __future__ import annotations

NOTHING = "–"
"""In place of a figure that there is not."""


def duration(seconds: float | None) -> str:
    """12 s, 5 min, 3 h 5 min, 2 d 1 h."""
    if seconds is None:
        return NOTHING
    minutes, hours, days = int(seconds) // 60, int(seconds) // 3600, int(seconds) // 86400
    if minutes == 0:
        return f"{int(seconds)} s"
    if hours == 0:
        return f"{minutes} min"
    if days == 0:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"


def latency(seconds: float | None) -> str:
    """850 µs, 12.3 ms, 1.25 s."""
    if seconds is None:
        return NOTHING
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if seconds < limit:
            return f"{_three_digits(seconds * factor)} {unit}"
    return f"{_three_digits(seconds)} s"


def rate(value: float | None) -> str:
    """0, 0.25, 12.3, 1,234."""
    if value is None:
        return NOTHING
    return "0" if value == 0 else _three_digits(value)


def share(value: float | None) -> str:
    """0 %, 0.2 %, 42 %."""
    if value is None:
        return NOTHING
    return f"{value * 100:.1f} %" if 0 < value < 0.095 else f"{value * 100:.0f} %"


def count(value: float | None) -> str:
    """12,345."""
    return NOTHING if value is None else f"{value:,.0f}"


def memory(nbytes: float | None) -> str:
    """412 MiB, 3.2 GiB."""
    if nbytes is None:
        return NOTHING
    mib = nbytes / 2**20
    return f"{mib:.0f} MiB" if mib < 1024 else f"{mib / 1024:.1f} GiB"


def _three_digits(value: float) -> str:
    """To three digits, never with an exponent."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"

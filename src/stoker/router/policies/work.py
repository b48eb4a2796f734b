"""Work on engines in seconds: what their queues and a new request would take them."""

from __future__ import annotations

from collections.abc import Sequence

from stoker.router.engines.handle import EngineHandle

# A prompt's token costs this part of a generated one where an engine's own figures are unknown
# (measured: 1/5 for vLLM on a CPU, less on GPUs, more for llama.cpp).
PREFILL_WEIGHT = 0.2
# The pressure of a filling KV cache, in seconds: `KV_BARRIER_S · k / (1 − k)`.
KV_BARRIER_S = 0.15
_FULLEST = 0.99
# Measured rates this near to their mean are taken for it: an engine that had less to do writes
# less, and must not count as slower for it.
_ALIKE = 1.5


Rates = tuple[float, float]
"""Tokens per second an engine as a whole reads (prefill) and writes (decode)."""


def rates_of(engines: Sequence[EngineHandle]) -> list[Rates]:
    """Each engine's rates: declared, else measured, else as the others' mean; when nothing is
    known of any, in proportion to their capacities."""
    known = [engine.decode_rate for engine in engines]
    told = [rate for rate in known if rate]
    mean = sum(told) / len(told) if told else None
    rates = []
    for engine, rate in zip(engines, known, strict=True):
        if rate and mean and engine.speed is None and 1 / _ALIKE < rate / mean < _ALIKE:
            rate = mean
        decode = rate or mean or float(engine.capacity)
        declared = engine.speed.prefill if engine.speed is not None else None
        rates.append((declared or decode / PREFILL_WEIGHT, decode))
    return rates


def queued_seconds(engine: EngineHandle, rates: Rates) -> float:
    """How long the engine's present work will take it, and what a full KV cache adds."""
    prefill, decode = rates
    elsewhere = engine.elsewhere
    reading = engine.prompt_tokens_in_flight + elsewhere.prompt_tokens
    writing = engine.output_tokens_in_flight + elsewhere.output_tokens
    seconds = reading / prefill + writing / decode
    load = engine.load
    if load is not None and load.kv_usage is not None:
        usage = min(load.kv_usage, _FULLEST)
        seconds += KV_BARRIER_S * usage / (1.0 - usage)
    return seconds

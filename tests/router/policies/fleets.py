"""Engines to choose among, made of nothing."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from stoker.router.config import Breaker, EngineConfig, Health
from stoker.router.engines.handle import EngineHandle, EngineModel
from stoker.router.request import Features, Request, read_features


def engine(
    name: str, *, in_flight: int = 0, max_model_len: int | None = None, **config: Any
) -> EngineHandle:
    """An engine that serves `m`, with so many requests of 100 + 100 tokens in flight."""
    settings = {"kind": "native", "url": "http://127.0.0.1:1", "models": ["m"], **config}
    handle = EngineHandle(EngineConfig(name=name, **settings), Breaker(), Health())
    handle.models = {"m": EngineModel("m", max_model_len)}
    for _ in range(in_flight):
        handle.take(100, 100, now=0.0)
    return handle


def fleet(*in_flight: int, **config: Any) -> list[EngineHandle]:
    """Engines e0, e1, … with so many requests in flight each."""
    return [engine(f"e{i}", in_flight=n, **config) for i, n in enumerate(in_flight)]


def chat(*texts: str, headers: dict[str, str] | None = None, **fields: Any) -> Features:
    """What routing sees of a chat request."""
    messages = [{"role": "user", "content": text} for text in texts]
    body = json.dumps({"model": "m", "messages": messages, **fields}).encode()
    own = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    return read_features(Request(b"POST", b"/v1/chat/completions", own, body))


@st.composite
def fleets(draw: st.DrawFn) -> list[EngineHandle]:
    """Fleets of one to eight engines with room, of different sizes and loads."""
    count = draw(st.integers(1, 8))
    made = []
    for number in range(count):
        capacity = draw(st.sampled_from([1, 4, 64, 256]))
        in_flight = draw(st.integers(0, capacity - 1))
        made.append(engine(f"e{number}", in_flight=in_flight, max_in_flight=capacity))
    return made

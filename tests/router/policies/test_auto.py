"""The rules of the automatic choice, each with the request it is about."""

from __future__ import annotations

from typing import Any

import pytest

from stoker.router.engines.handle import EngineHandle
from stoker.router.policies.auto import Auto

from .fleets import chat, engine

WORDS_101 = "word " * 101


def kinds(in_flight: int) -> list[EngineHandle]:
    gpu = engine("gpu", kind="vllm", max_in_flight=100, in_flight=in_flight)
    return [gpu, engine("cpu", kind="llama_cpp")]


@pytest.mark.parametrize(
    ("text", "fields", "urgency", "gpu_in_flight", "expected", "reason"),
    [
        (WORDS_101, {}, "normal", 0, "gpu", "more than 100 words to read, so a GPU"),
        ("hi", {"max_tokens": 1025}, "normal", 0, "gpu", "more than 1024 tokens to write"),
        ("hi", {"max_tokens": 1024}, "normal", 0, "gpu", "there is a GPU"),
        ("hi", {}, "normal", 95, "gpu", "there is a GPU"),
        ("hi", {}, "high", 69, "gpu", "urgent, and a GPU is free"),
        ("hi", {}, "high", 70, "cpu", "urgent, and all GPUs are at 70% or more"),
        (WORDS_101, {}, "high", 70, "cpu", "urgent, and all GPUs are at 70% or more"),
    ],
)
def test_gpu_or_cpu(
    text: str, fields: dict[str, int], urgency: str, gpu_in_flight: int, expected: str, reason: str
) -> None:
    features = chat(text, headers={"x-stoker-urgency": urgency}, **fields)
    decision = Auto().choose(features, kinds(gpu_in_flight))
    assert decision.engine.name == expected
    assert decision.reason.startswith(f"auto: {reason}")


def test_without_a_gpu_a_cpu() -> None:
    cpus = [engine("one", in_flight=2), engine("two", in_flight=1)]
    assert Auto().choose(chat(WORDS_101), cpus).engine.name == "two"


def test_what_is_not_urgent_goes_to_the_cheapest() -> None:
    dear = engine("dear", kind="vllm", price={"per_hour": 4.10}, speed={"decode": 185})
    cheap = engine("cheap", kind="llama_cpp", price={"per_hour": 1.536}, speed={"decode": 100})
    features = chat("hi", headers={"x-stoker-urgency": "low"})
    decision = Auto().choose(features, [dear, cheap])
    assert decision.engine is cheap
    assert decision.reason.startswith("auto: not urgent, so the cheapest")
    # By the hour it is dearer for its tokens once it is slow enough.
    slow = engine("slow", kind="llama_cpp", price={"per_hour": 1.536}, speed={"decode": 20})
    assert Auto().choose(features, [dear, slow]).engine is dear


def test_a_price_that_is_not_known_decides_nothing() -> None:
    gpu = engine("gpu", kind="vllm")
    cpu = engine("cpu", kind="llama_cpp", price={"per_hour": 1.0})
    features = chat("hi", headers={"x-stoker-urgency": "low"})
    assert Auto().choose(features, [gpu, cpu]).engine is gpu


def test_a_long_prompt_goes_where_it_fits() -> None:
    short = engine("short", kind="vllm", max_model_len=2048)
    long = engine("long", kind="llama_cpp", max_model_len=32768)
    decision = Auto().choose(chat("word " * 4000), [short, long])
    assert decision.engine is long
    assert decision.reason.startswith("auto: about 50")


@pytest.mark.parametrize(
    ("fields", "need"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "schema"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "vision",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            None,
        ),
    ],
)
def test_what_a_request_needs(fields: dict[str, Any], need: str | None) -> None:
    plain = engine("plain", kind="vllm", abilities=[])
    able = engine("able", kind="llama_cpp", abilities=["tools", "schema", "vision"])
    decision = Auto().choose(chat("hi", **fields), [plain, able])
    if need is None:
        assert decision.engine is plain  # nobody can: leave it to the engine to say so
    else:
        assert decision.engine is able
        assert decision.reason.startswith(f"auto: needs {need}; cost:")

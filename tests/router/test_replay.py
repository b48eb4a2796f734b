"""Decisions on paper are those the router would make."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stoker.cli.main import app
from stoker.errors import ConfigError, InvalidRequest
from stoker.router.config import Config
from stoker.router.configfile import parse_config
from stoker.router.policies import POLICIES
from stoker.router.replay import Arrival, read_trace, replay

from .policies.fleets import chat

FLEET: dict[str, Any] = {
    "engines": [
        {"name": "gpu", "kind": "vllm", "url": "http://h", "speed": {"decode": 1000}},
        {"name": "cpu", "kind": "llama_cpp", "url": "http://h", "max_in_flight": 4},
    ]
}


def fleet(**settings: Any) -> Config:
    return parse_config(json.dumps(FLEET | settings), environment={})


def test_one_request_by_every_policy() -> None:
    for policy in POLICIES:
        [placement] = replay(fleet(), [Arrival(0.0, chat("hi"))], policy)
        assert placement.engine in ("gpu", "cpu")
        assert placement.reason.startswith(f"{policy}: ")


def test_what_the_engines_have_already_counts() -> None:
    trace = [Arrival(0.0, chat("hi", headers={"x-stoker-urgency": "high"}))]
    [placement] = replay(fleet(), trace, "auto", {"gpu": 200})
    assert placement.engine == "cpu"
    assert placement.reason.startswith("auto: urgent, and all GPUs are at 70% or more")


def test_requests_end_and_make_room() -> None:
    config = fleet(engines=[FLEET["engines"][1] | {"speed": {"decode": 100}}])
    trace = [Arrival(n * 0.001, chat("hi", max_tokens=100)) for n in range(6)]
    placements = list(replay(config, trace, "round_robin"))
    # Four find room; the others wait until the first of them is done, after about a second.
    assert [round(p.at) for p in placements] == [0, 0, 0, 0, 1, 2]


def test_a_conversation_stays_where_it_is_known() -> None:
    text = "You are helpful. " * 60
    trace = [Arrival(n * 60.0, chat(text, *(["more"] * n))) for n in range(5)]
    placements = list(replay(fleet(), trace, "prefix"))
    assert len({placement.engine for placement in placements}) == 1
    assert [placement.known_tokens > 0 for placement in placements] == [False] + [True] * 4


def test_a_model_nobody_serves() -> None:
    engines = [engine | {"models": ["m"]} for engine in FLEET["engines"]]
    with pytest.raises(InvalidRequest, match="no engine serves the model 'other'"):
        list(replay(fleet(engines=engines), [Arrival(0.0, chat("x", model="other"))], "cost"))


def test_an_engine_that_is_started_here_serves_its_model_alone() -> None:
    engines = [{"name": "here", "kind": "native", "model": "some/small"}, FLEET["engines"][0]]
    arrivals = [Arrival(0.0, chat("x", model=model)) for model in ("small", "other")]
    for _ in range(2):
        placed = list(replay(fleet(engines=engines), arrivals, "round_robin"))
        assert placed[1].engine == "gpu"


def test_a_trace_file_with_a_broken_line(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text('{"at": 0, "body": {"model": "m"}}\n\n{"at": 1, "body":\n')
    with pytest.raises(ConfigError, match=r"trace\.jsonl:3: not a request"):
        read_trace(file)


def run(tmp_path: Path, requests: str, *options: str) -> str:
    (tmp_path / "stoker.yaml").write_text(json.dumps(FLEET))
    (tmp_path / "requests").write_text(requests)
    arguments = ["route", "explain", str(tmp_path / "requests")]
    arguments += ["--config", str(tmp_path / "stoker.yaml"), *options]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_command_shows_each_policys_choice(tmp_path: Path) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    lines = run(tmp_path, json.dumps(body, indent=2)).splitlines()
    assert lines[0].split() == ["POLICY", "ENGINE", "REASON"]
    assert [line.split()[0] for line in lines[1:]] == list(POLICIES)
    assert "round_robin: its turn" in lines[2]


def test_the_command_sums_up_a_trace(tmp_path: Path) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * 2000}]}
    trace = "\n".join(json.dumps({"at": n, "body": body}) for n in range(10))
    output = run(tmp_path, trace, "--policy", "round_robin", "--policy", "cost")
    assert "cpu 5, gpu 5" in output
    assert "79% of 5090 prompt tokens" in output
    each = run(tmp_path, trace, "--policy", "round_robin", "--each").splitlines()[1:]
    assert Counter(line.split()[1] for line in each) == {"cpu": 5, "gpu": 5}

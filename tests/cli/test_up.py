"""`stoker up` as people run it: real processes, real signals."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from stoker.cli.up import place, suited_to_this_machine
from stoker.errors import ModelNotFound
from stoker.router.configfile import parse_config

PROGRAM = Path(__file__).parents[1] / "router" / "managed" / "engine_program.py"


class Up:
    """A running `stoker up`."""

    def __init__(self, directory: Path, engines: list[dict[str, Any]]) -> None:
        program = directory / "engine"
        program.write_text(f"#!/bin/sh\nexec {sys.executable} {PROGRAM} $*\n")
        program.chmod(0o755)
        defaults = {"kind": "native", "model": "m", "executable": str(program)}
        self.logs = directory / "logs"
        config: dict[str, Any] = {
            "router": {"port": 0, "drain": 5, "policy": "round_robin"},
            "health": {"interval": 0.2, "timeout": 0.5},
            "supervision": {"logs": str(self.logs), "backoff": 0.05, "hung": 1, "grace": 0.5},
            "engines": [defaults | engine for engine in engines],
        }
        self.config, self.defaults = config, defaults
        self.file = file = directory / "stoker.yaml"
        file.write_text(json.dumps(config))
        with (directory / "stderr").open("wb") as stderr:
            command = [sys.executable, "-m", "stoker", "up", str(file)]
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        assert self.process.stdout is not None
        url = re.search(r"http://\S+:\d+", self.process.stdout.readline())
        assert url, (directory / "stderr").read_text()
        self.client = httpx.Client(base_url=url[0], timeout=15)

    def pid(self) -> int:
        """The process that answers next."""
        response = self.client.post("/v1/completions", json={"model": "m", "prompt": "x"})
        assert response.status_code == 200, response.text
        pid: int = response.json()["pid"]
        return pid

    def all_pids(self) -> set[int]:
        return {self.pid() for _ in range(4)}

    def until_other_pids(self, old: set[int], count: int) -> set[int]:
        """Wait until `count` processes answer of which one is none of the `old`."""
        end = time.monotonic() + 15
        while len(pids := self.all_pids()) < count or pids <= old:
            assert time.monotonic() < end, f"still {pids}"
            time.sleep(0.05)
        return pids

    def reload(self, engines: list[dict[str, Any]]) -> None:
        self.config["engines"] = [self.defaults | engine for engine in engines]
        self.file.write_text(json.dumps(self.config))
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> int:
        assert self.process.stdout is not None
        self.client.close()
        self.process.terminate()
        status = self.process.wait(15)
        self.process.stdout.close()
        return status


@pytest.fixture
def ups() -> Iterator[list[Up]]:
    started: list[Up] = []
    yield started
    for up in started:
        up.stop()


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_engine_loses_no_request_and_comes_back(tmp_path: Path, ups: list[Up]) -> None:
    up = Up(tmp_path, [{"name": "a"}, {"name": "b"}])
    ups.append(up)
    pids = up.until_other_pids(set(), 2)
    os.kill(min(pids), signal.SIGKILL)
    assert min(pids) not in {up.pid() for _ in range(4)}
    after = up.until_other_pids(pids, 2)
    assert max(pids) in after
    assert up.stop() == 0
    assert not any(running(pid) for pid in pids | after)
    assert "killed by SIGKILL" in (tmp_path / "stderr").read_text()
    assert (
        f"engine {min(pids)} serves m\n"
        in (up.logs / "a.log").read_text() + (up.logs / "b.log").read_text()
    )


def test_an_engine_that_hangs_is_restarted(tmp_path: Path, ups: list[Up]) -> None:
    up = Up(tmp_path, [{"name": "a"}])
    ups.append(up)
    [pid] = up.until_other_pids(set(), 1)
    os.kill(pid, signal.SIGSTOP)
    [after] = up.until_other_pids({pid}, 1)
    assert after != pid
    assert not running(pid)


def test_nothing_outlives_a_killed_stoker(tmp_path: Path, ups: list[Up]) -> None:
    up = Up(tmp_path, [{"name": "a", "env": {"STUBBORN": "1", "WITH_CHILD": "1"}}])
    ups.append(up)
    [pid] = up.until_other_pids(set(), 1)
    child = int(re.findall(r"child (\d+)", (up.logs / "a.log").read_text())[0])
    up.process.kill()
    up.process.wait()
    end = time.monotonic() + 10
    while running(pid) or running(child):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_log_has_the_engines_name_before_each_line(tmp_path: Path, ups: list[Up]) -> None:
    up = Up(tmp_path, [{"name": "a"}])
    ups.append(up)
    [pid] = up.until_other_pids(set(), 1)
    up.stop()
    assert f"[a] engine {pid} serves m\n" in (tmp_path / "stderr").read_text()


def test_a_model_that_there_is_not_is_told_before_anything_starts() -> None:
    engine = "{name: a, kind: native, model: smolm2}"
    with pytest.raises(ModelNotFound, match=r"engine a: there is no model 'smolm2' \(did you mean"):
        place(parse_config(f"engines: [{engine}]"))


@pytest.mark.parametrize("command", ["up", "router"])
def test_a_port_that_is_taken_is_told_before_anything_starts(tmp_path: Path, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = tmp_path / "stoker.yaml"
        file.write_text("engines: [{name: a, kind: native, url: 'http://127.0.0.1:9'}]")
        result = subprocess.run(
            [sys.executable, "-m", "stoker", command, str(file), "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"stoker: cannot listen on 127.0.0.1:{port}: Address already in use. Choose another port "
        "with --port (0 takes a free one), or another address with --host\n"
    )


def test_what_is_started_without_a_file_is_valid() -> None:
    [engine] = parse_config(suited_to_this_machine()).engines
    assert list(engine.models) == ["smollm2"]


def test_a_reload_starts_what_is_new_and_stops_what_is_gone(tmp_path: Path, ups: list[Up]) -> None:
    up = Up(tmp_path, [{"name": "stays"}, {"name": "goes"}, {"name": "changes"}])
    ups.append(up)
    before = up.until_other_pids(set(), 3)
    up.reload([{"name": "stays"}, {"name": "changes", "env": {"X": "1"}}, {"name": "comes"}])
    end = time.monotonic() + 15
    while sum(map(running, before)) > 1 or len(up.all_pids()) < 3:
        assert time.monotonic() < end
        time.sleep(0.05)
    after = up.all_pids()
    [stayed] = before & after
    assert running(stayed)
    up.file.write_text("engines: nonsense")
    up.process.send_signal(signal.SIGHUP)
    while "was not reloaded" not in (tmp_path / "stderr").read_text():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert up.all_pids() == after
    assert up.stop() == 0
    assert not any(map(running, before | after))


def test_our_engines_send_traces_where_the_router_does(tmp_path: Path) -> None:
    """Other kinds have flags of their own."""
    llama, model = tmp_path / "llama-server", tmp_path / "m.gguf"
    llama.write_text("#!/bin/sh\n")
    llama.chmod(0o755)
    model.touch()
    engines = [
        {"name": "ours", "kind": "native", "model": str(model), "args": ["--threads", "1"]},
        {"name": "other", "kind": "llama_cpp", "model": str(model), "executable": str(llama)},
    ]
    config = parse_config(
        json.dumps({"engines": engines}),
        overrides={"traces.endpoint": "http://h:4318"},
    )
    assert config.traces.endpoint == "http://h:4318/v1/traces"
    _, (ours, other) = place(config)
    place_of_flag = ours.command.index("--otlp-traces-endpoint")
    assert ours.command[place_of_flag + 1 :] == ["http://h:4318/v1/traces", "--threads", "1"]
    assert "--otlp-traces-endpoint" not in other.command

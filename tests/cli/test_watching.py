"""`stoker ps` and `stoker top`, as a shell sees them."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx
import pytest

from stoker.cli.main import main
from stoker.cli.running import announced
from tests.cli import fleet
from tests.cli.test_serve import checkpoint
from tests.server.conftest import RunningServer, running, server
from tests.telemetry.tracing.collector import collecting

__all__ = ["checkpoint", "server"]  # fixtures

PATIENCE_S = 60.0
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STOKER_HOME", str(tmp_path))
    return tmp_path


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


class Run(Protocol):
    def __call__(self, *arguments: str, url: str | None = None) -> Done: ...


@pytest.fixture
def stoker(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command, in this process: starting Python takes longer than all that it does."""

    def run(*arguments: str, url: str | None = None) -> Done:
        monkeypatch.delenv("STOKER_URL", raising=False)
        if url is not None:
            monkeypatch.setenv("STOKER_URL", url)
        monkeypatch.setattr(sys, "argv", ["stoker", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Done(int(ended.value.code or 0), said.out, said.err)

    return run


def rows(text: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


def test_ps_shows_what_runs_here(stoker: Run, server: RunningServer) -> None:
    with announced("server", server.url, ("letters", "abc")):
        done = stoker("ps")
        told = json.loads(stoker("ps", "--json").stdout)
    assert done.returncode == 0, done.stderr
    head, line = rows(done.stdout)
    assert head == [
        *("MODEL", "ADDRESS", "KIND", "STATE", "PID", "UP"),
        *("RUNNING", "WAITING", "KV USE", "TOKENS/S"),
    ]
    assert line[:5] == ["letters, abc", server.url, "server", "ok", str(os.getpid())]
    assert line[6:] == ["0", "0", "0 %", "0"]
    (one,) = told
    assert one["pid"] == os.getpid()
    assert 0 <= one.pop("uptime") < PATIENCE_S
    assert one == {
        "models": ["letters", "abc"],
        "url": server.url,
        "kind": "server",
        "pid": os.getpid(),
        "state": "ok",
        "running": 0,
        "waiting": 0,
        "kv_usage": 0.0,
        "generation_tokens_per_s": 0.0,
    }


def test_ps_asks_others_by_their_address(stoker: Run, server: RunningServer) -> None:
    told = json.loads(stoker("ps", "--json", "--url", server.url, "--url", NOWHERE).stdout)
    assert [(one["url"], one["models"], one["kind"], one["state"]) for one in told] == [
        (server.url, ["letters"], "server", "ok"),
        (NOWHERE, [], None, "no answer"),
    ]
    assert told[0]["uptime"] >= 0


def test_ps_tells_that_a_model_is_loading_and_that_a_server_does_not_answer(stoker: Run) -> None:
    def broken() -> None:
        raise RuntimeError("no")

    with running(broken) as failed, announced("server", failed.url, ("m",)):  # type: ignore[arg-type]
        (one,) = json.loads(stoker("ps", "--json").stdout)
    assert (one["state"], one["running"]) == ("failed", None)
    with announced("server", NOWHERE, ("m",)):
        (one,) = json.loads(stoker("ps", "--json").stdout)
    assert (one["state"], one["models"], one["pid"]) == ("no answer", ["m"], os.getpid())


def test_real_processes_are_known_while_they_run(
    stoker: Run, checkpoint: Path, tmp_path: Path
) -> None:
    engine = {"name": "one", "kind": "native", "model": str(checkpoint), "models": ["tiny"]}
    with fleet.running(tmp_path, [engine]) as up:
        up.all_healthy()
        told = {one["kind"]: one for one in json.loads(stoker("ps", "--json").stdout)}
        assert set(told) == {"server", "router"}
        assert [one["models"] for one in told.values()] == [["tiny"]] * 2
        assert [one["state"] for one in told.values()] == ["ok"] * 2
        assert told["router"]["url"] == up.url
        assert told["server"]["pid"] == up.pid("one")
        assert told["server"]["url"].endswith(f":{up.ports['one']}")
        end = time.monotonic() + PATIENCE_S
        while True:  # until the router has asked the engine for its figures
            watched = json.loads(stoker("top", "--once", "-i", "0.1").stdout)
            (one,) = watched["engines"]
            if one["kv_usage"] is not None:
                break
            assert time.monotonic() < end, watched
        assert (one["name"], one["kv_usage"]) == ("one", 0.0)
    assert json.loads(stoker("ps", "--json").stdout) == []


def test_without_a_server(stoker: Run) -> None:
    done = stoker("ps")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "No server is running here. Try: stoker serve\n"
    done = stoker("top")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("stoker: no server is running here; name one with --url")


def test_top_once_in_a_pipe_is_json(stoker: Run, server: RunningServer) -> None:
    with announced("server", server.url, ("letters",)):
        done = stoker("top", "--once", "--interval", "0.2")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["seconds"] >= 0.2
    assert (told["models"], told["running"], told["waiting"]) == (["letters"], 0, 0)
    assert (told["kv_usage"], told["generation_tokens_per_s"], told["ttft"]) == (0.0, 0.0, None)


def test_top_of_several_wants_one_named(stoker: Run, server: RunningServer, tmp_path: Path) -> None:
    with announced("server", server.url, ("letters",)):
        (file,) = (tmp_path / "running").iterdir()
        (tmp_path / "running" / "2.json").write_text(file.read_text())
        done = stoker("top", "--once")
        assert done.returncode == 1
        assert f"name one with --url: {server.url}, {server.url}" in done.stderr
        told = json.loads(file.read_text()) | {"kind": "router"}
        (tmp_path / "running" / "2.json").write_text(json.dumps(told))
        assert stoker("top", "--once", "-i", "0.1").returncode == 0  # a router goes before


@pytest.mark.parametrize(
    ("url", "message"),
    [(NOWHERE, "cannot connect"), ("nonsense", "is no server's address")],
)
def test_top_where_nobody_answers(stoker: Run, url: str, message: str) -> None:
    done = stoker("top", "--once", url=url)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_is_no_such_server(stoker: Run) -> None:
    with collecting() as other:
        done = stoker("top", "--once", url=other.url)
        assert (done.returncode, done.stdout) == (1, "")
        assert "the server answered 501" in done.stderr
        (one,) = json.loads(stoker("ps", "--json", "--url", other.url).stdout)
        assert (one["state"], one["kind"]) == ("status 501", None)


def test_a_reader_that_has_had_enough(server: RunningServer) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "stoker", "top", "--url", server.url, "-i", "0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["models"] == ["letters"]
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


class Terminal:
    """A command at a terminal of 100 × 30."""

    def __init__(self, *arguments: str) -> None:
        self._fd, inner = pty.openpty()
        size = {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stoker", *arguments],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env=os.environ | size,
        )
        os.close(inner)
        self.text = ""

    def until(self, true: Callable[[str], bool]) -> str:
        """What it wrote, once this is true of it."""
        end = time.monotonic() + PATIENCE_S
        while not true(self.text):
            assert time.monotonic() < end, self.text
            if select.select([self._fd], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self._fd, 65536).decode("utf-8", "replace")
                except OSError:  # it has ended
                    assert true(self.text), self.text
        return self.text

    def end(self) -> int:
        """What Ctrl+C does; the exit status."""
        self.process.send_signal(signal.SIGINT)
        self.until(lambda text: "\x1b[?1049l" in text)
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)


@pytest.fixture
def at_terminal() -> Iterator[Callable[..., Terminal]]:
    started: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        started.append(Terminal(*arguments))
        return started[-1]

    yield start
    for terminal in started:
        terminal.close()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_top_is_live_and_ends_with_ctrl_c(at_terminal: Callable[..., Terminal]) -> None:
    with running() as served:
        terminal = at_terminal("top", "--url", served.url, "--interval", "0.1")
        first = plain(terminal.until(lambda text: "whole request" in text))
        assert f"letters on {served.url}" in first
        assert "of 8,192 tokens" in first
        asked = {"model": "letters", "prompt": "x", "max_tokens": 50, "ignore_eos": True}
        assert httpx.post(f"{served.url}/v1/completions", json=asked).status_code == 200
        terminal.until(
            lambda text: bool(re.search(r"time to first token +[\d.]+ (ms|µs|s)", plain(text)))
        )
        assert terminal.text.startswith("\x1b[?1049h")
        assert terminal.end() == 0
    assert "Traceback" not in terminal.text


def test_top_says_that_the_server_has_gone(at_terminal: Callable[..., Terminal]) -> None:
    with running() as served:
        terminal = at_terminal("top", "--url", served.url, "--interval", "0.1")
        terminal.until(lambda text: "whole request" in text)
    terminal.until(lambda text: f"{served.url} does not answer" in plain(text))
    assert terminal.end() == 0

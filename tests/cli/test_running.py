"""The files that say which servers run here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.cli import running
from stoker.cli.running import Server, announced, from_here, servers


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STOKER_HOME", str(tmp_path))
    return tmp_path


def files(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "running").iterdir())


def test_a_server_is_known_while_it_runs(home: Path) -> None:
    assert servers() == []
    with announced("router", "http://127.0.0.1:8080", ("a", "b")):
        (found,) = servers()
        assert (found.kind, found.models, found.pid) == ("router", ("a", "b"), os.getpid())
        assert found.url == found.local_url == "http://127.0.0.1:8080"
        assert files(home) == [f"{os.getpid()}.json"]
    assert servers() == []
    assert files(home) == []


def left_over(home: Path, **changes: object) -> Path:
    with announced("server", "http://127.0.0.1:1", ("m",)):
        (server,) = servers()
    path = home / "running" / "1234567.json"
    path.write_text(server.model_copy(update=changes).model_dump_json())
    return path


def test_one_that_was_killed_is_forgotten(home: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    path = left_over(home, pid=gone.pid)
    assert servers() == []
    assert not path.exists()


def test_another_process_that_has_the_number_now_is_not_it(home: Path) -> None:
    process = running._process(os.getpid())
    assert process is not None
    path = left_over(home, process=process + "1")
    assert servers() == []
    assert not path.exists()


def test_a_zombie_runs_no_more(home: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert running._process(child.pid) is None
    child.wait()


def test_what_another_machine_left_in_a_shared_home_is_left_alone(home: Path) -> None:
    path = left_over(home, process="another-boot:5")
    assert servers() == []
    assert path.exists()


def test_a_file_that_is_none_of_ours_is_passed_over(home: Path) -> None:
    (home / "running").mkdir()
    (home / "running" / "1.json").write_text("{")
    (home / "running" / "2.json").write_bytes(b"\xff")
    (home / "running" / "3.json").mkdir()
    assert servers() == []


def test_a_home_that_cannot_be_written_stops_no_server(home: Path) -> None:
    (home / "running").write_text("in the way")
    with announced("server", "http://127.0.0.1:1", ("m",)):
        assert servers() == []


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://0.0.0.0:8000", "http://127.0.0.1:8000"),
        ("http://[::]:8000", "http://127.0.0.1:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://host:8000", "http://host:8000"),
    ],
)
def test_where_it_can_be_asked_from_here(url: str, local: str) -> None:
    server = Server(kind="server", url=url, models=(), pid=1, since=0, process="")
    assert server.local_url == local


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://0.0.0.0:8000", "http://127.0.0.1:8000"),
        ("http://[::]:8000", "http://127.0.0.1:8000"),
        ("http://10.0.0.5:8000", "http://10.0.0.5:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_where_a_server_can_be_asked_from_here(url: str, asked: str) -> None:
    assert from_here(url) == asked

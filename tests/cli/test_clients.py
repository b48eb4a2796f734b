"""The commands that ask a server, as a shell sees them: chat, complete, run-batch, bench."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.cli.chat.session import Session
from stoker.errors import InvalidRequest
from tests.server.conftest import RunningServer, server

__all__ = ["server"]  # a fixture


def stoker(
    *arguments: str, url: str | None = None, typed: str = ""
) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "STOKER_URL"}
    if url is not None:
        environment["STOKER_URL"] = url
    return subprocess.run(
        [sys.executable, "-m", "stoker", *arguments],
        input=typed,
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )


def test_complete_writes_the_answer_and_nothing_else(server: RunningServer) -> None:
    done = stoker(
        *("complete", "one", "--max-tokens", "7", "--temperature", "0"),
        url=server.url,
        typed="two",
    )
    expected = server.client.completions.create(
        model="letters", prompt="one\n\ntwo", max_tokens=7, temperature=0
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, expected.choices[0].text + "\n", "")
    asked = stoker("complete", "-s", "be brief", "--temperature", "0", url=server.url, typed="hi")
    answer = server.client.chat.completions.create(
        model="letters",
        messages=[{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        max_tokens=256,
        temperature=0,
    )
    assert asked.stdout == f"{answer.choices[0].message.content}\n"


def test_errors_are_one_line_and_status_1(server: RunningServer) -> None:
    for arguments, url, part in (
        (["complete"], server.url, "there is no prompt"),
        (["complete", "x"], "http://127.0.0.1:9", "cannot connect"),
        (["complete", "x"], "localhost:8000", "no server's address"),
        (["complete", "x", "-m", "other"], server.url, "'other' is not served"),
    ):
        done = stoker(*arguments, url=url)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("stoker: ")
        assert done.stderr.count("\n") == 1
        assert part in done.stderr


def test_a_conversation_from_a_pipe(server: RunningServer, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    done = stoker(
        *("chat", "--temperature", "0", "--max-tokens", "5"),
        url=server.url,
        typed=f'hello\n"""\nmore\nlines\n"""\n/save {saved}\n/exit\nunheard\n',
    )
    assert (done.returncode, done.stderr) == (0, "")
    messages = json.loads(saved.read_text())["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "user", "assistant"]
    assert messages[2]["content"] == "more\nlines"
    answers = [messages[1]["content"], messages[3]["content"]]
    assert done.stdout.splitlines() == [*answers, f"Saved to {saved}."]


def test_commands_change_the_session(tmp_path: Path) -> None:
    session = Session("m")
    session.ask("a")
    session.answered("b")
    assert session.command("/set temperature 0.5") == ("", False)
    assert session.payload()["temperature"] == 0.5
    assert session.command("/retry") == ("", True)
    assert session.messages == [{"role": "user", "content": "a"}]
    session.answered("")
    assert session.messages == []
    session.ask("q")
    session.answered("r")
    session.command(f"/save {tmp_path / 'x'}")
    session.command("/system be kind")
    assert session.payload()["messages"] == [{"role": "system", "content": "be kind"}]
    session.command(f"/load {tmp_path / 'x'}")
    assert (session.system, len(session.messages)) == (None, 2)
    assert session.command("/undo") == ("Taken back.", False)
    assert session.command("/undo") == ("There is nothing to undo.", False)
    for wrong in ("/no", "/set x 1", "/set seed a", "/unset seed", "/save", "/load /no/such"):
        with pytest.raises(InvalidRequest):
            session.command(wrong)


def batch(path: Path, *ids: str, model: str = "letters") -> Path:
    lines = [
        {
            "custom_id": name,
            "method": "POST",
            "url": "/v1/completions",
            "body": {"model": model, "prompt": name, "max_tokens": 4, "temperature": 0},
        }
        for name in ids
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_batch_goes_on_where_it_stopped(server: RunningServer, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    first = stoker(
        *("run-batch", "-i", str(batch(tmp_path / "a", "x", "y")), "-o", str(output)),
        url=server.url,
    )
    assert (first.returncode, first.stdout, first.stderr) == (0, "", "")
    kept, torn = output.read_text().splitlines(keepends=True)
    output.write_text(kept + torn[:-9])
    again = stoker(
        *("run-batch", "-i", str(batch(tmp_path / "a", "x", "y", "z")), "-o", str(output)),
        url=server.url,
    )
    assert again.returncode == 0
    lines = output.read_text().splitlines(keepends=True)
    assert lines[0] == kept
    answers = [json.loads(line) for line in lines]
    assert sorted(answer["custom_id"] for answer in answers) == ["x", "y", "z"]
    for answer in answers:
        assert answer["error"] is None
        assert answer["response"]["body"]["usage"]["completion_tokens"] == 4


def test_a_wrong_batch_is_not_run_and_failed_lines_are_kept_apart(
    server: RunningServer, tmp_path: Path
) -> None:
    wrong = batch(tmp_path / "a", "x", "x")
    output = tmp_path / "out.jsonl"
    refused = stoker("run-batch", "-i", str(wrong), "-o", str(output), url=server.url)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[0].startswith(f"{wrong}:2: duplicate_custom_id: ")
    assert not output.exists()
    failing = batch(tmp_path / "b", "x", model="other")
    failed = stoker("run-batch", "-i", str(failing), "-o", str(output), url=server.url)
    assert failed.returncode == 1
    assert "1 of 1 lines failed" in failed.stderr
    assert output.read_text() == ""
    (error,) = (tmp_path / "out.jsonl.errors").read_text().splitlines()
    assert json.loads(error)["response"]["status_code"] == 404


def test_a_load_from_the_command_line(server: RunningServer) -> None:
    done = stoker(
        *("bench", "serve", "--base-url", server.url, "--num-prompts", "4", "--seed", "1"),
        *("--random-input-len", "8", "--random-output-len", "6", "--result-filename", "-"),
        *("--goodput", "e2el:60000", "--metadata", "run=7", "--num-warmups", "1"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert (result["completed"], result["total_output_tokens"], result["run"]) == (4, 24, "7")
    assert result["model_id"] == "letters"
    assert result["request_goodput"] == pytest.approx(result["request_throughput"])
    failed = stoker("bench", "serve", "--base-url", server.url, "--model", "x", "--num-prompts=2")
    assert failed.returncode == 1
    assert "2 failed: status 404" in failed.stderr


def test_a_local_model_answers_without_a_server() -> None:
    done = stoker("complete", "x", "--model", "/no/such/model")
    assert (done.returncode, done.stdout) == (1, "")
    assert "/no/such/model" in done.stderr
    assert "Traceback" not in done.stderr

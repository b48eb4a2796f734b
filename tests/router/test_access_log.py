"""The access log: a line for each request, none lost, none that tells too much."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from stoker.errors import ConfigError
from stoker.router.access_log import AccessLog

from .fakes import CHAT, FakeEngine, Fleet, until


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


async def test_a_line_for_each_request_answered_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    async with Fleet(FakeEngine("one"), router={"port": 0, "access_log": str(path)}) as fleet:
        good = await fleet.client.post(
            "/v1/chat/completions", json=CHAT, headers={"x-request-id": "first"}
        )
        bad = await fleet.client.post("/v1/chat/completions", json=CHAT | {"model": "none"})
        assert (good.status_code, bad.status_code) == (200, 404)
        await fleet.client.get("/health")
    answered, refused = lines(path)
    assert answered["id"] == "first"
    assert (answered["key"], answered["model"], answered["engine"]) == ("-", "m", "one")
    assert (answered["status"], answered["reason"]) == (200, good.headers["x-stoker-reason"])
    assert answered["prompt_tokens"] == good.json()["usage"]["prompt_tokens"]
    assert 0 < answered["first_byte_ms"] <= answered["total_ms"]
    assert (refused["status"], refused["engine"]) == (404, None)
    assert refused["reason"] == "refused: model_not_found"
    assert "hi" not in path.read_text(encoding="utf-8")


async def test_what_waits_is_written_before_the_router_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    async with Fleet(FakeEngine("one"), router={"port": 0, "access_log": str(path)}) as fleet:
        for _ in range(20):
            await fleet.client.post("/v1/chat/completions", json=CHAT)
    assert len(lines(path)) == 20


async def test_a_log_that_was_moved_away_goes_on_in_a_new_file(tmp_path: Path) -> None:
    path, moved = tmp_path / "access.log", tmp_path / "access.log.1"
    log = AccessLog(str(path))
    writing = asyncio.ensure_future(log.run())
    note(log, b"one")
    await until(lambda: path.stat().st_size > 0)
    path.rename(moved)
    log.reopen()
    note(log, b"two")
    await until(lambda: path.exists() and path.stat().st_size > 0)
    writing.cancel()
    log.close()
    assert [entry["id"] for file in (moved, path) for entry in lines(file)] == ["one", "two"]


async def test_a_disk_that_takes_nothing_costs_lines_not_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.router.access_log._MAX_WAITING", 3)
    log = AccessLog(str(tmp_path / "access.log"))
    for _ in range(5):
        note(log, b"one")
    assert log.lost == 2
    log.close()
    assert len(lines(tmp_path / "access.log")) == 3


def test_a_file_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"router\.access_log: .*no-such/file"):
        AccessLog(str(tmp_path / "no-such" / "file"))


def note(log: AccessLog, request_id: bytes) -> None:
    log.note(request_id, "key", "m", "e", "its turn", 200, None, 0.001, 0.002)

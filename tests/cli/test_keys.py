"""`stoker keys` and `stoker usage`: what they print, keep and refuse."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from stoker.api.errors import ApiError
from stoker.cli.main import app
from stoker.errors import ConfigError, InvalidRequest
from stoker.router.config import Config
from stoker.router.configfile import parse_config
from stoker.router.ledger import tables
from stoker.router.ledger.book import Tally
from stoker.router.ledger.keys import hash_of
from stoker.router.storage import open_database

ENGINES = {"engines": [{"name": "one", "kind": "native", "url": "http://127.0.0.1:1"}]}


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A storage's URL; the working directory has no stoker.yaml."""
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path}/router.db"


def stoker(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def keys(storage: str, *arguments: str) -> str:
    return stoker("keys", *arguments, "--storage", storage)


def table(text: str) -> list[list[str]]:
    """The rows of a table, in words that two spaces part."""
    return [re.split(r"  +", line.strip()) for line in text.splitlines() if line.strip()]


def record(storage: str, *entries: tuple[str, str, Tally, int]) -> None:
    """Usage as a router writes it: key, engine, what it took, days ago."""

    async def work() -> None:
        database = open_database(storage)
        await tables.prepare(database)
        today = int(time.time() // 86_400)
        rows = {(today - ago, key, "m", engine): tally for key, engine, tally, ago in entries}
        await database.write(lambda tx: tables.write_usage(tx, rows))
        await database.close()

    asyncio.run(work())


def test_a_key_is_shown_once_and_kept_as_its_hash(storage: str, tmp_path: Path) -> None:
    limits = ("--model", "small", "--model", "tiny", "--rpm", "60", "--tpm", "5000")
    secret = keys(storage, "create", "team-a", *limits, "--per-day", "2.5", "--admin").strip()
    assert re.fullmatch(r"sk-stoker-[\w-]{43}", secret)
    header, row = table(keys(storage, "list"))
    assert header == ["name", "models", "limits", "created", "revoked"]
    assert row[:3] == [
        "team-a",
        "small, tiny",
        "60 requests/min, 5,000 tokens/min, 2.5 a day, admin",
    ]
    assert secret.encode() not in (tmp_path / "router.db").read_bytes()


def test_a_key_without_limits(storage: str) -> None:
    keys(storage, "create", "anyone")
    assert table(keys(storage, "list"))[1][:3] == ["anyone", "all", "none"]


def test_a_revoked_key_stays_in_the_list_until_its_name_is_used_again(storage: str) -> None:
    keys(storage, "create", "a")
    [row] = table(keys(storage, "list"))[1:]
    assert len(row) == 4
    keys(storage, "revoke", "a")
    [row] = table(keys(storage, "list"))[1:]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", row[4])
    keys(storage, "create", "a")
    [row] = table(keys(storage, "list"))[1:]
    assert len(row) == 4


def test_what_is_printed_for_the_file_is_a_key_there_and_nowhere_else(
    storage: str, tmp_path: Path
) -> None:
    secret, _, text = keys(
        storage, "create", "team-a", "--model", "m", "--per-month", "9", "--print"
    ).partition("\n")
    config: Config = parse_config(json.dumps(ENGINES | yaml.safe_load(text)), environment={})
    assert config.keys is not None
    [key] = config.keys
    assert (key.name, key.hash) == ("team-a", hash_of(secret))
    assert (key.models, key.budget.per_month) == (frozenset({"m"}), 9)
    assert not (tmp_path / "router.db").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create", "bad name"], "name: .*bad name"),
        (["create", "a", "--per-day", "0"], r"per_day: .*found 0"),
        (["revoke", "nobody"], "no key named 'nobody'.*stoker keys list"),
    ],
)
def test_what_cannot_be_is_refused(storage: str, arguments: list[str], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        keys(storage, *arguments)


def test_two_keys_of_one_name_are_refused(storage: str) -> None:
    keys(storage, "create", "a")
    with pytest.raises(ValueError, match="a key named 'a'"):
        keys(storage, "create", "a")


def test_the_storage_is_that_of_the_file(storage: str, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(json.dumps(ENGINES | {"storage": {"url": storage}}))
    stoker("keys", "create", "a", "--config", "other.yaml")
    assert table(keys(storage, "list"))[1][0] == "a"
    (tmp_path / "other.yaml").rename("stoker.yaml")
    assert table(stoker("keys", "list"))[1][0] == "a"
    with pytest.raises(ConfigError, match="absent"):
        stoker("keys", "list", "--config", "absent.yaml")


def usage(storage: str, *arguments: str) -> str:
    return stoker("usage", "--storage", storage, *arguments)


USED = (
    ("ann", "one", Tally(10, prompt_tokens=600, completion_tokens=400, cost=2.0), 0),
    ("ann", "two", Tally(4, failed=2, prompt_tokens=1000, cost=0.5), 1),
    ("bob", "one", Tally(1, refused=1), 0),
    ("bob", "one", Tally(8, prompt_tokens=8, cost=8.0), 40),
)


def test_usage_by_engine_for_programs(storage: str) -> None:
    record(storage, *USED)
    found = json.loads(usage(storage, "--by", "engine", "--json"))
    assert found["by"] == ["engine"]
    one, two = sorted(found["data"], key=lambda row: str(row["engine"]))
    assert (one["engine"], one["requests"], one["refused"], one["cost"]) == ("one", 11, 1, 2.0)
    assert one["cost_per_1000_requests"] == pytest.approx(200)
    assert one["cost_per_million_tokens"] == pytest.approx(2000)
    assert (two["engine"], two["cost_per_1000_requests"]) == ("two", pytest.approx(250))
    assert (found["total"]["requests"], found["total"]["cost"]) == (15, 2.5)


def test_usage_as_a_table(storage: str) -> None:
    record(storage, *USED)
    title, header, *rows = table(usage(storage, "--by", "key"))
    assert re.fullmatch(r"Usage \d{4}-\d\d-\d\d to \d{4}-\d\d-\d\d \(UTC\)", title[0])
    assert header[:4] == ["key", "requests", "failed", "cancelled"]
    assert header[-3:] == ["cost", "per 1,000 requests", "per million tokens"]
    assert [row[:5] for row in rows] == [
        ["ann", "14", "2", "0", "0"],
        ["bob", "1", "0", "0", "1"],
        ["all", "15", "2", "0", "1"],
    ]
    assert rows[0][-3:] == ["2.5000", "208.3333", "1,250.0000"]


def test_usage_of_one_key_in_some_days(storage: str) -> None:
    record(storage, *USED)
    found = json.loads(usage(storage, "--key", "bob", "--since", "2001-01-01", "--json"))
    assert found["since"] == "2001-01-01"
    assert (found["total"]["requests"], found["total"]["cost"]) == (9, 8.0)
    by_day = json.loads(usage(storage, "--by", "day", "--key", "ann", "--json"))["data"]
    assert [row["requests"] for row in sorted(by_day, key=lambda row: str(row["day"]))] == [4, 10]


def test_no_usage_is_no_error(storage: str) -> None:
    assert json.loads(usage(storage, "--json"))["data"] == []
    assert table(usage(storage))[0][0].startswith("Usage ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by", "colour"], "`by` may hold .*colour"),
        (["--since", "yesterday"], "`since` is a date"),
    ],
)
def test_a_wrong_question_is_refused(storage: str, arguments: list[str], message: str) -> None:
    with pytest.raises(ApiError, match=message):
        usage(storage, *arguments)

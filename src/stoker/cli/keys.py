"""`stoker keys`: who may ask the router."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from stoker.errors import InvalidRequest

if TYPE_CHECKING:
    from stoker.router.config import KeyConfig
    from stoker.router.storage import Database

T = TypeVar("T")

app = typer.Typer(help="API keys: make, list and revoke them.", no_args_is_help=True)

ConfigOption = Annotated[
    Path | None, typer.Option(help="Whose storage; stoker.yaml if it is there, else the default.")
]
StorageOption = Annotated[str | None, typer.Option(help="The storage's URL, instead of a file's.")]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What to call it in usage and errors.")],
    model: Annotated[list[str] | None, typer.Option(help="It may use; all without.")] = None,
    rpm: Annotated[int | None, typer.Option(min=1, help="Requests per minute.")] = None,
    tpm: Annotated[int | None, typer.Option(min=1, help="Tokens per minute.")] = None,
    per_day: Annotated[float | None, typer.Option(help="Money it may spend in a day.")] = None,
    per_month: Annotated[float | None, typer.Option(help="Money it may spend in a month.")] = None,
    admin: Annotated[bool, typer.Option(help="It may see everybody's usage.")] = False,
    show: Annotated[
        bool, typer.Option("--print", help="Store nothing; print the lines for stoker.yaml.")
    ] = False,
    config: ConfigOption = None,
    storage: StorageOption = None,
) -> None:
    """Make a key and print it, this once. Running routers know it within two seconds."""
    from pydantic import ValidationError

    from stoker.router.config import Budget, KeyConfig
    from stoker.router.ledger import tables
    from stoker.router.ledger.keys import hash_of, new_key

    secret = new_key()
    try:
        key = KeyConfig(
            name=name,
            hash=hash_of(secret),
            models=frozenset(model) if model else None,
            requests_per_minute=rpm,
            tokens_per_minute=tpm,
            budget=Budget(per_day=per_day, per_month=per_month),
            admin=admin,
        )
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise InvalidRequest(f"{field}: {problem['msg']} (found {problem['input']!r})") from None
    if show:
        typer.echo(secret)
        typer.echo(_as_yaml(key))
        return
    run(config, storage, lambda database: tables.add_key(database, key, int(time.time())))
    typer.echo(secret)


@app.command("list")
def list_keys(config: ConfigOption = None, storage: StorageOption = None) -> None:
    """The keys in the storage, and what they may do."""
    from rich.console import Console
    from rich.table import Table

    from stoker.router.ledger import tables

    table = Table(box=None)
    for column in ("name", "models", "limits", "created", "revoked"):
        table.add_column(column)
    for one in run(config, storage, tables.all_keys):
        models = ", ".join(sorted(one.key.models)) if one.key.models is not None else "all"
        revoked = _date(one.revoked_at) if one.revoked_at is not None else ""
        table.add_row(one.key.name, models, _limits(one.key), _date(one.created_at), revoked)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="The key's name.")],
    config: ConfigOption = None,
    storage: StorageOption = None,
) -> None:
    """Let a key be known no more. Running routers refuse it within two seconds."""
    from stoker.router.ledger import tables

    def work(database: Database) -> Awaitable[bool]:
        return tables.revoke_key(database, name, int(time.time()))

    if not run(config, storage, work):
        raise InvalidRequest(
            f"no key named {name!r} is in the storage; stoker keys list shows those there are, "
            "and keys in stoker.yaml are removed there"
        )


def run(config: Path | None, storage: str | None, work: Callable[[Database], Awaitable[T]]) -> T:
    """Do something with the ledger's tables in the storage that is meant."""
    from stoker.router.ledger import tables
    from stoker.router.storage import open_database

    url = storage or _storage_url(config)

    async def do() -> T:
        database = open_database(url)
        try:
            await tables.prepare(database)
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(do())


def _storage_url(config: Path | None) -> str:
    from stoker.cli.up import DEFAULT_FILE
    from stoker.router.configfile import load_config
    from stoker.router.storage.url import default_url

    if config is None and not DEFAULT_FILE.exists():
        return default_url()
    return load_config(config or DEFAULT_FILE).storage.url


def _as_yaml(key: KeyConfig) -> str:
    import yaml

    fields = key.model_dump(mode="json", exclude_defaults=True)
    text: str = yaml.safe_dump({"keys": [{"name": key.name, **fields}]}, sort_keys=False)
    return text.rstrip()


def _limits(key: KeyConfig) -> str:
    parts = []
    for value, text in (
        (key.requests_per_minute, "requests/min"),
        (key.tokens_per_minute, "tokens/min"),
        (key.budget.per_day, "a day"),
        (key.budget.per_month, "a month"),
    ):
        if value is not None:
            parts.append(f"{value:,g} {text}")
    return ", ".join([*parts, *(["admin"] if key.admin else [])]) or "none"


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")

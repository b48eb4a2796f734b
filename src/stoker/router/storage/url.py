"""Which database a URL means."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from stoker.errors import StorageError
from stoker.router.storage.base import Database

_SQLITE = "sqlite:///"
_POSTGRES = ("postgresql", "postgres")


def default_url() -> str:
    """A SQLite file among the user's data."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return f"{_SQLITE}{data}/stoker/router.db"


def check_url(url: str) -> str:
    """The URL, if it names a database. Raises `ValueError` otherwise."""
    if url.startswith(_SQLITE) and url != _SQLITE:
        return url
    parts = urlsplit(url)
    if parts.scheme in _POSTGRES and (parts.netloc or parts.query):
        return url
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    raise ValueError(
        f"{shown!r} names no database: write sqlite:///relative/path.db, "
        "sqlite:////absolute/path.db or postgresql://user:password@host:5432/name"
    )


def open_database(url: str) -> Database:
    """The database at `url`, made if it is a SQLite file that is not there yet. It connects when
    it is first used. Raises `StorageError` when the URL or the driver is not usable."""
    try:
        check_url(url)
    except ValueError as error:
        raise StorageError(str(error)) from None
    if url.startswith(_SQLITE):
        from stoker.router.storage.sqlite import SqliteDatabase

        return SqliteDatabase(sqlite_path(url))
    try:
        from stoker.router.storage.postgres import PostgresDatabase
    except ImportError as error:
        raise StorageError(
            f"PostgreSQL needs the psycopg package ({error}): pip install 'stoker[postgres]'"
        ) from error
    return PostgresDatabase(url)


def sqlite_path(url: str) -> Path:
    """The file that a `sqlite:///` URL means."""
    return Path(unquote(url.removeprefix(_SQLITE))).expanduser()

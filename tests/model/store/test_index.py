"""The package index, asked as pip would be."""

import json
from pathlib import Path

import pytest

from stoker.errors import DownloadFailed
from stoker.model.store import index
from stoker.model.store.index import PipSettings, find_wheel, pip_download, read_pip_settings
from stoker.model.store.transfer import Access
from tests.model.store.server import Site

WHEEL = "a_model-1.0-py3-none-any.whl"


def settings(*indexes: str, find_links: tuple[str, ...] = ()) -> PipSettings:
    return PipSettings(indexes, find_links, Access())


def test_html_page(site: Site) -> None:
    page = f'<a href="../../files/{WHEEL}#sha256=00">x</a><a>no</a><a href="other.whl">y</a>'
    site.files["/simple/a-model/"] = page.encode()
    site.types["/simple/a-model/"] = "text/html"
    found = find_wheel("a-model", WHEEL, settings(f"{site.url}/simple"))
    assert found == f"{site.url}/files/{WHEEL}"


def test_json_page(site: Site) -> None:
    files = [{"filename": WHEEL, "url": f"https://files.example/{WHEEL}", "hashes": {}}]
    site.files["/simple/a-model/"] = json.dumps({"files": files}).encode()
    site.types["/simple/a-model/"] = "application/vnd.pypi.simple.v1+json"
    found = find_wheel("a-model", WHEEL, settings(f"{site.url}/simple/"))
    assert found == f"https://files.example/{WHEEL}"
    assert site.headers[0]["Accept"].startswith("application/vnd.pypi.simple.v1+json,")


def test_the_next_index_is_asked_when_one_has_nothing(site: Site) -> None:
    site.files["/b/a-model/"] = f'<a href="{WHEEL}">x</a>'.encode()
    site.files["/c/a-model/"] = b"<a>nothing</a>"
    places = settings(f"{site.url}/a", f"{site.url}/c", f"{site.url}/b")
    assert find_wheel("a-model", WHEEL, places) == f"{site.url}/b/a-model/{WHEEL}"


def test_local_index_and_local_links(tmp_path: Path) -> None:
    (tmp_path / "simple" / "a-model").mkdir(parents=True)
    (tmp_path / "simple" / "a-model" / "index.html").write_text(f'<a href="{WHEEL}">x</a>')
    found = find_wheel("a-model", WHEEL, settings((tmp_path / "simple").as_uri()))
    assert found == (tmp_path / "simple" / "a-model" / WHEEL).as_uri()
    (tmp_path / WHEEL).touch()
    found = find_wheel("a-model", WHEEL, settings(find_links=("/missing", str(tmp_path))))
    assert found == (tmp_path / WHEEL).as_uri()


def test_nowhere(site: Site) -> None:
    site.files["/b/a-model/"] = b"<a>nothing</a>"
    site.types["/c/a-model/"] = "application/vnd.pypi.simple.v1+json"
    site.files["/c/a-model/"] = b"not json"
    places = settings(*(f"{site.url}/{name}" for name in "abc"))
    with pytest.raises(DownloadFailed, match=r"404.*not there.*give the path"):
        find_wheel("a-model", WHEEL, places)
    with pytest.raises(DownloadFailed, match="no index is configured"):
        find_wheel("a-model", WHEEL, settings())


def listing(monkeypatch: pytest.MonkeyPatch, lines: str | None) -> None:
    monkeypatch.setattr(index, "_run_pip", lambda arguments: lines)


def test_pip_settings_in_order_of_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    listing(
        monkeypatch,
        ":env:.index-url='https://env.example/simple'\n"
        "download.index-url='https://download.example/simple'\n"
        "global.cert='/ca.pem'\n"
        "global.extra-index-url='https://a.example/s\\nhttps://b.example/s'\n"
        "global.index-url='https://global.example/simple'\n"
        "global.trusted-host='a.example:8080 b.example'\n"
        "download.proxy='http://proxy.example'\n"
        "install.index-url='https://install.example/simple'\n",
    )
    found = read_pip_settings()
    assert found.indexes == (
        "https://env.example/simple",
        "https://a.example/s",
        "https://b.example/s",
    )
    assert found.access.ca_file == "/ca.pem"
    assert found.access.trusted_hosts == {"a.example", "b.example"}
    assert found.access.proxy == "http://proxy.example"


def test_no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    listing(monkeypatch, "global.no-index='true'\nglobal.find-links='/wheels'\n")
    assert read_pip_settings().indexes == ()
    assert read_pip_settings().find_links == ("/wheels",)


def test_without_pip_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    listing(monkeypatch, None)
    monkeypatch.setenv("PIP_INDEX_URL", "https://env.example/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://more.example/simple")
    assert read_pip_settings().indexes == (
        "https://env.example/simple",
        "https://more.example/simple",
    )


def test_pip_itself_knows_the_default_index(monkeypatch: pytest.MonkeyPatch) -> None:
    listing(monkeypatch, "")
    (default,) = read_pip_settings().indexes
    assert default.startswith("https://")


def test_pip_says_why_it_cannot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DownloadFailed, match=r"pip could not download no-such-model 1\.0: ERROR"):
        pip_download("no-such-model", "1.0", tmp_path)

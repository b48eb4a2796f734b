"""Downloads: resumed, verified, and never half a file under the final name."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stoker.errors import DownloadFailed
from stoker.model.store.progress import Advance, no_progress
from stoker.model.store.transfer import Access, Checksum, check_space, download
from tests.model.store.server import Site, serve

CONTENT = bytes(range(256)) * 4000
SUM = Checksum(hashlib.sha256(CONTENT).hexdigest())


def fetch(site: Site, directory: Path, **changes: object) -> Path:
    site.files.setdefault("/model.bin", CONTENT)
    arguments: dict[str, object] = {
        "size": len(CONTENT),
        "checksum": SUM,
        "access": Access(),
        "progress": no_progress,
        **changes,
    }
    target = directory / "model.bin"
    download(f"{site.url}/model.bin", target, **arguments)  # type: ignore[arg-type]
    return target


def test_whole_file_once(site: Site, tmp_path: Path) -> None:
    target = fetch(site, tmp_path)
    assert target.read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]
    fetch(site, tmp_path)
    assert site.asked("/model.bin") == [None]


def test_a_lost_connection_is_resumed(site: Site, tmp_path: Path) -> None:
    site.cuts = [1000, 500_000]
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.asked("/model.bin") == [None, "bytes=1000-", "bytes=501000-"]


def test_an_earlier_process_is_continued(site: Site, tmp_path: Path) -> None:
    (tmp_path / "model.bin.part").write_bytes(CONTENT[:777])
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.asked("/model.bin") == ["bytes=777-"]


def test_a_part_that_was_complete_is_taken(site: Site, tmp_path: Path) -> None:
    (tmp_path / "model.bin.part").write_bytes(CONTENT)
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.requests == []


def test_a_server_without_ranges_begins_anew(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    site.cuts = [1000]
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.asked("/model.bin") == [None, "bytes=1000-"]


def test_a_damaged_part_is_thrown_away_once(site: Site, tmp_path: Path) -> None:
    (tmp_path / "model.bin.part").write_bytes(b"x" * 777)
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.asked("/model.bin") == ["bytes=777-", None]


def test_a_part_longer_than_the_file_is_thrown_away(site: Site, tmp_path: Path) -> None:
    (tmp_path / "model.bin.part").write_bytes(CONTENT + b"x")
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.asked("/model.bin") == [None]


def test_a_wrong_file_is_refused_and_not_kept(site: Site, tmp_path: Path) -> None:
    site.files["/model.bin"] = CONTENT[:-1] + b"x"
    with pytest.raises(DownloadFailed, match="does not have the checksum"):
        fetch(site, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_longer_file_is_refused_before_it_fills_the_disk(site: Site, tmp_path: Path) -> None:
    site.files["/model.bin"] = CONTENT * 2
    with pytest.raises(DownloadFailed, match=f"more than the {len(CONTENT)} bytes"):
        fetch(site, tmp_path)
    assert not (tmp_path / "model.bin").exists()


def test_a_damaged_file_under_the_final_name_is_replaced(site: Site, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"damaged")
    assert fetch(site, tmp_path).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 429]
    assert fetch(site, tmp_path).read_bytes() == CONTENT


def test_a_missing_file_is_not_asked_for_again(site: Site, tmp_path: Path) -> None:
    site.statuses = [404]
    with pytest.raises(DownloadFailed, match=r"/model\.bin answered 404"):
        fetch(site, tmp_path)
    assert len(site.requests) == 1


def test_a_server_that_brings_nothing_is_given_up(site: Site, tmp_path: Path) -> None:
    site.cuts = [1000] + [0] * 10
    with pytest.raises(DownloadFailed, match="run the same command again"):
        fetch(site, tmp_path)
    assert len(site.requests) == 6
    assert (tmp_path / "model.bin.part").read_bytes() == CONTENT[:1000]


def test_a_server_that_is_not_there(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="refused"):
        download(
            "http://127.0.0.1:9/x",
            tmp_path / "x",
            size=1,
            checksum=SUM,
            access=Access(),
            progress=no_progress,
        )


def test_progress_counts_what_is_there(site: Site, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int, int]] = []

    @contextmanager
    def progress(label: str, total: int, done: int) -> Iterator[Advance]:
        counts: list[int] = []
        yield counts.append
        seen.append((label, total, done, sum(counts)))

    (tmp_path / "model.bin.part").write_bytes(CONTENT[:1000])
    site.cuts = [500]
    fetch(site, tmp_path, progress=progress)
    assert seen == [("model.bin", len(CONTENT), 1000, len(CONTENT) - 1000)]
    (tmp_path / "model.bin").unlink()
    (tmp_path / "model.bin.part").write_bytes(CONTENT[:1000])
    site.ranges = False
    fetch(site, tmp_path, progress=progress)
    assert seen[1] == ("model.bin", len(CONTENT), 1000, len(CONTENT) - 1000)


def test_git_checksums(site: Site, tmp_path: Path) -> None:
    # `printf hello | git hash-object --stdin`
    blob = Checksum("b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0", git_blob=True)
    site.files["/model.bin"] = b"hello"
    assert fetch(site, tmp_path, size=5, checksum=blob).read_bytes() == b"hello"


def test_credentials_in_the_url_and_in_headers(site: Site, tmp_path: Path) -> None:
    url = site.url.replace("http://", "http://user:secret@")
    with serve() as other:
        site.files["/model.bin"] = CONTENT
        site.redirects["/here"] = f"{site.url}/model.bin"
        other.files["/model.bin"] = CONTENT
        site.redirects["/there"] = f"{other.url}/model.bin"
        access = Access(headers={"Authorization": "Bearer t"})
        for path in ("/model.bin", "/here", "/there"):
            access.open(site.url + path).close()
        assert [headers.get("Authorization") for headers in site.headers] == ["Bearer t"] * 4
        assert [headers.get("Authorization") for headers in other.headers] == [None]
    Access().open(f"{url}/model.bin").close()
    assert site.headers[-1]["Authorization"] == "Basic dXNlcjpzZWNyZXQ="
    site.statuses = [404]
    with pytest.raises(DownloadFailed) as caught:
        download(
            f"{url}/model.bin?token=t",
            tmp_path / "x",
            size=1,
            checksum=SUM,
            access=Access(),
            progress=no_progress,
        )
    assert "secret" not in str(caught.value)
    assert "token" not in str(caught.value)


def test_a_full_disk_is_noticed_before(tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="STOKER_HOME"):
        check_space(tmp_path, 1 << 60)

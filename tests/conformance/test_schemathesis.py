"""Schemathesis makes requests out of our own OpenAPI descriptions, thousands of them.

No answer may be a 5xx, and none may differ in status, type or shape from what is described: of a
server, of a server of embeddings alone, and of a router before a server.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.judges import judge
from tests.conformance.serving import routed, serving
from tests.server.test_drain import server
from tests.server.test_embeddings import with_tokenizer

KNOWN = 10
"""Of each kind of thing, made before the requests begin."""
Known = Mapping[str, Sequence[str]]
"""For a parameter of a path or a field of a body: values that stand for something."""


@contextmanager
def letters(directory: Path) -> Iterator[tuple[str, Known]]:
    with server(delay=0, drain=1) as (url, _):
        yield url, {"response_id": stored_responses(url)}


@contextmanager
def behind_a_router(directory: Path) -> Iterator[tuple[str, Known]]:
    with server(delay=0, drain=1) as (engine, _), routed(engine, directory) as (url, _):
        files = []
        for number in range(KNOWN):
            line = {"custom_id": "a", "method": "POST", "url": "/v1/completions"}
            text = json.dumps({**line, "body": {"model": "letters", "prompt": str(number)}})
            form = {"purpose": "batch"}
            answer = httpx.post(f"{url}/v1/files", data=form, files={"file": ("x.jsonl", text)})
            files.append(answer.json()["id"])
        batches = [
            httpx.post(
                f"{url}/v1/batches", json={"input_file_id": file, "endpoint": "/v1/completions"}
            ).json()["id"]
            for file in files
        ]
        yield (
            url,
            {
                "response_id": stored_responses(url),
                "file_id": files,
                "input_file_id": files,
                "batch_id": batches,
                # The router knows the engine's one model; the server of letters takes any name.
                "model": ["letters"],
            },
        )


@contextmanager
def encoder(directory: Path) -> Iterator[tuple[str, Known]]:
    with serving(with_tokenizer(directory)) as url:
        yield url, {"model": ["model"]}


SERVED = {"server": letters, "router": behind_a_router, "encoder": encoder}


def stored_responses(url: str) -> list[str]:
    body = {"model": "letters", "input": "abc", "background": True}
    return [httpx.post(f"{url}/v1/responses", json=body).json()["id"] for _ in range(KNOWN)]


def description(url: str, known: Known) -> dict[str, Any]:
    """A server's OpenAPI document, in which what is `known` is more often asked for."""
    document: dict[str, Any] = httpx.get(f"{url}/openapi.json").json()

    def more_often(name: str, schema: dict[str, Any]) -> dict[str, Any]:
        return {"anyOf": [{"enum": known[name]}, schema]} if name in known else schema

    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    parameter["schema"] = more_often(parameter["name"], parameter["schema"])
            content = operation.get("requestBody", {}).get("content", {})
            for body in content.values():
                name = body["schema"]["$ref"].rpartition("/")[2]
                properties = document["components"]["schemas"][name]["properties"]
                for field in properties.keys() & known.keys():
                    if "enum" not in str(properties[field]):
                        properties[field] = more_often(field, properties[field])
    return document


def judged(url: str, known: Known, directory: Path, examples: int, *flags: str) -> None:
    file = directory / "openapi.json"
    file.write_text(json.dumps(description(url, known)))
    done = subprocess.run(
        [
            *(judge("http", "schemathesis"), "run", str(file), "--url", url),
            *("--max-examples", str(examples), "--checks", "all", "--seed", "1", *flags),
            # Not everything that a JSON schema allows has an answer: a prompt may be too long
            # for the context, a token id beyond the vocabulary.
            *("--exclude-checks", "positive_data_acceptance"),
            # Nothing here measures time.
            *("--suppress-health-check", "all", "--request-timeout", "60"),
        ],
        cwd=directory,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    print(done.stdout[-2000:])


@pytest.mark.conformance
@pytest.mark.parametrize("kind", SERVED)
def test_every_answer_is_as_described(kind: str, tmp_path: Path) -> None:
    with SERVED[kind](tmp_path) as (url, known):
        judged(url, known, tmp_path, 100, "--phases", "coverage,fuzzing")


@pytest.mark.parametrize("kind", ["server", "router"])
def test_a_few_answers_are_as_described(kind: str, tmp_path: Path) -> None:
    with SERVED[kind](tmp_path) as (url, known):
        judged(url, known, tmp_path, 1, "--phases", "fuzzing")

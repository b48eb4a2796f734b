"""Every example runs against a real server and says something."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

from stoker.server.keys import KeyRing
from tests.server.conftest import RunningServer, running, server

__all__ = ["server"]  # a fixture

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(server: RunningServer, *command: str) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, "STOKER_URL": server.url, "STOKER_MODEL": "letters"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_python(server: RunningServer, example: Path) -> None:
    said = run(server, sys.executable, str(example)).strip()
    assert said
    if example.name == "structured_output.py":
        answer = ast.literal_eval(said)
        assert set(answer) == {"city", "large"}
    if example.name == "tools.py":
        name, _, arguments = said.partition(" ")
        assert name == "get_weather"
        assert set(ast.literal_eval(arguments)) == {"city"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl(server: RunningServer) -> None:
    assert run(server, "sh", str(EXAMPLES / "chat.sh")).rstrip().endswith("data: [DONE]")


def test_open_webui() -> None:
    """The requests that Open WebUI makes, with the settings of the example."""
    folder = EXAMPLES / "open-webui"
    service = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["open-webui"]
    lines = (folder / service["env_file"]).read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert service["extra_hosts"] == ["host.docker.internal:host-gateway"]
    assert settings["RAG_EMBEDDING_ENGINE"] == "openai"
    with running(keys=KeyRing([settings["OPENAI_API_KEY"]])) as server:
        here = "http://host.docker.internal:8000"

        def client(name: str) -> httpx.Client:
            key, url = settings[f"{name}_KEY"], settings[f"{name}_BASE_URL"]
            headers = {"Authorization": f"Bearer {key}"}
            return httpx.Client(base_url=url.replace(here, server.url), headers=headers, timeout=60)

        with client("OPENAI_API") as chats, client("RAG_OPENAI_API") as documents:
            # The list of models; a chat; its title; a document's pieces.
            (model,) = [card["id"] for card in chats.get("/models").json()["data"]]
            asked = {
                "stream": True,
                "model": model,
                "messages": [{"role": "user", "content": "Hello"}],
                "stream_options": {"include_usage": True},
                "max_tokens": 5,
            }
            with chats.stream("POST", "/chat/completions", json=asked) as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
            assert events[-1] == "[DONE]"
            assert json.loads(events[-2])["usage"]["completion_tokens"] <= 5
            assert "".join(
                choice["delta"].get("content") or ""
                for event in events[:-1]
                for choice in json.loads(event)["choices"]
            )
            title = {
                "model": model,
                "messages": [{"role": "user", "content": "A title, as JSON, of: Hello"}],
                "stream": False,
                "max_completion_tokens": 20,
            }
            told = chats.post("/chat/completions", json=title).json()
            assert told["choices"][0]["message"]["content"]
            pieces = {"input": ["one piece", "another"], "model": model}
            vectors = documents.post("/embeddings", json=pieces).json()["data"]
            assert [len(one["embedding"]) for one in vectors] == [server.model.hidden_size] * 2
            refused = chats.get("/models", headers={"Authorization": "Bearer other"})
            assert refused.status_code == 401

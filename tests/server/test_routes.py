"""The routes beside the answers: models, tokens, health, load, version, metrics, description."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from stoker import __version__
from tests.server.conftest import RunningServer
from tests.server.doubles import CHATML, VOCABULARY


def test_models_are_listed_under_every_served_name(server: RunningServer) -> None:
    assert [model.id for model in server.client.models.list()] == ["letters"]
    card = server.client.models.retrieve("letters")
    assert card.object == "model"
    assert card.model_extra is not None
    assert card.model_extra["max_model_len"] == 1024
    assert card.model_extra["meta"] == {
        "n_vocab": VOCABULARY,
        "n_ctx": 1024,
        "n_ctx_train": 1024,
        "n_embd": 4,
        "n_layer": 1,
        "size": None,
    }


def test_text_and_messages_become_tokens_and_back(server: RunningServer) -> None:
    text = server.post("/tokenize", json={"prompt": "abc", "return_token_strs": True}).json()
    assert text == {
        "count": 3,
        "max_model_len": 1024,
        "tokens": [97, 98, 99],
        "token_strs": ["a", "b", "c"],
    }
    chat = server.post("/tokenize", json={"messages": [{"role": "user", "content": "hi"}]}).json()
    back = server.post("/detokenize", json={"tokens": chat["tokens"]}).json()
    assert back["prompt"] == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_a_client_without_the_tokenizers_files_learns_what_it_needs(server: RunningServer) -> None:
    assert server.get("/tokenizer_info").json() == {
        "vocab_size": VOCABULARY,
        "model_max_length": 1024,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "chat_template": CHATML,
    }


def test_probes(server: RunningServer) -> None:
    assert server.get("/health").json() == {"status": "ok"}
    assert server.get("/ping").status_code == 200
    assert server.get("/load").json() == {"server_load": 0}
    assert server.get("/version").json() == {"version": __version__}


def test_metrics_count_what_was_answered(server: RunningServer) -> None:
    def totals() -> dict[str, float]:
        text = server.get("/metrics").text
        return {
            sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.endswith(("_total", "_count")) and "finished_reason" not in sample.labels
        }

    before = totals()
    server.client.completions.create(
        model="letters", prompt="abcd", max_tokens=5, extra_body={"ignore_eos": True}
    )
    after = totals()
    grown = {name: after[name] - before[name] for name in after}
    assert grown["vllm:prompt_tokens_total"] == 4
    assert grown["vllm:generation_tokens_total"] == 5
    assert grown["vllm:time_to_first_token_seconds_count"] == 1
    assert grown["vllm:inter_token_latency_seconds_count"] == 4
    assert grown["vllm:e2e_request_latency_seconds_count"] == 1
    assert grown["vllm:iteration_tokens_total_count"] == 5


def test_the_description_declares_every_error_and_resolves(server: RunningServer) -> None:
    document = server.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]
    for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"):
        operation = document["paths"][path]["post"]
        assert set(operation["responses"]) >= {"200", "400", "401", "404", "413", "429", "503"}
        body = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert body.rpartition("/")[2] in schemas
    statuses = {
        status
        for operations in document["paths"].values()
        for operation in operations.values()
        for status in operation["responses"]
    }
    assert "422" not in statuses
    for reference in _references(document):
        assert reference.rpartition("/")[2] in schemas


def _references(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in _references(value)]
    if isinstance(node, list):
        return [found for value in node for found in _references(value)]
    return []

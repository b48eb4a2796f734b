"""`stoker serve` as a process: it answers, it stops, it says why it cannot start."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import openai
import pytest
import zmq
from safetensors.numpy import save_file

from stoker.router.kv.events import Stored, read_batch
from tests.model.text_data import GOLDEN

COMMAND = [sys.executable, "-c", "from stoker.cli.main import main; main()", "serve"]
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
HIDDEN, MIDDLE, VOCABULARY, LAYERS = 64, 96, 512, 2


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 64 × 2 with random weights, a tokenizer and a chat template beside it."""
    directory = Path(shutil.copytree(GOLDEN / "bytelevel", tmp_path_factory.mktemp("m") / "tiny"))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": MIDDLE,
        "max_position_embeddings": 256,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "vocab_size": VOCABULARY,
    }
    (directory / "config.json").write_text(json.dumps(config))
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        shapes |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": (HIDDEN,),
                "post_attention_layernorm": (HIDDEN,),
                "self_attn.q_proj": (HIDDEN, HIDDEN),
                "self_attn.k_proj": (HIDDEN // 2, HIDDEN),
                "self_attn.v_proj": (HIDDEN // 2, HIDDEN),
                "self_attn.o_proj": (HIDDEN, HIDDEN),
                "mlp.gate_proj": (MIDDLE, HIDDEN),
                "mlp.up_proj": (MIDDLE, HIDDEN),
                "mlp.down_proj": (HIDDEN, MIDDLE),
            }.items()
        }
    random = np.random.default_rng(1)
    tensors = {
        name: random.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()
    }
    save_file(tensors, directory / "model.safetensors")
    (directory / "chat.jinja").write_text(TEMPLATE)
    return directory


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A running `stoker serve` and the address it printed."""
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"STOKER_API_KEY": "from-the-environment"},
    )
    try:
        assert process.stderr is not None
        seen = ""
        while not (found := re.search(r"is served on (http://\S+),", seen)):
            line = process.stderr.readline()
            assert line, seen
            seen += line
        yield found[1], process
    finally:
        process.kill()
        process.communicate()


def test_it_answers_a_client_with_a_key_and_stops_when_told(checkpoint: Path) -> None:
    arguments = [
        *(str(checkpoint), "--served-model-name", "tiny", "--served-model-name", "small"),
        *("--chat-template", str(checkpoint / "chat.jinja"), "--max-model-len", "128"),
    ]
    with (
        serving(*arguments) as (
            url,
            process,
        ),
        openai.OpenAI(
            base_url=f"{url}/v1", api_key="from-the-environment", max_retries=0
        ) as client,
    ):
        assert [card.id for card in client.models.list()] == ["tiny", "small"]
        messages: list[openai.types.chat.ChatCompletionMessageParam] = [
            {"role": "user", "content": "Hello there"}
        ]
        whole = client.chat.completions.create(
            model="small", messages=messages, temperature=0, max_tokens=8
        )
        pieces = [
            chunk.choices[0].delta.content or ""
            for chunk in client.chat.completions.create(
                model="tiny", messages=messages, temperature=0, max_tokens=8, stream=True
            )
        ]
        assert "".join(pieces) == whole.choices[0].message.content
        assert whole.model == "small"
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 8
        with pytest.raises(openai.BadRequestError, match="128"):
            client.completions.create(model="tiny", prompt="x", max_tokens=128)
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="other").models.list()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_it_publishes_what_its_cache_holds(checkpoint: Path, tmp_path: Path) -> None:
    past = f"ipc://{tmp_path}/replay"
    config = {
        "enable_kv_cache_events": True,
        "endpoint": f"ipc://{tmp_path}/events",
        "replay_endpoint": past,
    }
    arguments = [str(checkpoint), "--kv-events-config", json.dumps(config)]
    prompt = list(range(100, 140))
    with (
        serving(*arguments) as (url, process),
        openai.OpenAI(base_url=f"{url}/v1", api_key="from-the-environment") as client,
        zmq.Context() as context,
        context.socket(zmq.DEALER) as replay,
    ):
        client.completions.create(model=str(checkpoint), prompt=prompt, max_tokens=1)
        replay.rcvtimeo = 30_000
        replay.connect(past)
        replay.send_multipart((b"", bytes(8)))
        [stored] = read_batch(replay.recv_multipart()[-1])
        assert isinstance(stored, Stored)
        assert (stored.tokens, stored.block_size) == (tuple(prompt[:32]), 16)
        assert (len(stored.hashes), stored.parent) == (2, None)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def refused(*arguments: str) -> str:
    """The last line of a `stoker serve` that does not start; there is no traceback."""
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("stoker: ")
    return last


def test_a_taken_port_is_said_before_the_model_is_looked_at() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert port in refused("/no/such/model", "--port", port)


def test_what_is_wrong_is_named(checkpoint: Path, tmp_path: Path) -> None:
    assert "/no/such/model" in refused("/no/such/model", "--port", "0")
    assert "max_num_seqs" in refused(str(checkpoint), "--port", "0", "--max-num-seqs", "0")
    assert "no.jinja" in refused(str(checkpoint), "--port", "0", "--chat-template", "no.jinja")
    assert "no.keys" in refused(str(checkpoint), "--port", "0", "--api-key-file", "no.keys")
    assert "--isa must be one of portable" in refused(
        str(checkpoint), "--port", "0", "--isa", "mmx"
    )
    for settings in ("{", '{"enable_kv_cache_events": true, "endpoint": "ipc:///no/such/x"}'):
        said = refused("/no/such/model", "--port", "0", "--kv-events-config", settings)
        assert "--kv-events-config" in said
    publish = ("--kv-events-config", '{"enable_kv_cache_events": true, "endpoint": "tcp://*:0"}')
    said = refused(str(checkpoint), "--port", "0", "--no-enable-prefix-caching", *publish)
    assert "--no-enable-prefix-caching" in said
    assert "/no/such/model" in refused("/no/such/model", "--port", "0", *publish)
    assert "an encoder" in refused(
        str(GOLDEN.parent / "encoders" / "bert"), "--port", "0", *publish
    )
    torn = Path(shutil.copytree(checkpoint, tmp_path / "torn"))
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors" in refused(str(torn), "--port", "0")

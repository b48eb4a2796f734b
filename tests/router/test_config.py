"""The configuration file: what is read from it, and how a wrong one is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from stoker.errors import ConfigError
from stoker.router.config import Config
from stoker.router.configfile import load_config, parse_config

EXAMPLE = Path(__file__).parents[2] / "stoker.example.yaml"
ENGINE = "engines:\n  - {name: a, kind: native, url: http://127.0.0.1:8000}\n"


def error(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, environment={})
    return str(caught.value)


def test_the_example_is_valid_and_shows_the_defaults() -> None:
    config = load_config(EXAMPLE, environment={"VLLM_API_KEY": "secret"})
    defaults = parse_config(ENGINE, environment={})
    for section in (
        "router",
        "timeouts",
        "retries",
        "breaker",
        "health",
        "admission",
        "supervision",
    ):
        assert getattr(config, section) == getattr(defaults, section)
    here, llama, gpu = config.engines
    assert (llama.executable, llama.url) == ("llama-server", None)
    assert (here.capacity, here.runs_on_gpu) == (64, False)
    assert gpu.models == {"smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
    assert gpu.api_key == "secret"


def test_the_example_shows_every_field() -> None:
    text = EXAMPLE.read_text()

    def fields(model: type[BaseModel]) -> list[str]:
        names = []
        for name, field in model.model_fields.items():
            names.append(name)
            for inner in re.findall(r"stoker\.router\.config\.(\w+)", str(field.annotation)):
                found = getattr(__import__("stoker.router.config", fromlist=[inner]), inner)
                names += fields(found)
        return names

    assert len(fields(Config)) > 40
    assert [name for name in fields(Config) if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "stoker.yaml:1: the file is empty; it needs at least `engines:`"),
        ("- a", "stoker.yaml:1: expected `field: value` lines, found something else"),
        ("a: [", "stoker.yaml:1: not YAML: expected the node content, but found '<stream end>'"),
        (
            "engines: []",
            "stoker.yaml:1: `engines` needs at least one engine, unless `kubernetes` finds them",
        ),
        (
            "router: {}\n",
            "stoker.yaml:1: `engines` needs at least one engine, unless `kubernetes` finds them",
        ),
        (
            f"{ENGINE}router:\n  port: 80800\n",
            "stoker.yaml:4: router.port: Input should be less than or equal to 65535 (found 80800)",
        ),
        (
            f"{ENGINE}router:\n  prot: 1\n",
            "stoker.yaml:4: router.prot: no such field (did you mean port?); see "
            "stoker.example.yaml for those there are",
        ),
        (
            "engines:\n  - name: a\n    kind: vllm\n    url: http://h\n"
            "    price: {per_hr: 1}\n    zzz: 1\n",
            "stoker.yaml:5: engines.0.price.per_hr: no such field (did you mean per_hour?); see "
            "stoker.example.yaml for those there are\n"
            "stoker.yaml:6: engines.0.zzz: no such field; see stoker.example.yaml for those there "
            "are",
        ),
        (
            f"{ENGINE}traces:\n  endpoint: grpc://h:4317\n",
            "stoker.yaml:4: traces.endpoint: traces cannot be sent to 'grpc://h:4317': expected a "
            "collector's address, like http://127.0.0.1:4318/v1/traces (found 'grpc://h:4317')",
        ),
        (
            "engines:\n  - name: a\n    kind: vlm\n    url: http://h\n",
            "stoker.yaml:3: engines.0.kind: Input should be 'native', 'vllm', 'llama_cpp' or "
            "'openai' (found 'vlm')",
        ),
        (
            "engines:\n  - name: a\n    kind: vllm\n    url: h:80\n",
            "stoker.yaml:4: engines.0.url: 'h:80' is not an address like http://127.0.0.1:8000 "
            "(found 'h:80')",
        ),
        (
            f"{ENGINE}  - {{name: a, kind: vllm, url: 'http://h'}}\n",
            "stoker.yaml:1: two engines are called 'a'; names must differ",
        ),
        (
            "engines:\n  - {name: a, kind: native}\n",
            "stoker.yaml:2: engines.0: an engine has either a `url`, where it runs already, or a "
            "`model`, with which it is started here",
        ),
        (f"{ENGINE}{ENGINE}", "stoker.yaml:3: the field 'engines' is given twice"),
        (
            f"{ENGINE}default_model: ${{NOT_SET}}\n",
            "stoker.yaml:3: the environment variable NOT_SET is not set",
        ),
        (
            f"{ENGINE}aliases: {{a: b, b: c}}\n",
            "stoker.yaml:1: the alias 'a' points at 'b', which is an alias itself; point it at a "
            "model",
        ),
        (f"{ENGINE}aliases: &a\n  x: *a\n", "stoker.yaml:3: a YAML anchor that contains itself"),
        (
            f"{ENGINE}timeouts: {{idle: .inf}}\n",
            "stoker.yaml:3: timeouts.idle: Input should be a finite number (found inf)",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_line_and_reason(text: str, expected: str) -> None:
    assert error(text) == expected


def test_every_mistake_is_told_at_once() -> None:
    text = f"{ENGINE}router:\n  port: x\nretries:\n  attempts: 0\n"
    assert [line.split(": ")[0] for line in error(text).split("\n")] == [
        "stoker.yaml:4",
        "stoker.yaml:6",
    ]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: there is no such file\. stoker\.example"):
        load_config(tmp_path / "none.yaml")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        load_config(tmp_path)


def test_a_list_of_models_keeps_their_names() -> None:
    config = parse_config(ENGINE.replace("}", ", models: [m, n]}"), environment={})
    assert config.engines[0].models == {"m": "m", "n": "n"}


def test_the_command_line_goes_before_the_file() -> None:
    given = {"router.port": 9000, "router.policy": "session"}
    config = parse_config(f"{ENGINE}router: {{port: 1, host: h}}\n", overrides=given)
    assert (config.router.host, config.router.port, config.router.policy) == ("h", 9000, "session")
    with pytest.raises(ConfigError, match=r"^command line: router\.port: Input should be"):
        parse_config(ENGINE, overrides={"router.port": -1})

"""Opening models: the checks made before anything is computed, and hostile checkpoints."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.errors import ModelCorrupt, ModelError, ModelNotFound, UnsupportedModel
from stoker.model.loader import open_model
from stoker.model.spec import ModelSpec
from stoker.model.weights.gguf import GGUFFile
from stoker.model.weights.names import weight_shapes
from stoker.model.weights.safetensors import SINGLE_FILE, open_safetensors

GOLDEN = Path(__file__).parents[1] / "golden"
BOTH = sorted(path.stem for path in GOLDEN.glob("*.gguf"))


def copy(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / name, tmp_path / name))


def change_config(directory: Path, **changes: Any) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def rewrite(directory: Path, rename: Callable[[str], str | None]) -> None:
    """Write the tensors anew under other names; None leaves one out."""
    header: dict[str, Any] = {}
    data = b""
    for name, tensor in open_safetensors(GOLDEN / directory.name).items():
        if (new := rename(name)) is not None:
            offsets = [len(data), len(data) + tensor.nbytes]
            header[new] = {"dtype": tensor.type, "shape": tensor.shape, "data_offsets": offsets}
            data += tensor.data.tobytes()
    text = json.dumps(header).encode()
    (directory / SINGLE_FILE).write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.npz")))
def test_every_weight_has_the_shape_the_spec_implies(name: str) -> None:
    model = open_model(GOLDEN / name)
    shapes = weight_shapes(model.spec)
    assert list(model.weights) == list(shapes)
    assert len(model.weights) == len(shapes)
    for weight, shape in shapes.items():
        tensor = model.weights[weight]
        assert tensor.shape == shape
        assert tensor.data.flags.c_contiguous
        assert tensor.dequantize().shape == shape


@pytest.mark.parametrize("name", BOTH)
def test_both_kinds_of_checkpoint_are_one_model(name: str) -> None:
    directory, file = open_model(GOLDEN / name), open_model(GOLDEN / f"{name}.gguf")
    assert directory.source == GOLDEN / name
    assert isinstance(file.source, GGUFFile)
    assert without_roundings(directory.spec) == without_roundings(file.spec)
    for ours, theirs in zip(directory.spec.ropes, file.spec.ropes, strict=True):
        assert ours.dim == theirs.dim
        np.testing.assert_allclose(ours.inv_freq, theirs.inv_freq, rtol=3e-7)
        assert ours.attention_factor == pytest.approx(theirs.attention_factor, rel=1e-6)
    for weight in directory.weights:
        np.testing.assert_array_equal(
            directory.weights[weight].dequantize(), file.weights[weight].dequantize(), weight
        )


def without_roundings(spec: ModelSpec) -> ModelSpec:
    """GGUF holds its numbers in float32."""
    return dataclasses.replace(
        spec,
        ropes=(),
        norm_eps=float(np.float32(spec.norm_eps)),
        attention_scale=float(np.float32(spec.attention_scale)),
    )


class TestNames:
    """Checkpoints of one model may name their tensors differently."""

    def same_weights(self, directory: Path) -> None:
        expected, found = open_model(GOLDEN / directory.name), open_model(directory)
        assert found.spec == expected.spec
        for name in expected.weights:
            np.testing.assert_array_equal(
                found.weights[name].data, expected.weights[name].data, name
            )

    def test_gpt2_without_the_outer_module(self, tmp_path: Path) -> None:
        directory = copy("gpt2", tmp_path)
        rewrite(directory, lambda name: name.removeprefix("transformer."))
        self.same_weights(directory)

    @pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
    def test_gemma3_within_a_vision_language_model(self, tmp_path: Path, prefix: str) -> None:
        directory = copy("gemma3", tmp_path)
        rewrite(directory, lambda name: prefix + name.removeprefix("model."))
        text_config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(
            json.dumps(
                {
                    "architectures": ["Gemma3ForConditionalGeneration"],
                    "text_config": text_config,
                }
            )
        )
        self.same_weights(directory)

    def test_a_tied_model_may_hold_an_output_projection_too(self, tmp_path: Path) -> None:
        directory = copy("qwen3", tmp_path)
        assert "lm_head.weight" not in open_model(directory).weights


class TestRefused:
    def corrupt(self, path: Path, match: str) -> None:
        with pytest.raises(ModelCorrupt, match=match) as caught:
            open_model(path)
        assert str(path) in str(caught.value)

    def test_no_such_path(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFound, match="absent: no such file or directory"):
            open_model(tmp_path / "absent")

    def test_a_directory_without_config(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFound, match=r"config\.json"):
            open_model(tmp_path)

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x80"])
    def test_a_config_that_is_no_object(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
        self.corrupt(tmp_path, "config.json")

    @pytest.mark.parametrize("architectures", [None, [], "LlamaForCausalLM", [3]])
    def test_no_architecture(self, tmp_path: Path, architectures: object) -> None:
        directory = copy("llama3", tmp_path)
        change_config(directory, architectures=architectures)
        self.corrupt(directory, "'architectures'")

    def test_an_unknown_architecture(self, tmp_path: Path) -> None:
        directory = copy("llama3", tmp_path)
        change_config(directory, architectures=["MambaForCausalLM"])
        with pytest.raises(UnsupportedModel, match=r"'MambaForCausalLM' is not supported.*Llama"):
            open_model(directory)

    def test_another_quantization(self, tmp_path: Path) -> None:
        directory = copy("llama3", tmp_path)
        change_config(directory, quantization_config={"quant_method": "gptq", "bits": 4})
        with pytest.raises(UnsupportedModel, match="quantized with 'gptq' are not read"):
            open_model(directory)

    def test_a_missing_tensor(self, tmp_path: Path) -> None:
        directory = copy("llama3", tmp_path)
        lost = "model.layers.1.mlp.up_proj.weight"
        rewrite(directory, lambda name: None if name == lost else name)
        self.corrupt(directory, r"'model\.layers\.1\.mlp\.up_proj\.weight' is missing; a llama")

    @pytest.mark.parametrize(
        ("name", "changes", "match"),
        [
            (
                "llama3",
                {"intermediate_size": 65},
                r"mlp\.gate_proj\.weight' has shape \[64, 64\]; .* implies \[65, 64\]",
            ),
            ("llama3", {"num_hidden_layers": 3}, r"layers\.2\.input_layernorm\.weight' is missi"),
            ("llama3", {"num_key_value_heads": 3}, "4 query heads cannot share 3 key-value"),
            ("phi3", {"intermediate_size": 65}, r"gate_up_proj.* implies \[130, 64\]"),
            ("gpt2", {"n_head": 3}, "3 heads do not divide a hidden size of 32"),
            ("gpt2", {"n_inner": 127}, r"c_fc\.weight' has shape \[32, 128\].*\[32, 127\]"),
            ("qwen3", {"head_dim": 25}, "a rotation of 26 of 25 elements"),
            ("qwen3", {"head_dim": 1}, "a rotation of 2 of 1 elements"),
            (
                "llama3",
                {"rope_parameters": {"rope_type": "linear", "factor": 1e-38, "rope_theta": 2}},
                "frequencies outside",
            ),
        ],
    )
    def test_a_config_that_contradicts_the_tensors(
        self, tmp_path: Path, name: str, changes: dict[str, Any], match: str
    ) -> None:
        directory = copy(name, tmp_path)
        change_config(directory, **changes)
        self.corrupt(directory, match)

    def test_a_truncated_gguf(self, tmp_path: Path) -> None:
        path = tmp_path / "m.gguf"
        path.write_bytes((GOLDEN / "qwen3.gguf").read_bytes()[:-1])
        self.corrupt(path, "truncated, fetch it again")


def replace_integer(data: bytes, key: str, old: int, new: int) -> bytes:
    """Changes a uint32 metadata value in place."""
    needle = key.encode() + (4).to_bytes(4, "little")
    at = data.index(needle) + len(needle)
    assert data[at : at + 4] == old.to_bytes(4, "little")
    return data[:at] + new.to_bytes(4, "little") + data[at + 4 :]


@pytest.mark.parametrize(
    ("key", "old", "new", "match"),
    [
        ("qwen3.block_count", 2, 3, "tensor 'blk.2.attn_norm.weight' is missing"),
        ("qwen3.block_count", 2, 0, "'qwen3.block_count' should be an integer from 1 to 2048"),
        ("qwen3.attention.head_count", 4, 8, r"'blk\.0\.attn_q\.weight' has shape \[96, 64\]"),
        ("qwen3.attention.head_count_kv", 2, 3, "4 query heads cannot share 3"),
        ("qwen3.embedding_length", 64, 2**31, "'qwen3.embedding_length' should be an integer"),
    ],
)
def test_gguf_metadata_that_contradicts_the_tensors(
    tmp_path: Path, key: str, old: int, new: int, match: str
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(replace_integer((GOLDEN / "qwen3.gguf").read_bytes(), key, old, new))
    with pytest.raises(ModelCorrupt, match=match):
        open_model(path)


def test_an_unknown_gguf_architecture(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    data = (GOLDEN / "qwen3.gguf").read_bytes().replace(b"qwen3", b"rwkv7")
    path.write_bytes(data)
    with pytest.raises(UnsupportedModel, match="'rwkv7' is not supported; supported are: llama"):
        open_model(path)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([0, 1, -1, 10**30, 1e308, "linear", "yarn", "llama3", "longrope"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
CONFIGS = {path.parent.name: json.loads(path.read_text()) for path in GOLDEN.glob("*/config.json")}


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_hostile_configs_raise_nothing_but_model_errors(scratch: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(CONFIGS)))
    config = dict(CONFIGS[name])
    ropes = ["rope_parameters", "rope_scaling"]
    target = data.draw(st.sampled_from([None, *[key for key in ropes if key in config]]))
    section = config if target is None else dict(config[target])
    for key in data.draw(st.lists(st.sampled_from(sorted(section)), max_size=3)):
        section[key] = data.draw(JSON)
    if target is not None:
        config[target] = section
    directory = scratch / name
    if not directory.exists():
        shutil.copytree(GOLDEN / name, directory)
    (directory / "config.json").write_text(json.dumps(config))
    try:
        model = open_model(directory)
    except ModelError:
        return
    for weight in model.weights:
        model.weights[weight].dequantize()


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(BOTH),
    flips=st.lists(st.tuples(st.integers(24, 1400), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_hostile_ggufs_raise_nothing_but_model_errors(
    scratch: Path, name: str, flips: list[tuple[int, int]]
) -> None:
    data = bytearray((GOLDEN / f"{name}.gguf").read_bytes())
    for at, value in flips:
        data[at] = value
    path = scratch / "m.gguf"
    path.write_bytes(data)
    try:
        model = open_model(path)
    except ModelError:
        return
    for weight in model.weights:
        model.weights[weight].dequantize()

"""Safetensors checkpoints: single and sharded, and what is said of damaged ones."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from stoker.errors import ModelCorrupt, ModelError, ModelNotFound, UnsupportedModel
from stoker.model.weights.base import TensorType
from stoker.model.weights.safetensors import SafetensorsFile, open_safetensors

GOLDEN = Path(__file__).parents[2] / "golden"


def raw_file(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    path.write_bytes(struct.pack("<Q", size) + text + data)
    return path


def entry(
    dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)
) -> dict[str, dict[str, Any]]:
    return {"t": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def test_what_the_reference_implementation_writes(tmp_path: Path) -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    half = np.arange(4, dtype=np.float16)
    save_file({"matrix": matrix, "half": half}, tmp_path / "m", metadata={"format": "pt"})
    file = SafetensorsFile(tmp_path / "m")
    assert set(file) == {"matrix", "half"}
    assert file["matrix"].type is TensorType.F32
    assert file["matrix"].shape == (2, 3)
    np.testing.assert_array_equal(file["matrix"].dequantize(), matrix)
    assert file["half"].type is TensorType.F16
    np.testing.assert_array_equal(file["half"].dequantize(), half)
    assert not file["half"].data.flags.writeable


def test_bfloat16(tmp_path: Path) -> None:
    bits = np.array([0x3F80, 0xC000, 0x3FC0], "<u2").tobytes()
    path = raw_file(tmp_path / "m", entry("BF16", (3,), (0, 6)), bits)
    tensor = SafetensorsFile(path)["t"]
    assert tensor.type is TensorType.BF16
    assert tensor.dequantize().tolist() == [1.0, -2.0, 1.5]


def test_other_types_are_refused_only_when_asked_for(tmp_path: Path) -> None:
    save_file({"mask": np.ones(3, np.uint8), "t": np.ones(1, np.float32)}, tmp_path / "m")
    file = SafetensorsFile(tmp_path / "m")
    assert file["t"].dequantize().tolist() == [1]
    with pytest.raises(UnsupportedModel, match=r"tensor 'mask' has type U8.*F32, F16, BF16"):
        file["mask"]


@pytest.mark.parametrize(
    ("header", "data", "match"),
    [
        (b"{not json", b"", "its header is not JSON"),
        (b"[" * 100_000, b"", "its header is not JSON"),
        (b"[]", b"", "its header is not a JSON object"),
        ({"t": 3}, b"", "'t' is not described by"),
        ({"t": {"dtype": "F32", "shape": [1]}}, b"", "'t' is not described by"),
        (entry(offsets=(0, 8, 9)), b"\0" * 8, "'t' is not described by"),
        (entry(shape=(-2,)), b"\0" * 8, "impossible shape"),
        (entry(shape=("2",)), b"\0" * 8, "impossible shape"),
        (entry(), b"\0" * 7, "'t' lies at bytes 0 to 8 of 7; the file is truncated"),
        (entry(offsets=(8, 0)), b"\0" * 8, "'t' lies at bytes 8 to 0"),
        (entry(offsets=(-8, 0)), b"\0" * 8, "'t' lies at bytes -8 to 0"),
        (entry(shape=(3,)), b"\0" * 8, r"'t' of shape \[3\] and F32 takes 8 bytes"),
    ],
)
def test_damage(tmp_path: Path, header: Any, data: bytes, match: str) -> None:
    with pytest.raises(ModelCorrupt, match=match) as caught:
        SafetensorsFile(raw_file(tmp_path / "m", header, data))
    assert str(tmp_path / "m") in str(caught.value)


@pytest.mark.parametrize("length", [100, 2**40, 2**64 - 1])
def test_header_that_cannot_fit(tmp_path: Path, length: int) -> None:
    with pytest.raises(ModelCorrupt, match=f"a header of {length} bytes cannot fit"):
        SafetensorsFile(raw_file(tmp_path / "m", {}, length=length))


def test_shorter_than_its_length(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"1234")
    with pytest.raises(ModelCorrupt, match="shorter than its 8-byte header"):
        SafetensorsFile(tmp_path / "m")


class TestSharded:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        save_file({"a": np.ones(1, np.float32)}, tmp_path / "one.safetensors")
        save_file({"b": np.full(1, 2, np.float32)}, tmp_path / "two.safetensors")
        self.index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
        return tmp_path

    def index(self, directory: Path, weight_map: Any) -> None:
        (directory / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": weight_map})
        )

    def test_reads_across_shards(self, directory: Path) -> None:
        tensors = open_safetensors(directory)
        assert list(tensors) == ["a", "b"]
        assert tensors["b"].dequantize().tolist() == [2]

    def test_a_missing_shard_is_named_at_once(self, directory: Path) -> None:
        (directory / "two.safetensors").unlink()
        with pytest.raises(ModelNotFound, match=r"two\.safetensors: this shard is missing"):
            open_safetensors(directory)

    def test_an_index_that_lies(self, directory: Path) -> None:
        self.index(directory, {"b": "one.safetensors"})
        with pytest.raises(ModelCorrupt, match=r"'b' is not in one\.safetensors"):
            open_safetensors(directory)["b"]

    @pytest.mark.parametrize("shard", ["../secret", "/etc/passwd", "", 3])
    def test_shards_stay_in_the_directory(self, directory: Path, shard: object) -> None:
        self.index(directory, {"a": shard})
        with pytest.raises(ModelCorrupt, match="tensor 'a' is said to be in"):
            open_safetensors(directory)

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', "\xff"])
    def test_a_bad_index(self, directory: Path, text: str) -> None:
        (directory / "model.safetensors.index.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(ModelCorrupt, match=r"model\.safetensors\.index\.json"):
            open_safetensors(directory)


def test_no_safetensors(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelNotFound, match="convert them to safetensors"):
        open_safetensors(tmp_path)


SAMPLE = (GOLDEN / "smollm3" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "model.safetensors"


@settings(max_examples=200, deadline=None)
@given(
    length=st.integers(0, len(SAMPLE)),
    flips=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6),
)
def test_damage_raises_nothing_but_model_errors(
    scratch: Path, length: int, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(SAMPLE)
    for at, value in flips:
        data[at] = value
    scratch.write_bytes(data[:length])
    try:
        file = SafetensorsFile(scratch)
        for name in file:
            file[name].dequantize()
    except ModelError:
        pass

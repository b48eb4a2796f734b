"""The GGUF parser: what it reads, and that a damaged file raises nothing but a ModelError."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFEndian, GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.errors import ModelCorrupt, ModelError, ModelNotFound, UnsupportedModel
from stoker.model.weights.base import TensorType
from stoker.model.weights.gguf import GGUFFile

GOLDEN = Path(__file__).parents[2] / "golden"


def write(path: Path, fill: Callable[[GGUFWriter], None] = lambda _: None) -> Path:
    writer = GGUFWriter(path, "llama")
    fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def raw_file(
    path: Path,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    tensors: int = 0,
    pairs: int = 0,
    rest: bytes = b"",
) -> Path:
    path.write_bytes(magic + struct.pack("<IQQ", version, tensors, pairs) + rest)
    return path


def string(text: str | bytes) -> bytes:
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def tensor_info(
    name: str = "t", shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0
) -> bytes:
    return (
        string(name)
        + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        + struct.pack("<IQ", kind, offset)
    )


def padded(header: bytes, data: bytes) -> bytes:
    """Header bytes (after the 24 of the counts) and data, aligned as the format wants."""
    return header + b"\0" * (-(24 + len(header)) % 32) + data


class TestMetadata:
    def test_scalars(self, tmp_path: Path) -> None:
        def fill(writer: GGUFWriter) -> None:
            writer.add_uint8("u8", 255)
            writer.add_int8("i8", -1)
            writer.add_uint16("u16", 65535)
            writer.add_int16("i16", -2)
            writer.add_uint32("u32", 2**32 - 1)
            writer.add_int32("i32", -3)
            writer.add_uint64("u64", 2**64 - 1)
            writer.add_int64("i64", -4)
            writer.add_float32("f32", 0.5)
            writer.add_float64("f64", 0.1)
            writer.add_bool("yes", True)
            writer.add_bool("no", False)
            writer.add_string("text", "naïve 🚂")

        metadata = GGUFFile(write(tmp_path / "m.gguf", fill)).metadata
        assert dict(metadata) == {
            "general.architecture": "llama",
            "u8": 255,
            "i8": -1,
            "u16": 65535,
            "i16": -2,
            "u32": 2**32 - 1,
            "i32": -3,
            "u64": 2**64 - 1,
            "i64": -4,
            "f32": 0.5,
            "f64": 0.1,
            "yes": True,
            "no": False,
            "text": "naïve 🚂",
        }
        assert metadata["yes"] is True

    def test_arrays(self, tmp_path: Path) -> None:
        def fill(writer: GGUFWriter) -> None:
            writer.add_array("strings", ["a", "", "Ġthe", "é"])
            writer.add_array("ints", [1, -2, 3])
            writer.add_array("floats", [0.5, 1.5])
            writer.add_array("bools", [True, False])
            writer.add_string("after", "still aligned")

        metadata = GGUFFile(write(tmp_path / "m.gguf", fill)).metadata
        assert metadata.strings("strings") == ["a", "", "Ġthe", "é"]
        assert metadata.array("ints").tolist() == [1, -2, 3]
        assert metadata.array("floats").tolist() == [0.5, 1.5]
        assert metadata.array("bools").tolist() == [True, False]
        assert metadata.string("after") == "still aligned"

    def test_empty_array_at_the_very_end(self, tmp_path: Path) -> None:
        for kind in (0, 7, 8):
            rest = string("k") + struct.pack("<IIQ", 9, kind, 0)
            value = GGUFFile(raw_file(tmp_path / f"{kind}", pairs=1, rest=rest)).metadata["k"]
            assert len(value) == 0  # type: ignore[arg-type]

    def test_string_arrays_are_decoded_when_asked_for(self, tmp_path: Path) -> None:
        rest = string("k") + struct.pack("<IIQ", 9, 8, 1) + string(b"\xff")
        file = GGUFFile(raw_file(tmp_path / "m.gguf", pairs=1, rest=rest))
        assert "k" in file.metadata
        with pytest.raises(ModelCorrupt, match=r"m\.gguf: metadata 'k', element 0: 'utf-8'"):
            file.metadata["k"]

    @pytest.mark.parametrize(
        ("getter", "key"),
        [
            ("string", "number"),
            ("integer", "text"),
            ("integer", "flag"),
            ("number", "flag"),
            ("number", "infinite"),
            ("boolean", "number"),
            ("strings", "text"),
            ("strings", "array"),
            ("array", "number"),
        ],
    )
    def test_getters_name_the_key_of_a_wrong_type(
        self, tmp_path: Path, getter: str, key: str
    ) -> None:
        def fill(writer: GGUFWriter) -> None:
            writer.add_uint32("number", 7)
            writer.add_string("text", "t")
            writer.add_bool("flag", True)
            writer.add_float32("infinite", float("inf"))
            writer.add_array("array", [1, 2])

        metadata = GGUFFile(write(tmp_path / "m.gguf", fill)).metadata
        with pytest.raises(ModelCorrupt, match=f"metadata '{key}' should be"):
            getattr(metadata, getter)(key)

    def test_getters_of_a_missing_key(self, tmp_path: Path) -> None:
        metadata = GGUFFile(write(tmp_path / "m.gguf")).metadata
        assert metadata.integer("absent", 3) == 3
        with pytest.raises(ModelCorrupt, match="the metadata has no 'absent'"):
            metadata.integer("absent")


class TestTensors:
    def test_views_of_the_file(self, tmp_path: Path) -> None:
        matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
        vector = np.arange(5, dtype=np.float16)

        def fill(writer: GGUFWriter) -> None:
            writer.add_tensor("matrix", matrix)
            writer.add_tensor("vector", vector)

        tensors = GGUFFile(write(tmp_path / "m.gguf", fill)).tensors
        assert list(tensors) == ["matrix", "vector"]
        assert tensors["matrix"].type is TensorType.F32
        assert tensors["matrix"].shape == (2, 3)
        assert tensors["matrix"].data.shape == (2, 12)
        assert not tensors["matrix"].data.flags.writeable
        np.testing.assert_array_equal(tensors["matrix"].dequantize(), matrix)
        assert tensors["vector"].shape == (5,)
        assert tensors["vector"].data.shape == (1, 10)
        np.testing.assert_array_equal(tensors["vector"].dequantize(), vector)

    def test_alignment_is_read_from_the_file(self, tmp_path: Path) -> None:
        def fill(writer: GGUFWriter) -> None:
            writer.add_custom_alignment(256)
            writer.add_tensor("a", np.ones(1, np.float32))
            writer.add_tensor("b", np.full(1, 2, np.float32))

        tensors = GGUFFile(write(tmp_path / "m.gguf", fill)).tensors
        assert tensors["b"].dequantize().tolist() == [2]

    def test_version_2_reads_the_same(self, tmp_path: Path) -> None:
        path = write(tmp_path / "m.gguf", lambda w: w.add_tensor("a", np.ones(1, np.float32)))
        data = bytearray(path.read_bytes())
        data[4] = 2
        path.write_bytes(data)
        file = GGUFFile(path)
        assert file.version == 2
        assert file.tensors["a"].dequantize().tolist() == [1]


class TestDamage:
    def corrupt(self, path: Path, match: str) -> None:
        with pytest.raises(ModelCorrupt, match=match) as caught:
            GGUFFile(path)
        assert str(path) in str(caught.value)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFound, match=r"absent\.gguf: No such file"):
            GGUFFile(tmp_path / "absent.gguf")

    def test_directory(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFound, match="directory"):
            GGUFFile(tmp_path)

    def test_empty(self, tmp_path: Path) -> None:
        path = tmp_path / "m.gguf"
        path.touch()
        self.corrupt(path, "empty")

    def test_magic(self, tmp_path: Path) -> None:
        self.corrupt(raw_file(tmp_path / "m", magic=b"GGML"), "not a GGUF file")

    @pytest.mark.parametrize("version", [1, 4])
    def test_version(self, tmp_path: Path, version: int) -> None:
        with pytest.raises(UnsupportedModel, match=f"GGUF version {version}; versions 2 and 3"):
            GGUFFile(raw_file(tmp_path / "m", version=version))

    def test_big_endian(self, tmp_path: Path) -> None:
        writer = GGUFWriter(tmp_path / "m.gguf", "llama", endianess=GGUFEndian.BIG)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        with pytest.raises(UnsupportedModel, match="big-endian"):
            GGUFFile(tmp_path / "m.gguf")

    @pytest.mark.parametrize("count", [1, 2**31, 2**64 - 1])
    def test_absurd_counts(self, tmp_path: Path, count: int) -> None:
        self.corrupt(raw_file(tmp_path / "t", tensors=count), f"{count} tensors cannot fit")
        self.corrupt(raw_file(tmp_path / "p", pairs=count), f"{count} metadata entries cannot")
        for kind in (4, 7, 8, 12):
            rest = string("k") + struct.pack("<IIQ", 9, kind, count)
            self.corrupt(raw_file(tmp_path / "a", pairs=1, rest=rest), "cannot fit")

    @pytest.mark.parametrize("length", [100, 2**63, 2**64 - 1])
    def test_string_past_the_end(self, tmp_path: Path, length: int) -> None:
        rest = struct.pack("<Q", length) + b"k" * 20
        self.corrupt(raw_file(tmp_path / "m", pairs=1, rest=rest), "past the end")
        rest = string("key") + struct.pack("<IIQ", 9, 8, 2) + struct.pack("<Q", length) + b"1" * 8
        self.corrupt(raw_file(tmp_path / "m", pairs=1, rest=rest), "truncated")

    @pytest.mark.parametrize(
        ("rest", "match"),
        [
            (string(b"\xff\xfe") + struct.pack("<IB", 0, 1), "not UTF-8"),
            (string("k") + struct.pack("<IQ", 13, 1), "'k' has the unknown value type 13"),
            (string("k") + struct.pack("<IIQ", 9, 9, 0), "unreadable value type 9"),
        ],
    )
    def test_metadata(self, tmp_path: Path, rest: bytes, match: str) -> None:
        self.corrupt(raw_file(tmp_path / "m", pairs=1, rest=rest), match)

    def test_repeated_key(self, tmp_path: Path) -> None:
        pair = string("k") + struct.pack("<IB", 0, 1)
        self.corrupt(raw_file(tmp_path / "m", pairs=2, rest=pair * 2), "'k' occurs twice")

    @pytest.mark.parametrize("alignment", [0, 24])
    def test_alignment(self, tmp_path: Path, alignment: int) -> None:
        rest = string("general.alignment") + struct.pack("<II", 4, alignment)
        self.corrupt(raw_file(tmp_path / "m", pairs=1, rest=rest), "not a power of two")

    @pytest.mark.parametrize(
        ("info", "match"),
        [
            (tensor_info(shape=()), "has 0 dimensions"),
            (tensor_info(shape=(1,) * 5), "has 5 dimensions"),
            (tensor_info(shape=(4, 0)), r"is empty: its shape is \(0, 4\)"),
            (tensor_info(shape=(33,), kind=2), "rows of 33 elements, not a multiple of Q4_0's"),
            (tensor_info(shape=(2**60, 2**60)), "ends at byte .* truncated"),
            (tensor_info(offset=8), "starts at 8, not a multiple of 32"),
            (tensor_info(offset=2**63), "ends at byte"),
            (tensor_info(shape=(5,)), "ends at byte"),
        ],
    )
    def test_tensor_table(self, tmp_path: Path, info: bytes, match: str) -> None:
        rest = padded(info, b"\0" * 16)
        self.corrupt(raw_file(tmp_path / "m", tensors=1, rest=rest), match)

    def test_repeated_tensor(self, tmp_path: Path) -> None:
        rest = padded(tensor_info() * 2, b"\0" * 16)
        self.corrupt(raw_file(tmp_path / "m", tensors=2, rest=rest), "'t' occurs twice")

    @pytest.mark.parametrize(("kind", "name"), [(10, "Q2_K"), (999, "number 999")])
    def test_tensor_type(self, tmp_path: Path, kind: int, name: str) -> None:
        rest = padded(tensor_info(kind=kind), b"\0" * 16)
        with pytest.raises(UnsupportedModel, match=f"'t' has type {name}.*Q4_K, Q5_K, Q6_K"):
            GGUFFile(raw_file(tmp_path / "m", tensors=1, rest=rest))


SAMPLE = (GOLDEN / "smollm3.gguf").read_bytes()[:4096]
"""A real header, with some tensor data."""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "fuzzed.gguf"


def read_all(path: Path) -> None:
    file = GGUFFile(path)
    for key in file.metadata:
        _ = file.metadata[key]
    for tensor in file.tensors.values():
        tensor.dequantize()


@settings(max_examples=150, deadline=None)
@given(length=st.integers(0, len(SAMPLE) - 1))
def test_truncation_raises_a_model_error(scratch: Path, length: int) -> None:
    scratch.write_bytes(SAMPLE[:length])
    with pytest.raises(ModelCorrupt):
        read_all(scratch)


@settings(max_examples=300, deadline=None)
@given(flips=st.lists(st.tuples(st.integers(0, 2600), st.integers(0, 255)), max_size=6))
def test_changed_bytes_raise_nothing_but_model_errors(
    scratch: Path, flips: list[tuple[int, int]]
) -> None:
    data = bytearray((GOLDEN / "smollm3.gguf").read_bytes())
    for at, value in flips:
        data[at] = value
    scratch.write_bytes(data)
    with suppress(ModelError):
        read_all(scratch)


@settings(max_examples=200, deadline=None)
@given(rest=st.binary(max_size=200), tensors=st.integers(0, 5), pairs=st.integers(0, 5))
def test_random_headers_raise_nothing_but_model_errors(
    scratch: Path, rest: bytes, tensors: int, pairs: int
) -> None:
    with suppress(ModelError):
        read_all(raw_file(scratch, tensors=tensors, pairs=pairs, rest=rest))

"""Types of the native module; the docstrings are in its source, `kernels/*bindings.cpp`."""

import numpy as np
from numpy.typing import NDArray

from stoker.model.spec import ModelSpec
from stoker.runner.base import Batch, SampleRows

def available_isas() -> list[str]: ...
def available_cpus() -> int: ...

class PackedMatrix:
    @property
    def format(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    @property
    def panels(self) -> int: ...
    @property
    def has_mins(self) -> bool: ...
    @property
    def nbytes(self) -> int: ...
    def dequantize_rows(self, begin: int, end: int) -> NDArray[np.float32]: ...

def pack(
    data: NDArray[np.uint8],
    type: str,  # noqa: A002
    cols: int,
    format: str | None = None,  # noqa: A002
) -> PackedMatrix: ...
def quantize_activations(
    x: NDArray[np.float32], isa: str
) -> tuple[NDArray[np.int16], NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]: ...
def matmul(
    x: NDArray[np.float32],
    weights: PackedMatrix,
    isa: str,
    rows: tuple[int, int] | None = None,
    panels: tuple[int, int] | None = None,
) -> NDArray[np.float32]: ...
def rms_norm(
    x: NDArray[np.float32], weight: NDArray[np.float32], eps: float, isa: str
) -> NDArray[np.float32]: ...
def layer_norm(
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    eps: float,
    isa: str,
) -> NDArray[np.float32]: ...
def rope(
    x: NDArray[np.float32], cosines: NDArray[np.float32], sines: NDArray[np.float32], isa: str
) -> NDArray[np.float32]: ...
def gate(
    activation: str, gates: NDArray[np.float32], up: NDArray[np.float32], isa: str
) -> NDArray[np.float32]: ...
def activate(activation: str, x: NDArray[np.float32], isa: str) -> NDArray[np.float32]: ...
def softcap(x: NDArray[np.float32], cap: float, isa: str) -> NDArray[np.float32]: ...
def attend(
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    block_table: NDArray[np.int32],
    num_blocks: int,
    scale: float,
    softcap: float,
    window: int,
    chunk: int,
    split: bool,
    kv_dtype: str,
    isa: str,
) -> NDArray[np.float32]: ...
def sample(logits: NDArray[np.float32], samples: SampleRows, isa: str) -> NDArray[np.int32]: ...
def top_logprobs(
    logits: NDArray[np.float32], chosen: NDArray[np.int32], count: int, isa: str
) -> _Logprobs: ...

_Logprobs = tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]

def packed_size(
    type: str,  # noqa: A002
    rows: int,
    cols: int,
    format: str | None = None,  # noqa: A002
) -> tuple[int, str]: ...
def block_bytes(spec: ModelSpec, kv_dtype: str) -> int: ...
def workspace_bytes(
    spec: ModelSpec,
    kv_dtype: str,
    max_num_batched_tokens: int,
    max_num_seqs: int,
    threads: int,
    int8: bool,
    bf16: bool,
) -> int: ...

class BoundBatch:
    def __init__(self, batch: Batch) -> None: ...
    def advance(self, block_tables: NDArray[np.int32] | None) -> None: ...

class Model:
    def __init__(
        self,
        spec: ModelSpec,
        num_blocks: int,
        kv_dtype: str,
        max_num_batched_tokens: int,
        max_num_seqs: int,
        threads: int,
        isa: str,
    ) -> None: ...
    def load_matrix(
        self,
        name: str,
        data: NDArray[np.uint8],
        type: str,  # noqa: A002
        cols: int,
        format: str | None = None,  # noqa: A002
    ) -> None: ...
    def load_vector(self, name: str, values: NDArray[np.float32]) -> None: ...
    def finish_loading(self) -> None: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def workspace_bytes(self) -> int: ...
    def run(
        self, batch: BoundBatch, measure: bool
    ) -> tuple[
        NDArray[np.int32],
        _Logprobs | None,
        _Logprobs | None,
        NDArray[np.float32] | None,
        dict[str, float] | None,
    ]: ...

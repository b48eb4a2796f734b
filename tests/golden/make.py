"""Makes the golden checkpoints: tiny random models and the logits Transformers gives for them.

    python tests/golden/make.py --llama-cpp PATH/TO/llama.cpp

Needs `torch` and `transformers`, which the project itself does not, and a checkout of llama.cpp,
whose own converter writes the GGUF files. For every model:

    NAME/config.json, NAME/*.safetensors   the checkpoint, in the precision named below
    NAME.npz                               input ids, float32 logits `[tokens, vocab]` per prompt
    NAME.gguf                              the same weights by way of llama.cpp's converter

`versions.json` records what made them. The weights are drawn so that logits are spread out and
every part of the architecture matters: norms are not all ones, biases not all zero.
"""

# torch, transformers and llama.cpp are not in the project's environment.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

HERE = Path(__file__).parent
VOCAB = 128
LONG, SHORT = 40, 12
"""Prompt lengths; windows are shorter than LONG, LongRoPE's original context lies between."""

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


@dataclass
class Golden:
    """One golden model."""

    name: str
    config: PreTrainedConfig
    dtype: torch.dtype = torch.bfloat16
    prompts: tuple[int, ...] = (LONG,)
    shard_size: str = "1GB"
    gguf: bool = True
    config_changes: dict[str, Any] = field(default_factory=dict)
    """Written over the saved config.json: None removes a key. For the older ways of saying the
    same thing that many checkpoints still have."""


def models() -> list[Golden]:
    t = transformers
    return [
        Golden(
            "llama3",
            t.LlamaConfig(
                **SIZES,
                rope_parameters={
                    "rope_type": "llama3",
                    "rope_theta": 5000.0,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 32,
                },
            ),
        ),
        Golden(
            "llama_linear",
            t.LlamaConfig(
                **SIZES,
                attention_bias=True,
                tie_word_embeddings=True,
                rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
            ),
            dtype=torch.float16,
            config_changes={
                "rope_parameters": None,
                "rope_theta": 10000.0,
                "rope_scaling": {"type": "linear", "factor": 2.0},
            },
        ),
        Golden(
            "mistral",
            t.MistralConfig(**SIZES, head_dim=24, sliding_window=8),
            shard_size="60KB",
            gguf=False,  # its converter writes no window: as GGUF it is another model
        ),
        Golden(
            "qwen2",
            t.Qwen2Config(
                **SIZES,
                use_sliding_window=True,
                sliding_window=8,
                max_window_layers=1,
                rope_parameters={
                    "rope_type": "yarn",
                    "rope_theta": 1000.0,
                    "factor": 4.0,
                    "original_max_position_embeddings": 16,
                },
            ),
            gguf=False,  # nor does this one
        ),
        Golden(
            "qwen2_yarn",
            t.Qwen2Config(
                **SIZES,
                rope_parameters={
                    "rope_type": "yarn",
                    "rope_theta": 1000.0,
                    "factor": 4.0,
                    "original_max_position_embeddings": 16,
                },
            ),
            config_changes={
                "rope_parameters": None,
                "rope_theta": 1000.0,
                "rope_scaling": {
                    "type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 16,
                },
                "layer_types": None,
            },
        ),
        Golden(
            "qwen3",
            t.Qwen3Config(**SIZES, head_dim=24, tie_word_embeddings=True),
        ),
        Golden(
            "phi3",
            t.Phi3Config(
                **SIZES,
                original_max_position_embeddings=16,
                sliding_window=20,
                rope_parameters={
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "partial_rotary_factor": 0.75,
                    "short_factor": [1.0, 1.02, 1.05, 1.1, 1.2, 1.3],
                    "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0],
                },
            ),
            prompts=(LONG, SHORT),
        ),
        Golden(
            "gemma3",
            t.Gemma3TextConfig(
                **SIZES
                | {
                    "hidden_size": 32,
                    "num_attention_heads": 2,
                    "num_key_value_heads": 1,
                    "num_hidden_layers": 7,
                },
                head_dim=24,
                query_pre_attn_scalar=24,
                sliding_window=8,
                final_logit_softcapping=20.0,
                rope_parameters={
                    "full_attention": {
                        "rope_type": "linear",
                        "rope_theta": 1_000_000.0,
                        "factor": 8.0,
                    },
                    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
                },
            ),
        ),
        Golden(
            "smollm3",
            t.SmolLM3Config(**SIZES | {"num_hidden_layers": 4, "hidden_size": 32}),
        ),
        Golden(
            "gpt2",
            t.GPT2Config(
                vocab_size=VOCAB,
                n_positions=64,
                n_embd=32,
                n_layer=2,
                n_head=2,
                bos_token_id=1,
                eos_token_id=2,
            ),
            dtype=torch.float32,
            config_changes={"n_ctx": 64},
        ),
    ]


def randomize(model: PreTrainedModel, generator: torch.Generator) -> None:
    """Weights under which every part of the model shows in the logits."""

    def normal(shape: torch.Size, std: float) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * std

    gemma = model.config.model_type == "gemma3_text"
    for name, parameter in model.named_parameters():
        if "norm" in name or ".ln_" in name:
            is_weight = name.endswith("weight")
            value = normal(parameter.shape, 0.2) + (1 if is_weight and not gemma else 0)
        elif parameter.dim() == 1:
            value = normal(parameter.shape, 0.2)
        elif "embed" in name or ".wte" in name or ".wpe" in name:
            value = normal(parameter.shape, 0.5)
        else:
            value = normal(parameter.shape, 1.5 / parameter.shape[-1] ** 0.5)
        parameter.data.copy_(value)


def make(golden: Golden, generator: torch.Generator) -> None:
    directory = HERE / golden.name
    shutil.rmtree(directory, ignore_errors=True)
    model = AutoModelForCausalLM.from_config(golden.config)
    randomize(model, generator)
    model.to(golden.dtype).save_pretrained(directory, max_shard_size=golden.shard_size)
    (directory / "generation_config.json").unlink(missing_ok=True)
    # Loaded anew: `to` has rounded the rotary frequencies too.
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()

    arrays: dict[str, Any] = {}
    for length in golden.prompts:
        ids = torch.randint(VOCAB, (1, length), generator=generator)
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits[0]
        arrays[f"ids_{length}"] = ids[0].numpy().astype(np.int32)
        arrays[f"logits_{length}"] = logits.numpy().astype(np.float32)
    np.savez(HERE / f"{golden.name}.npz", **arrays)

    config_file = directory / "config.json"
    config = json.loads(config_file.read_text()) | golden.config_changes
    kept = {key: value for key, value in config.items() if value is not None}
    config_file.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")


def convert(golden: Golden) -> None:
    """Write NAME.gguf with llama.cpp's converter, which is told of no tokenizer."""
    from conversion import get_model_class
    from gguf import LlamaFileType

    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / golden.name
        shutil.copytree(HERE / golden.name, copy)
        tokenizer = {"model": {"vocab": {f"t{i}": i for i in range(VOCAB)}}, "added_tokens": []}
        (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
        converter = get_model_class(golden.config.architectures[0])
        converter.set_vocab = lambda self: None
        file_type = {
            torch.float32: LlamaFileType.ALL_F32,
            torch.float16: LlamaFileType.MOSTLY_F16,
            torch.bfloat16: LlamaFileType.MOSTLY_BF16,
        }[golden.dtype]
        converter(copy, file_type, HERE / f"{golden.name}.gguf").write()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama-cpp", type=Path, required=True, help="a checkout of llama.cpp")
    arguments = parser.parse_args()
    sys.path[:0] = [str(arguments.llama_cpp / "gguf-py"), str(arguments.llama_cpp)]
    generator = torch.Generator().manual_seed(0)
    for golden in models():
        make(golden, generator)
        if golden.gguf:
            convert(golden)
        print(golden.name)
    gguf_project = (arguments.llama_cpp / "gguf-py" / "pyproject.toml").read_text()
    versions = {
        "gguf, of llama.cpp": tomllib.loads(gguf_project)["project"]["version"],
        "numpy": np.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    (HERE / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""What rounding to bfloat16 does to the scores:
`python -m tests.conformance.lm_eval.rounding MODEL_DIRECTORY`.

Needs torch and transformers. Computes the items in float32 with more and more rounded, in the
places where the cpu runner rounds, and last as Transformers does in bfloat16; prints how far each
is from `scores.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers.models.llama.modeling_llama as llama
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conformance.lm_eval.score import score_items

FOLDER = Path(__file__).parent


def rounded(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.bfloat16).float()


def main() -> None:
    directory = sys.argv[1]
    tokenizer = AutoTokenizer.from_pretrained(directory)
    expected = torch.tensor(json.loads((FOLDER / "scores.json").read_text()))

    def show(what: str, model: Any) -> None:
        apart = (torch.tensor(score_items(model, tokenizer)) - expected).abs()
        item, choice = divmod(int(apart.argmax()), apart.shape[1])
        print(
            f"{what:28} mean {apart.mean():.3f}, most {apart.max():.3f} "
            f"(item {item}, choice {choice})"
        )

    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.bfloat16, attn_implementation="eager"
    ).float()
    show("weights", model)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, args: (rounded(args[0]), *args[1:]))
    show("and inputs of products", model)
    rotate = llama.apply_rotary_pos_emb

    def with_keys(*args: Any, **fields: Any) -> tuple[torch.Tensor, torch.Tensor]:
        query, key = rotate(*args, **fields)
        return query, rounded(key)

    def with_queries(*args: Any, **fields: Any) -> tuple[torch.Tensor, torch.Tensor]:
        query, key = rotate(*args, **fields)
        return rounded(query), rounded(key)

    for name, module in model.named_modules():
        if name.endswith("v_proj"):
            module.register_forward_hook(lambda _, __, out: rounded(out))
    llama.apply_rotary_pos_emb = with_keys
    show("and keys and values", model)
    llama.apply_rotary_pos_emb = with_queries
    show("and queries", model)
    llama.apply_rotary_pos_emb = rotate
    show(
        "Transformers in bfloat16",
        AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16),
    )


if __name__ == "__main__":
    main()

"""What Transformers says of the items: `python score.py MODEL_DIRECTORY > scores.json`.

Needs torch and transformers. For each item and choice the log-likelihood of the choice after the
context, in float32.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ITEMS = Path(__file__).with_name("items.jsonl")


def score_items(model: Any, tokenizer: Any) -> list[list[float]]:
    """For each item the log-likelihood of each choice."""
    found: list[list[float]] = []
    for item in map(json.loads, ITEMS.read_text().splitlines()):
        begin = len(tokenizer(item["context"]).input_ids)
        scores: list[float] = []
        for choice in item["choices"]:
            ids = torch.tensor([tokenizer(f"{item['context']} {choice}").input_ids])
            with torch.no_grad():
                logprobs = model(ids).logits[0, :-1].float().log_softmax(-1)
            each = logprobs.gather(1, ids[0, 1:, None])[begin - 1 :]
            scores.append(round(each.sum().item(), 4))
        found.append(scores)
    return found


def main() -> None:
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
    lines = map(json.dumps, score_items(model, tokenizer))
    print("[\n" + ",\n".join(lines) + "\n]")


if __name__ == "__main__":
    main()

"""Reference answers from Hugging Face Transformers in float32, for `quality.py`.

Reads `{"prompts": [[id…]…], "tokens": n, "windows": [[id…]…]}` from standard input. Writes the
greedy continuation of every prompt with, for each of its tokens, the margin between the best and
the second-best logit and the size of the best; and the summed negative log-likelihood of every
window (all tokens but its first).
"""

from __future__ import annotations

import json
import sys

import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    request = json.load(sys.stdin)
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
    greedy, margins, best = [], [], []
    with torch.no_grad():
        for prompt in request["prompts"]:
            past, ids, answer, gaps, tops = None, torch.tensor([prompt]), [], [], []
            for _ in range(request["tokens"]):
                out = model(ids, past_key_values=past, use_cache=True)
                past = out.past_key_values
                values, indices = out.logits[0, -1].topk(2)
                answer.append(int(indices[0]))
                gaps.append(float(values[0] - values[1]))
                tops.append(float(values[0]))
                ids = indices[:1].view(1, 1)
            greedy.append(answer)
            margins.append(gaps)
            best.append(tops)
        nll = []
        for window in request["windows"]:
            logits = model(torch.tensor([window])).logits[0, :-1]
            targets = torch.tensor(window[1:])
            nll.append(float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum")))
    json.dump({"greedy": greedy, "margins": margins, "best": best, "nll": nll}, sys.stdout)


if __name__ == "__main__":
    main()

"""One engine behind a pipe: loads a model, then measures what it is asked, a line at a time.

Run by `peers_cpu.py` with the interpreter of the engine's own environment. Stoker and vLLM have
the same `LLM` class, so the same code drives both. Requests and replies are JSON lines; anything
else the engine prints goes to standard error.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import resource
import sys
import time
from typing import Any

STARTED = time.time()


def load(arguments: argparse.Namespace) -> tuple[Any, Any]:
    if arguments.engine == "stoker":
        engine: Any = importlib.import_module("stoker")

        options: dict[str, Any] = {}
        if arguments.weight_format:
            options["weight_format"] = arguments.weight_format
        if arguments.isa:
            options["isa"] = arguments.isa
    else:
        # Both cores for the model, and no second process that would spin beside it.
        os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        engine = importlib.import_module("vllm")

        options = {"dtype": "bfloat16"}
    llm = engine.LLM(
        model=arguments.model,
        max_model_len=arguments.max_model_len,
        max_num_seqs=arguments.max_num_seqs,
        max_num_batched_tokens=arguments.max_num_batched_tokens,
        enable_prefix_caching=False,
        **options,
    )
    return llm, engine.SamplingParams


def generate(llm: Any, params: Any, batch: int, prompt: int, tokens: int, seed: int) -> float:
    """Seconds for `batch` random prompts of `prompt` tokens, each answered with `tokens`."""
    rng = random.Random(seed)
    prompts = [
        {"prompt_token_ids": [rng.randrange(100, 40_000) for _ in range(prompt)]}
        for _ in range(batch)
    ]
    sampling = params(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
    start = time.perf_counter()
    outputs = llm.generate(prompts, sampling, use_tqdm=False)
    elapsed = time.perf_counter() - start
    for output in outputs:
        produced = len(output.outputs[0].token_ids)
        if produced != tokens:
            raise RuntimeError(f"asked for {tokens} tokens, got {produced}")
    return elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["stoker", "vllm"], required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--weight-format")
    parser.add_argument("--isa")
    parser.add_argument("--max-model-len", type=int, default=8192)
    parser.add_argument("--max-num-seqs", type=int, default=64)
    parser.add_argument("--max-num-batched-tokens", type=int, default=2048)
    arguments = parser.parse_args()

    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever the engine prints must not mix with the replies

    llm, params = load(arguments)
    generate(llm, params, 1, 5, 1, seed=0)
    first_token = time.time() - float(os.environ.get("WORKER_SPAWNED", STARTED))
    generate(llm, params, 2, 200, 8, seed=0)
    print(json.dumps({"ready": True, "first_token_s": first_token}), file=replies)
    for line in sys.stdin:
        request = json.loads(line)
        seconds = generate(llm, params, **request)
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({"seconds": seconds, "peak_rss_mib": peak_kib / 1024}), file=replies)


if __name__ == "__main__":
    main()

"""How closely Stoker's answers follow Hugging Face Transformers' in float32.

    python benchmarks/quality.py --transformers-python ENV/bin/python \
        --reference HF_DIR --model bf16=HF_DIR --model Q4_1=model.gguf --model q8=HF_DIR:q8 \
        --text us-constitution.txt

`--reference` is the model as Transformers loads it in float32; each `--model NAME=PATH[:FORMAT]`
is the same model for Stoker, in the file's own form or packed to FORMAT.

Greedy: Transformers' own continuation of each prompt is fed to Stoker token by token (as a
prompt with log-probabilities), so that every position is compared, not only those before the
first difference. A position differs when Stoker's best token is not Transformers' best; the table
shows by how much Transformers preferred its own, beside the rounding step of bf16 at that size.
Free-running answers are compared too.

Perplexity: of public-domain text (the constitution of the United States from Debian's package
`miscfiles` does well), in windows of 512 tokens, relative to Transformers'.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from stoker import LLM, SamplingParams
from stoker.engine.prompts import TokensPrompt

PROMPTS = [
    "What is the capital of France?",
    "Name three primary colours.",
    "How many days are there in a week?",
    "Write a short poem about the sea.",
    "What is 12 times 8?",
    "Explain what a compiler does.",
    "Who wrote Romeo and Juliet?",
    "Give me a recipe for pancakes.",
    "What is the boiling point of water?",
    "Write a Python function that reverses a string.",
    "Why is the sky blue?",
    "Translate 'good morning' into Spanish.",
    "What is photosynthesis?",
    "List five animals that live in Africa.",
    "How do I make a good cup of tea?",
    "What does HTTP stand for?",
    "Tell me a fact about the Moon.",
    "What is the largest ocean?",
    "Describe a rainy day in one sentence.",
    "What are the benefits of exercise?",
    "What is the difference between a list and a tuple?",
    "Who was Isaac Newton?",
    "Suggest a name for a black cat.",
    "What is machine learning?",
]
WINDOW = 512


def reference(arguments: argparse.Namespace, request: dict[str, Any]) -> dict[str, Any]:
    """Transformers' answers, from its own environment."""
    worker = Path(__file__).resolve().parent / "workers" / "transformers_worker.py"
    done = subprocess.run(
        [arguments.transformers_python, str(worker), arguments.reference],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the Transformers worker failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout))


def bf16_step(value: float) -> float:
    """The distance between neighbouring bf16 numbers at `value`."""
    return float(2.0 ** (math.floor(math.log2(abs(value))) - 7))


def compare(llm: LLM, request: dict[str, Any], truth: dict[str, Any]) -> dict[str, Any]:
    """One model's figures against `truth`."""
    prompts, tokens = request["prompts"], request["tokens"]
    forced = llm.generate(
        [
            TokensPrompt(prompt_token_ids=prompt + answer)
            for prompt, answer in zip(prompts, truth["greedy"], strict=True)
        ],
        SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1, detokenize=False),
        use_tqdm=False,
    )
    differences = []
    for row, (prompt, output) in enumerate(zip(prompts, forced, strict=True)):
        assert output.prompt_logprobs is not None
        for step, expected in enumerate(truth["greedy"][row]):
            position = output.prompt_logprobs[len(prompt) + step]
            assert position is not None
            if position[expected].rank != 1:
                differences.append((truth["margins"][row][step], truth["best"][row][step]))
    free = llm.generate(
        [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts],
        SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False),
        use_tqdm=False,
    )
    identical = sum(
        list(output.outputs[0].token_ids) == answer
        for output, answer in zip(free, truth["greedy"], strict=True)
    )
    windows = llm.generate(
        [TokensPrompt(prompt_token_ids=window) for window in request["windows"]],
        SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False),
        use_tqdm=False,
    )
    nll = 0.0
    for window, output in zip(request["windows"], windows, strict=True):
        assert output.prompt_logprobs is not None
        for token, position in zip(window[1:], output.prompt_logprobs[1:], strict=True):
            assert position is not None
            nll -= position[token].logprob
    counted = sum(len(window) - 1 for window in request["windows"])
    return {
        "positions": len(prompts) * tokens,
        "differences": len(differences),
        "largest_margin": max((margin for margin, _ in differences), default=0.0),
        "largest_margin_in_bf16_steps": max(
            (margin / bf16_step(best) for margin, best in differences), default=0.0
        ),
        "identical_answers": identical,
        "perplexity": math.exp(nll / counted),
        "reference_perplexity": math.exp(sum(truth["nll"]) / counted),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--transformers-python", required=True)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--model", action="append", required=True, metavar="NAME=PATH[:FORMAT]")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--windows", type=int, default=12, help=f"of {WINDOW} tokens")
    parser.add_argument(
        "--kv-cache-dtype", action="append", help="repeatable: every model with each of them"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    request: dict[str, Any] = {}
    truth: dict[str, Any] = {}
    results: dict[str, dict[str, Any]] = {}
    for entry, dtype in itertools.product(arguments.model, arguments.kv_cache_dtype or ["auto"]):
        name, _, rest = entry.partition("=")
        if arguments.kv_cache_dtype:
            name += f", {dtype} cache"
        path, _, weight_format = rest.partition(":")
        options = {"weight_format": weight_format} if weight_format else {}
        llm = LLM(
            model=path,
            max_model_len=2048,
            kv_cache_dtype=dtype,
            **options,
        )
        if not request:
            tokenizer = llm.get_tokenizer()
            ids = tokenizer.encode(arguments.text.read_text(), add_special_tokens=False)
            request = {
                "prompts": [
                    list(output.prompt_token_ids)
                    for output in llm.chat(
                        [[{"role": "user", "content": prompt}] for prompt in PROMPTS],
                        SamplingParams(max_tokens=1),
                        use_tqdm=False,
                    )
                ],
                "tokens": arguments.tokens,
                "windows": [
                    ids[start : start + WINDOW]
                    for start in range(0, min(len(ids), arguments.windows * WINDOW), WINDOW)
                ],
            }
            truth = reference(arguments, request)
        results[name] = compare(llm, request, truth)
        llm.close()

    table = Table(
        title=f"against Transformers in float32: {len(PROMPTS)} prompts × {arguments.tokens} "
        f"tokens; perplexity of {sum(len(w) - 1 for w in request['windows'])} tokens",
        title_justify="left",
    )
    for heading in (
        "model",
        "positions that differ",
        "largest margin there",
        "in bf16 steps",
        "whole answers alike",
        "perplexity",
        "Transformers'",
        "change",
    ):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name, row in results.items():
        change = row["perplexity"] / row["reference_perplexity"] - 1
        table.add_row(
            name,
            f"{row['differences']} of {row['positions']}",
            f"{row['largest_margin']:.3f}",
            f"{row['largest_margin_in_bf16_steps']:.1f}",
            f"{row['identical_answers']} of {len(PROMPTS)}",
            f"{row['perplexity']:.4f}",
            f"{row['reference_perplexity']:.4f}",
            f"{change:+.3%}",
        )
    Console(width=140).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

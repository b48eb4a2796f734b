"""The default model on the native runner: many streams at once, each as if alone."""

from __future__ import annotations

import numpy as np
import pytest

from stoker import LLM, BeamSearchParams, SamplingParams
from stoker.engine.config import EngineConfig
from stoker.engine.factory import build_engine, plan_engine
from tests.model.text_data import default_model

pytestmark = pytest.mark.model

TEXT = (
    "A stoker keeps the fire of a furnace going. On a steamship the stokers worked in shifts of "
    "four hours, shovelling coal and raking ash, and the speed of the ship was theirs to give. "
)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(str(default_model()), max_model_len=1024)


def mixed(count: int) -> tuple[list[list[int]], list[SamplingParams]]:
    rng = np.random.default_rng(3)
    prompts = [
        rng.integers(100, 40000, int(length)).tolist()
        for length in rng.choice([3, 17, 40, 90], count)
    ]
    for i in range(0, count, 3):  # a third begins alike
        prompts[i] = prompts[0][:32] + prompts[i]
    params = [
        SamplingParams(
            temperature=(0.0, 0.9)[i % 2],
            seed=i,
            max_tokens=int(rng.choice([4, 9, 16])),
            logprobs=(None, 2)[i % 4 == 0],
        )
        for i in range(count)
    ]
    return prompts, params


def test_sixty_four_at_once_are_each_as_if_alone(llm: LLM) -> None:
    prompts, params = mixed(64)
    together = llm.generate(prompts, params, use_tqdm=False)
    stats = llm.engine.stats()
    assert stats.num_used_blocks == 0
    for i in range(0, 64, 5):
        llm.reset_prefix_cache()
        (alone,) = llm.generate([prompts[i]], params[i], use_tqdm=False)
        assert together[i].outputs == alone.outputs


def test_it_knows_what_comes_next(llm: LLM) -> None:
    (output,) = llm.generate(
        "The capital of France is", SamplingParams(temperature=0, max_tokens=1), use_tqdm=False
    )
    assert output.outputs[0].text == " Paris"
    found = llm.beam_search(
        "The capital of France is", BeamSearchParams(beam_width=2, max_tokens=3)
    )
    assert found[0].sequences[0].text is not None
    assert found[0].sequences[0].text.startswith("The capital of France is Paris")


def test_prompt_logprobs_of_text_are_better_than_of_shuffled_text(llm: LLM) -> None:
    tokens = llm.get_tokenizer().encode(TEXT)
    shuffled = np.random.default_rng(0).permutation(tokens).tolist()

    def mean(prompt: list[int]) -> float:
        (output,) = llm.generate(
            [prompt], SamplingParams(max_tokens=1, prompt_logprobs=0), use_tqdm=False
        )
        assert output.prompt_logprobs is not None
        entries = zip(prompt[1:], output.prompt_logprobs[1:], strict=True)
        return float(np.mean([entry[token].logprob for token, entry in entries if entry]))

    assert mean(tokens) > mean(shuffled) + 2


def test_the_plan_is_close_to_what_is_taken() -> None:
    config = EngineConfig(max_model_len=1024)
    _, plan, path = plan_engine(str(default_model()), config)
    assert path == default_model()
    assert path.stat().st_size * 0.95 < plan.weight_bytes < path.stat().st_size * 1.2
    loaded = build_engine(str(path), config)
    assert loaded.plan.cache == loaded.engine.runner.cache
    assert loaded.engine.max_model_len == 1024
    assert "assistant" in loaded.template.render([{"role": "user", "content": "Hi"}])
    loaded.engine.close()

"""`LLM`: prompts of every form, results in order, a script written for vLLM."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import stoker
from stoker import LLM, BeamSearchParams, SamplingParams
from stoker.engine import llm as llm_module
from stoker.engine.config import EngineConfig
from stoker.engine.engine import Engine
from stoker.engine.factory import LoadedEngine, plan_engine
from stoker.engine.prompts import PromptType
from stoker.engine.sampling_params import RequestOutputKind
from stoker.errors import InvalidRequest, TemplateError
from stoker.model.template import ChatTemplate
from tests.engine.doubles import ContextRunner, answer_alone, byte_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden"
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> LLM:
    """An `LLM` over the test runner."""

    def build(model: str, config: EngineConfig, *, chat_template: str | None = None) -> Any:
        tokenizer = byte_tokenizer()
        engine = Engine(ContextRunner(256, 4), tokenizer, config)
        _, plan, path = plan_engine(str(GOLDEN / "llama3.gguf"), config)
        template = ChatTemplate.of(tokenizer, chat_template or TEMPLATE)
        return LoadedEngine(engine, tokenizer, template, plan, path)

    monkeypatch.setattr(llm_module, "build_engine", build)
    return LLM("any", max_num_seqs=4)


GREEDY = SamplingParams(temperature=0, max_tokens=6)


def alone(text: str, params: SamplingParams = GREEDY) -> list[Any]:
    return answer_alone(list(text.encode()), params).outputs


def last_of(text: str) -> list[Any]:
    params = SamplingParams(temperature=0, max_tokens=6, output_kind=RequestOutputKind.FINAL_ONLY)
    return alone(text, params)


def test_a_script_for_vllm_runs_after_changing_its_import(
    llm: LLM, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = ["Hello, my name is", "The president of the", "The capital of France is", "AI"]
    sampling_params = SamplingParams(temperature=0.8, top_p=0.95, seed=1)
    outputs = llm.generate(prompts, sampling_params)
    for prompt, output in zip(prompts, outputs, strict=True):
        assert output.prompt == prompt
        assert output.finished
        generated_text = output.outputs[0].text
        assert generated_text == alone(prompt, sampling_params)[0].text
        assert len(output.outputs[0].token_ids) <= 16
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "4/4" in captured.err


def test_prompts_of_every_form(llm: LLM) -> None:
    (expected,) = last_of("Hi")
    for prompt in (
        "Hi",
        list(b"Hi"),
        {"prompt": "Hi"},
        {"prompt_token_ids": list(b"Hi")},
        {"prompt_token_ids": list(b"Hi"), "prompt": "said so", "cache_salt": "x"},
    ):
        for given in (prompt, [prompt]):
            (output,) = llm.generate(given, GREEDY, use_tqdm=False)  # type: ignore[arg-type]
            assert output.outputs == [expected]
            assert output.prompt_token_ids == list(b"Hi")
    assert output.prompt == "said so"
    assert llm.generate([], GREEDY, use_tqdm=False) == []


@pytest.mark.parametrize("prompt", [{}, {"text": "Hi"}, [1.5], None, {"prompt": 3}])
def test_what_is_no_prompt_is_refused(llm: LLM, prompt: Any) -> None:
    with pytest.raises(InvalidRequest, match="a prompt is") as refused:
        llm.generate([prompt], GREEDY, use_tqdm=False)
    assert refused.value.param == "prompt"


def test_parameters_for_all_or_one_for_each(llm: LLM) -> None:
    texts = ["one", "two", "three"]
    params = [SamplingParams(temperature=0, max_tokens=n) for n in (2, 5, 3)]
    outputs = llm.generate(texts, params, use_tqdm=False)
    lengths = [len(output.outputs[0].token_ids) for output in outputs]
    assert lengths == [2, 5, 3]
    with pytest.raises(InvalidRequest, match="3 prompts need one sampling_params for all or 3"):
        llm.generate(texts, params[:2], use_tqdm=False)


def test_a_wrong_prompt_among_good_ones_computes_nothing(llm: LLM) -> None:
    prompts: list[PromptType] = ["good", {"prompt_token_ids": []}]
    with pytest.raises(InvalidRequest, match="empty"):
        llm.generate(prompts, GREEDY, use_tqdm=False)
    assert not llm.engine.has_unfinished
    assert llm.engine.stats().steps == 0
    assert llm.generate("good", GREEDY, use_tqdm=False)[0].finished


def test_an_interrupted_run_leaves_nothing_behind(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = llm.engine.step

    def interrupted() -> Any:
        if llm.engine.stats().steps == 2:
            raise KeyboardInterrupt
        return step()

    monkeypatch.setattr(llm.engine, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["a", "b"], GREEDY, use_tqdm=False)
    assert not llm.engine.has_unfinished
    assert llm.engine.pool.num_used == 0


def test_more_prompts_than_may_run_or_wait(llm: LLM) -> None:
    prompts = [f"prompt {i}" for i in range(50)]
    outputs = llm.generate(prompts, GREEDY, use_tqdm=False)
    assert [output.prompt for output in outputs] == prompts
    assert [output.outputs for output in outputs] == [last_of(prompt) for prompt in prompts]


def test_chat_renders_the_template(llm: LLM) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    (output,) = llm.chat(messages, GREEDY, use_tqdm=False)
    assert output.prompt == "user: Hi\nassistant:"
    assert output.outputs == last_of("user: Hi\nassistant:")
    several = llm.chat([messages, messages * 2], GREEDY, use_tqdm=False)
    assert [o.prompt for o in several] == [
        "user: Hi\nassistant:",
        "user: Hi\nuser: Hi\nassistant:",
    ]
    (output,) = llm.chat(messages, GREEDY, use_tqdm=False, add_generation_prompt=False)
    assert output.prompt == "user: Hi\n"
    own = "{{ messages[0].content }}{{ extra }}"
    (output,) = llm.chat(
        messages,
        GREEDY,
        use_tqdm=False,
        chat_template=own,
        chat_template_kwargs={"extra": "!"},
    )
    assert output.prompt == "Hi!"


def test_chat_continues_the_last_message(llm: LLM) -> None:
    messages = [
        {"role": "user", "content": "Count"},
        {"role": "assistant", "content": "one, two,"},
    ]
    (output,) = llm.chat(
        messages,
        GREEDY,
        use_tqdm=False,
        add_generation_prompt=False,
        continue_final_message=True,
    )
    assert output.prompt == "user: Count\nassistant: one, two,"
    with pytest.raises(InvalidRequest, match="add_generation_prompt=False"):
        llm.chat(messages, GREEDY, continue_final_message=True)
    messages[-1]["content"] = " "
    with pytest.raises(InvalidRequest, match="needs text in the last message"):
        llm.chat(messages, GREEDY, add_generation_prompt=False, continue_final_message=True)


@pytest.mark.parametrize("messages", [[], [{"role": "user"}], [{"role": "x", "content": "y"}]])
def test_bad_messages_are_refused(llm: LLM, messages: Any) -> None:
    with pytest.raises((InvalidRequest, TemplateError)):
        llm.chat(messages, GREEDY, use_tqdm=False)


def test_beam_search(llm: LLM) -> None:
    params = BeamSearchParams(beam_width=3, max_tokens=4)
    prompts: list[PromptType] = ["Hi", {"prompt": "Ho"}]
    found = llm.beam_search(prompts, params)
    assert len(found) == 2
    expected = answer_alone(list(b"Hi"), params).outputs
    for beam, answer in zip(found[0].sequences, expected, strict=True):
        assert beam.tokens == list(b"Hi") + answer.token_ids
        assert beam.cum_logprob == answer.cumulative_logprob
        assert beam.text == byte_tokenizer().decode(beam.tokens)
        assert len(beam.logprobs) == 4


def test_closing_frees_the_runner(llm: LLM) -> None:
    runner = llm.engine.runner
    with llm as same:
        assert same is llm
    assert isinstance(runner, ContextRunner)
    assert runner.closed


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no engine setting 'tensor_parallel'"):
        LLM("any", tensor_parallel=2)


@pytest.mark.usefixtures("llm")
def test_settings_of_vllm_without_effect_are_named(caplog: pytest.LogCaptureFixture) -> None:
    LLM("any", gpu_memory_utilization=0.9, trust_remote_code=True, max_num_seqs=2)
    assert caplog.messages == [
        "without effect in Stoker: gpu_memory_utilization, trust_remote_code"
    ]


def test_without_parameters_the_defaults_are_used(llm: LLM) -> None:
    (output,) = llm.generate("Hi", use_tqdm=False)
    assert len(output.outputs[0].token_ids) <= 16
    assert llm.get_default_sampling_params() == SamplingParams()


def test_importing_stoker_imports_nothing_else() -> None:
    code = (
        "import sys, stoker; before = set(sys.modules);"
        "assert not {'numpy', 'tokenizers', 'jinja2', 'rich'} & before, before;"
        "assert stoker.SamplingParams().n == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_the_package_offers() -> None:
    for name in stoker.__all__:
        assert hasattr(stoker, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = stoker.nothing

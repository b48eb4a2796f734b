"""Text completions, as openai-python sees them."""

from __future__ import annotations

import pytest

from tests.server.conftest import RunningServer


def test_whole_and_streamed_answers_are_the_same(server: RunningServer) -> None:
    create = server.client.completions.create
    whole = create(model="letters", prompt="Once", temperature=0, max_tokens=12)
    chunks = list(
        create(
            model="letters",
            prompt="Once",
            temperature=0,
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole.choices[0].text
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12


def test_sixteen_tokens_unless_told_otherwise(server: RunningServer) -> None:
    answer = server.client.completions.create(
        model="letters", prompt="Once", temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


@pytest.mark.parametrize("stream", [False, True])
def test_prompts_may_be_many_and_each_has_n_choices_in_order(
    server: RunningServer, stream: bool
) -> None:
    create = server.client.completions.create
    prompts = ["one", "two"]
    alone = [
        choice.text
        for prompt in prompts
        for choice in create(model="letters", prompt=prompt, seed=3, n=2, max_tokens=9).choices
    ]
    if stream:
        texts = [""] * 4
        for chunk in create(
            model="letters", prompt=prompts, seed=3, n=2, max_tokens=9, stream=True
        ):
            for choice in chunk.choices:
                texts[choice.index] += choice.text
    else:
        whole = create(model="letters", prompt=prompts, seed=3, n=2, max_tokens=9)
        assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
        texts = [choice.text for choice in whole.choices]
    assert texts == alone
    assert len(set(texts)) == 4


def test_token_ids_are_a_prompt_too(server: RunningServer) -> None:
    create = server.client.completions.create
    as_text = create(model="letters", prompt="abc", temperature=0)
    as_ids = create(model="letters", prompt=[97, 98, 99], temperature=0)
    several = create(model="letters", prompt=[[97, 98, 99], [97]], temperature=0)
    assert as_ids.choices[0].text == as_text.choices[0].text
    assert several.choices[0].text == as_text.choices[0].text
    assert as_ids.usage is not None
    assert as_ids.usage.prompt_tokens == 3


@pytest.mark.parametrize("stream", [False, True])
def test_echo_with_logprobs_covers_prompt_and_answer(server: RunningServer, stream: bool) -> None:
    """What lm-evaluation-harness relies on: columns over the prompt's tokens, then the answer's."""
    plain = server.client.completions.create(
        model="letters", prompt="abcd", temperature=0, max_tokens=3
    )
    arguments = {"temperature": 0, "max_tokens": 3, "echo": True, "logprobs": 2}
    text, tokens, values, offsets = "", list[str](), list[float | None](), list[int]()
    if stream:
        pieces = [
            chunk.choices[0]
            for chunk in server.client.completions.create(
                model="letters", prompt="abcd", stream=True, extra_body=arguments
            )
        ]
    else:
        whole = server.client.completions.create(
            model="letters", prompt="abcd", extra_body=arguments
        )
        pieces = [whole.choices[0]]
    for piece in pieces:
        text += piece.text
        if piece.logprobs is not None:
            tokens += piece.logprobs.tokens or []
            values += piece.logprobs.token_logprobs or []
            offsets += piece.logprobs.text_offset or []
    assert text == "abcd" + plain.choices[0].text
    assert tokens == list(text)
    assert values == [None] + [-0.5] * 6
    assert offsets == [0, 1, 2, 3, 4, 5, 6]


def test_prompt_logprobs_are_in_vllms_form(server: RunningServer) -> None:
    want = [
        None,
        {"98": {"logprob": -0.5, "rank": 1, "decoded_token": "b"}},
    ]
    whole = server.client.completions.create(
        model="letters", prompt="ab", extra_body={"prompt_logprobs": 1}
    )
    assert whole.choices[0].model_extra is not None
    assert whole.choices[0].model_extra["prompt_logprobs"] == want
    chat = server.client.chat.completions.create(
        model="letters",
        messages=[{"role": "user", "content": "ab"}],
        extra_body={"prompt_logprobs": 0},
    )
    assert chat.model_extra is not None
    assert chat.usage is not None
    assert len(chat.model_extra["prompt_logprobs"]) == chat.usage.prompt_tokens


def test_echo_without_an_answer_scores_the_prompt_alone(server: RunningServer) -> None:
    answer = server.client.completions.create(
        model="letters", prompt="abcd", max_tokens=0, echo=True, logprobs=1
    )
    choice = answer.choices[0]
    assert choice.text == "abcd"
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["a", "b", "c", "d"]
    assert choice.logprobs.token_logprobs == [None, -0.5, -0.5, -0.5]
    assert choice.logprobs.top_logprobs == [None, {"b": -0.5}, {"c": -0.5}, {"d": -0.5}]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0

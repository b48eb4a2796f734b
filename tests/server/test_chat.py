"""Chat completions, as openai-python sees them."""

from __future__ import annotations

from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from tests.server.conftest import RunningServer

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What comes next?"}]


def test_whole_and_streamed_answers_are_the_same(server: RunningServer) -> None:
    client = server.client
    whole = client.chat.completions.create(model="letters", messages=MESSAGES, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model="letters",
            messages=MESSAGES,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    choice = whole.choices[0]
    assert choice.finish_reason == "stop"
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert streamed_text(chunks) == {0: choice.message.content}
    assert chunks[-1].choices == []
    assert whole.usage is not None
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert whole.usage.completion_tokens == len(choice.message.content) + 1  # the end token


def test_the_first_chunk_has_the_role_and_the_last_the_reason(server: RunningServer) -> None:
    chunks = list(
        server.client.chat.completions.create(
            model="letters", messages=MESSAGES, temperature=0, max_tokens=3, stream=True
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["length"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


def test_several_choices_stream_side_by_side(server: RunningServer) -> None:
    client = server.client
    whole = client.chat.completions.create(
        model="letters", messages=MESSAGES, n=3, seed=5, max_tokens=20
    )
    chunks = list(
        client.chat.completions.create(
            model="letters", messages=MESSAGES, n=3, seed=5, max_tokens=20, stream=True
        )
    )
    texts = {choice.index: choice.message.content for choice in whole.choices}
    assert sorted(texts) == [0, 1, 2]
    assert len(set(texts.values())) == 3
    assert streamed_text(chunks) == texts


def test_usage_so_far_comes_with_every_chunk_when_asked(server: RunningServer) -> None:
    chunks = list(
        server.client.chat.completions.create(
            model="letters",
            messages=MESSAGES,
            temperature=0,
            max_tokens=3,
            stream=True,
            extra_body={"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        )
    )
    counts = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage]
    assert len(counts) == len(chunks)
    assert counts == sorted(counts)
    assert counts[-1] == 3


def test_logprobs_are_the_same_streamed_and_not(server: RunningServer) -> None:
    client = server.client
    whole = client.chat.completions.create(
        model="letters",
        messages=MESSAGES,
        temperature=0,
        max_tokens=4,
        logprobs=True,
        top_logprobs=2,
    )
    chunks = list(
        client.chat.completions.create(
            model="letters",
            messages=MESSAGES,
            temperature=0,
            max_tokens=4,
            logprobs=True,
            top_logprobs=2,
            stream=True,
        )
    )
    assert whole.choices[0].logprobs is not None
    content = whole.choices[0].logprobs.content or []
    assert [entry.token for entry in content] == list(whole.choices[0].message.content or "")
    assert [entry.logprob for entry in content] == [-0.5] * 4
    assert [len(entry.top_logprobs) for entry in content] == [2] * 4
    assert content[0].bytes == list(content[0].token.encode())
    streamed = [
        entry
        for chunk in chunks
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content or []
    ]
    assert streamed == content


def test_a_stop_string_ends_the_answer_and_is_left_out(server: RunningServer) -> None:
    client = server.client
    full = client.chat.completions.create(model="letters", messages=MESSAGES, temperature=0)
    text = full.choices[0].message.content or ""
    stop = text[3:5]
    whole = client.chat.completions.create(
        model="letters", messages=MESSAGES, temperature=0, stop=stop
    )
    chunks = list(
        client.chat.completions.create(
            model="letters", messages=MESSAGES, temperature=0, stop=[stop], stream=True
        )
    )
    assert whole.choices[0].message.content == text[: text.index(stop)]
    assert whole.choices[0].finish_reason == "stop"
    assert streamed_text(chunks) == {0: text[: text.index(stop)]}


def test_a_final_assistant_message_can_be_continued(server: RunningServer) -> None:
    client = server.client
    prompt = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nabc"
    want = client.completions.create(model="letters", prompt=prompt, temperature=0, max_tokens=8)
    got = client.chat.completions.create(
        model="letters",
        messages=[
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "abc"},
        ],
        temperature=0,
        max_tokens=8,
        extra_body={"continue_final_message": True, "add_generation_prompt": False},
    )
    assert got.choices[0].message.content == want.choices[0].text


def test_request_ids_are_taken_over_or_made(server: RunningServer) -> None:
    client = server.client
    answer = client.chat.completions.with_raw_response.create(
        model="letters", messages=MESSAGES, max_tokens=1, extra_headers={"X-Request-Id": "mine-1"}
    )
    assert answer.headers["x-request-id"] == "mine-1"
    made = client.chat.completions.create(model="letters", messages=MESSAGES, max_tokens=1)
    assert made._request_id


def streamed_text(chunks: list[ChatCompletionChunk]) -> dict[int, str]:
    """What each choice's pieces join to."""
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    return texts

"""Prompts of exact lengths, and files with what is wrong in them named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stoker.bench.dataset import (
    DatasetConfig,
    RandomLengths,
    custom_requests,
    random_requests,
    sharegpt_requests,
)
from stoker.errors import InvalidRequest
from tests.server.doubles import byte_tokenizer

BYTES = byte_tokenizer()


def test_random_prompts_have_exactly_their_length_and_are_the_same_for_a_seed() -> None:
    lengths = RandomLengths(input=40, output=9, prefix=8)
    requests = random_requests(20, lengths, seed=3, tokenizer=None)
    assert [(len(r.prompt.split()), r.prompt_len, r.output_len) for r in requests] == [
        (48, 48, 9)
    ] * 20
    assert len({tuple(r.prompt.split()[:8]) for r in requests}) == 1
    assert len({r.prompt for r in requests}) == 20
    assert requests == random_requests(20, lengths, seed=3, tokenizer=None)
    assert requests != random_requests(20, lengths, seed=4, tokenizer=None)


def test_a_tokenizer_counts_what_it_will_be_given() -> None:
    requests = random_requests(10, RandomLengths(input=30, output=1), seed=0, tokenizer=BYTES)
    for request in requests:
        assert request.prompt_len == len(BYTES.encode(request.prompt))
        assert not set(BYTES.encode(request.prompt)) & BYTES.special_ids
    assert {request.prompt_len for request in requests} <= set(range(30, 90))


def test_lengths_vary_within_the_ratio() -> None:
    drawn = RandomLengths(input=100, range_ratio=0.2).draw(100, 2000, np.random.default_rng(0))
    assert (min(drawn), max(drawn)) == (80, 120)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"input": 0}, "at least one token"),
        ({"output": 0}, "--random-output-len"),
        ({"range_ratio": 1.0}, "[0, 1)"),
    ],
)
def test_lengths_that_cannot_be_are_refused(settings: dict[str, float], part: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        RandomLengths(**settings)  # type: ignore[arg-type]
    assert part in str(refused.value)


def test_a_custom_file_is_gone_through_again_until_there_are_enough(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "one", "output_tokens": 3}\n\n{"prompt": "four", "x": 1}\n')
    with pytest.raises(InvalidRequest, match=r"entry 3: 'output_tokens'"):
        custom_requests(file, 3, output_len=None, tokenizer=BYTES, seed=None)
    found = custom_requests(file, 3, output_len=7, tokenizer=BYTES, seed=None)
    assert [(r.prompt, r.prompt_len, r.output_len) for r in found] == [
        ("one", 3, 7),
        ("four", 4, 7),
        ("one", 3, 7),
    ]


def test_conversations_give_prompt_and_length_of_answer(tmp_path: Path) -> None:
    def conversation(*turns: str) -> dict[str, object]:
        return {"conversations": [{"from": "human", "value": turn} for turn in turns]}

    file = tmp_path / "conversations.json"
    entries = [
        conversation("hello", "an answer"),
        conversation("alone"),
        conversation("hi", "too short a prompt"),
        conversation("x" * 1025, "too long a prompt"),
        conversation("question", "ok."),
    ]
    for text in (json.dumps(entries), "\n".join(map(json.dumps, entries))):
        file.write_text(text)
        found = sharegpt_requests(file, 1, output_len=None, tokenizer=BYTES, seed=None)
        assert [(r.prompt, r.prompt_len, r.output_len) for r in found] == [("hello", 5, 9)]
        both = sharegpt_requests(file, 2, output_len=20, tokenizer=BYTES, seed=None)
        assert [(r.prompt, r.output_len) for r in both] == [("hello", 20), ("question", 20)]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("{", "entry 1: not valid JSON"),
        ("[1]", "expected a JSON object"),
        ('{"prompt": 5}', "'prompt' must be a text"),
        ("", "no request"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, content: str, part: str) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(content)
    with pytest.raises(InvalidRequest) as refused:
        custom_requests(file, 1, output_len=1, tokenizer=None, seed=None)
    assert part in str(refused.value)
    assert str(file) in str(refused.value)


def test_a_dataset_needs_its_file() -> None:
    def config(name: str, path: Path | None = None) -> DatasetConfig:
        return DatasetConfig(
            name=name,
            path=path,
            number=1,
            lengths=RandomLengths(),
            output_len=None,
            shuffle=False,
            seed=0,
        )

    with pytest.raises(InvalidRequest, match="--dataset-path"):
        config("custom")
    with pytest.raises(InvalidRequest, match="sonnet"):
        config("sonnet")
    with pytest.raises(InvalidRequest, match="cannot be read"):
        config("custom", Path("/no/such/file")).requests(None)

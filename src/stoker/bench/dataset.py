"""What a benchmark asks: prompts made at random, or from a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stoker.errors import InvalidRequest, why

# One token each in the vocabularies of today's models, with the space before them.
_WORDS = (
    "the of and to in is that for it as was with be by on not he his but at are this have from or"
    " had an they which one you were all her she there would their we him been has when who will"
    " no more if out so up what about into than them can only other time new some could these two"
    " may first then do any my now such like our over man me even most made after also did many"
    " before must well back through years where much your way down should because long each just"
    " state those people how too little world very still see own work life get here between both"
    " under last never day same another know while us might great old year off come since go"
)
_MAX_PROMPT, _MAX_TOTAL, _MIN_LENGTH = 1024, 2048, 4
"""Lengths of ShareGPT conversations that are used, in tokens, as everywhere it is measured with."""


class Counter(Protocol):
    """The part of a tokenizer that making prompts needs."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def special_ids(self) -> frozenset[int]: ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, ids: Sequence[int], /) -> str: ...


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One request to be sent."""

    prompt: str
    prompt_len: int
    """In tokens, as far as known here; a server's own count replaces it."""
    output_len: int
    """The tokens asked for."""


@dataclass(frozen=True, slots=True)
class RandomLengths:
    """Lengths of random requests, in tokens: each `input` and `output` within ± `range_ratio`,
    after `prefix` tokens that all prompts share."""

    input: int = 1024
    output: int = 128
    range_ratio: float = 0.0
    prefix: int = 0

    def __post_init__(self) -> None:
        if self.input < 0 or self.prefix < 0 or self.input + self.prefix < 1:
            raise InvalidRequest(
                "--random-input-len and --random-prefix-len must make at least one token together",
                param="random_input_len",
            )
        if self.output < 1:
            raise InvalidRequest(
                f"--random-output-len must be at least 1, got {self.output}",
                param="random_output_len",
            )
        if not 0 <= self.range_ratio < 1:
            raise InvalidRequest(
                f"--random-range-ratio must be in [0, 1), got {self.range_ratio}",
                param="random_range_ratio",
            )

    def draw(self, mean: int, number: int, random: np.random.Generator) -> list[int]:
        """`number` lengths of at least 1 around `mean`."""
        low, high = int(mean * (1 - self.range_ratio)), int(mean * (1 + self.range_ratio) + 0.5)
        lengths: list[int] = random.integers(low, high + 1, number).tolist()
        return [max(1, length) for length in lengths] if mean else [0] * number


@dataclass(frozen=True, slots=True)
class DatasetConfig:
    """Which requests a benchmark makes. Raises `InvalidRequest` for what cannot be."""

    name: str
    path: Path | None
    number: int
    lengths: RandomLengths
    output_len: int | None
    """Instead of what a file says."""
    shuffle: bool
    seed: int

    def __post_init__(self) -> None:
        if self.name not in ("random", "sharegpt", "custom"):
            raise InvalidRequest(
                f"--dataset-name must be random, sharegpt or custom, got {self.name!r}",
                param="dataset_name",
            )
        if self.name != "random" and self.path is None:
            raise InvalidRequest(
                f"--dataset-name {self.name} needs --dataset-path", param="dataset_path"
            )

    def requests(self, tokenizer: Counter | None) -> list[SampleRequest]:
        """The requests; `tokenizer` counts their tokens, where one is at hand."""
        if self.name == "random" or self.path is None:
            return random_requests(self.number, self.lengths, seed=self.seed, tokenizer=tokenizer)
        make = sharegpt_requests if self.name == "sharegpt" else custom_requests
        return make(
            self.path,
            self.number,
            output_len=self.output_len,
            tokenizer=tokenizer,
            seed=self.seed if self.shuffle else None,
        )


def random_requests(
    number: int, lengths: RandomLengths, *, seed: int, tokenizer: Counter | None
) -> list[SampleRequest]:
    """Prompts without meaning, no two with a common beginning beyond the prefix.

    With a tokenizer they have exactly as many of its tokens as asked for, unless no text has;
    without one they are common words, each of which is a token to most models.
    """
    random = np.random.default_rng(seed)
    inputs = lengths.draw(lengths.input, number, random)
    outputs = lengths.draw(lengths.output, number, random)
    if tokenizer is None:
        words = _WORDS.split()
        prefix = random.choice(words, lengths.prefix).tolist()
        texts = [" ".join([*prefix, *random.choice(words, n).tolist()]) for n in inputs]
        counts = [lengths.prefix + n for n in inputs]
    else:
        allowed = np.setdiff1d(
            np.arange(tokenizer.vocab_size), np.fromiter(tokenizer.special_ids, np.int64)
        )
        shared = random.choice(allowed, lengths.prefix).tolist()
        texts, counts = [], []
        for length in inputs:
            own = random.choice(allowed, length).tolist()
            text, count = _of_length([*shared, *own], tokenizer, allowed, random)
            texts.append(text)
            counts.append(count)
    return [
        SampleRequest(text, count, output)
        for text, count, output in zip(texts, counts, outputs, strict=True)
    ]


def _of_length(
    ids: list[int], tokenizer: Counter, allowed: np.ndarray, random: np.random.Generator
) -> tuple[str, int]:
    """A text that begins like `ids` and has as many tokens: decoding and encoding again changes
    their number, so what is too much is cut off and what lacks is drawn, a few times over."""
    wanted = len(ids)
    for _ in range(10):
        text = tokenizer.decode(ids)
        ids = tokenizer.encode(text, add_special_tokens=False)
        if len(ids) == wanted:
            break
        ids = [*ids[:wanted], *random.choice(allowed, max(0, wanted - len(ids))).tolist()]
    return text, len(tokenizer.encode(text))


def custom_requests(
    path: Path, number: int, *, output_len: int | None, tokenizer: Counter | None, seed: int | None
) -> list[SampleRequest]:
    """Prompts of a JSONL file with `{"prompt": …, "output_tokens": …}` a line, over and over until
    there are enough. `output_len` stands in for `output_tokens`. Shuffled unless `seed` is None."""
    found = []
    for number_of_line, entry in _lines(path):
        prompt = entry.get("prompt")
        length = output_len if output_len is not None else entry.get("output_tokens")
        if not isinstance(prompt, str) or not prompt:
            raise _wrong(path, number_of_line, "'prompt' must be a text")
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise _wrong(
                path,
                number_of_line,
                "'output_tokens' must be a number of tokens; or give --custom-output-len",
            )
        found.append(SampleRequest(prompt, _count(prompt, tokenizer), length))
    return _take(found, number, path, seed)


def sharegpt_requests(
    path: Path, number: int, *, output_len: int | None, tokenizer: Counter | None, seed: int | None
) -> list[SampleRequest]:
    """The first turn of each conversation of a ShareGPT file (a JSON list, or JSONL), asked to be
    as long as the answer it had, or `output_len`. Very short and very long ones are left out."""
    found = []
    for number_of_line, entry in _entries(path):
        turns = entry.get("conversations")
        if not isinstance(turns, list) or len(turns) < 2:
            continue
        try:
            prompt, answer = (str(turn["value"]) for turn in turns[:2])
        except (TypeError, KeyError):
            raise _wrong(path, number_of_line, "a turn must be an object with 'value'") from None
        length = output_len if output_len is not None else _count(answer, tokenizer)
        count = _count(prompt, tokenizer)
        fits = _MIN_LENGTH <= count <= _MAX_PROMPT and count + length <= _MAX_TOTAL
        if fits and (output_len is not None or length >= _MIN_LENGTH):
            found.append(SampleRequest(prompt, count, length))
    return _take(found, number, path, seed)


def _take(
    found: list[SampleRequest], number: int, path: Path, seed: int | None
) -> list[SampleRequest]:
    if not found:
        raise InvalidRequest(f"{path} has no request that can be used", param="dataset_path")
    if seed is not None:
        found = [found[i] for i in np.random.default_rng(seed).permutation(len(found))]
    return [found[i % len(found)] for i in range(number)]


def _count(text: str, tokenizer: Counter | None) -> int:
    """Tokens of a text; without a tokenizer, four characters are one."""
    return max(1, len(text) // 4) if tokenizer is None else len(tokenizer.encode(text))


def _entries(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The objects of a JSON list, or of the lines of a file, with the number of each."""
    text = _read(path)
    if not text.lstrip().startswith("["):
        yield from _lines(path)
        return
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path} is not valid JSON: {error}", param="dataset_path") from None
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise _wrong(path, number, "expected a JSON object")
        yield number, entry


def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _wrong(path, number, f"not valid JSON: {error}") from None
        if not isinstance(entry, dict):
            raise _wrong(path, number, "expected a JSON object")
        yield number, entry


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {why(error)}", param="dataset_path") from None


def _wrong(path: Path, number: int, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{path}, entry {number}: {reason}", param="dataset_path")

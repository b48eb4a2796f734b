"""Compile a grammar where it can do no harm: the program that runs in the trial process.

Some small grammars make the compiler recurse until the stack ends, or take hours or all memory
(a chain of a thousand `$ref`, `multipleOf` of a large prime). So every new grammar is first
compiled here, within limits that the system enforces, over a vocabulary of single bytes and the
model's special tokens. What this process refuses, or does not survive, goes no further.

Reads messages, each after its length in four bytes: first the setting as JSON, then grammars.
Answers each grammar with a line of JSON: why it is refused, or "".
"""

import json
import resource
import sys
import threading
from typing import Any, cast

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

CPU_SECONDS = 3
MEMORY_BYTES = 2 * 2**30
STACK_BYTES = 2 * 2**20
"""Less than any thread of the real process has."""


class _Bytes:
    """A vocabulary of the right size in which only bytes and special tokens mean anything."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, setting: dict[str, Any]) -> None:
        special = {int(token): text for token, text in setting["special"].items()}
        others = (i for i in range(setting["vocab_size"]) if i not in special)
        self.tokens = [b""] * setting["vocab_size"]
        for byte, token in zip(range(256), others, strict=False):
            self.tokens[token] = bytes([byte])
        for token, text in special.items():
            self.tokens[token] = text.encode()
        self.special_token_ids = sorted(special)
        self.eos_token_id = setting["end"]
        self._of_byte = {token: i for i, token in enumerate(self.tokens) if len(token) == 1}

    def __call__(self, text: str) -> list[int]:
        data = text.encode()
        return [self._of_byte[data[i : i + 1]] for i in range(len(data))]


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(STACK_BYTES)
    setting = json.loads(_read())
    limits = LLParserLimits(**setting["limits"])
    tokenizer = LLTokenizer(cast("TokenizerWrapper", _Bytes(setting)))
    while source := _read():
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + 1 + CPU_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
        answer: list[str] = []
        thread = threading.Thread(target=_compile, args=(tokenizer, source, limits, answer))
        thread.start()
        thread.join()
        sys.stdout.write(json.dumps(answer[0]) + "\n")
        sys.stdout.flush()


def _read() -> str:
    length = int.from_bytes(sys.stdin.buffer.read(4), "little")
    return sys.stdin.buffer.read(length).decode()


def _compile(
    tokenizer: LLTokenizer, source: str, limits: LLParserLimits, answer: list[str]
) -> None:
    matcher = LLMatcher(tokenizer, source, log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()
    answer.append(matcher.get_error())


if __name__ == "__main__":
    main()

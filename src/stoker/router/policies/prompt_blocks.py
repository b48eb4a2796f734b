"""A prompt in blocks, by which its beginning is known again.

It is cut into blocks of bytes, each hashed together with the hash before it, so that a
block's hash stands for the whole text up to its end. What is not the conversation but shapes
the prompt all the same (model or LoRA adapter, tools, system text) is in the first hash.
"""

from __future__ import annotations

from collections.abc import Iterator

from stoker.router.request import BYTES_PER_TOKEN, Features

BLOCK_BYTES = 256
"""The first blocks' length. Later ones grow with what precedes them, to between a 32nd and a 16th
of it, so that a long prompt has hundreds of blocks and not thousands."""


def _block_ends() -> Iterator[int]:
    """Where blocks end in a prompt, in bytes."""
    end = 0
    while end < _LONGEST:
        end += max(BLOCK_BYTES, 1 << (end.bit_length() - 5 if end else 0))
        yield end


_LONGEST = 1 << 32
_ENDS = tuple(_block_ends())


def block_hashes(features: Features) -> list[int]:
    """The chained hashes of a prompt's full blocks; kept in `features` for the next caller."""
    hashes = features.block_hashes
    if hashes is None:
        prompt = features.prompt
        parent = hash((features.model, features.preamble))
        hashes, begin, length = [], 0, len(prompt)
        for end in _ENDS:
            if end > length:
                break
            parent = hash((parent, prompt[begin:end]))
            hashes.append(parent)
            begin = end
        features.block_hashes = hashes
    return hashes


TOKENS_IN = (0, *(end // BYTES_PER_TOKEN for end in _ENDS))
"""Roughly how many tokens a prompt's first so many blocks are."""

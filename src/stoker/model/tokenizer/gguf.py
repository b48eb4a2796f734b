"""A tokenizer from GGUF metadata.

Two kinds (`tokenizer.ggml.model`): `gpt2` is byte-level BPE with explicit merges and a named
splitting rule; `llama` is SentencePiece BPE, whose merges follow from the pieces' scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import cast

from tokenizers import AddedToken, Tokenizer, models, normalizers

from stoker.errors import ModelCorrupt, UnsupportedModel
from stoker.model.tokenizer.parts import TokenizerParts
from stoker.model.tokenizer.pretokenizers import pre_tokenizer
from stoker.model.tokenizer.vocabulary import SPACE, TokenEncoding


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_END_NAMES = frozenset(
    {
        "<|eot_id|>",
        "<|eom_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<end_of_turn>",
    }
)
"""Tokens that end a turn. Many files name only one of those that their model uses."""


def read_metadata(metadata: Mapping[str, object]) -> TokenizerParts:
    """Build the tokenizer that `tokenizer.*` describes.

    Raises `UnsupportedModel` for an unknown kind, `ModelCorrupt` for inconsistent metadata.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise UnsupportedModel(
            f"the GGUF file's tokenizer is of kind {kind!r} (tokenizer.ggml.model); Stoker knows "
            "'gpt2' (byte-level BPE) and 'llama' (SentencePiece BPE)"
        )
    tokens = _strings(metadata, "tokenizer.ggml.tokens")
    types = _token_types(metadata, len(tokens))
    bos_id = _token_id(metadata, "bos", len(tokens))
    eos_id = _token_id(metadata, "eos", len(tokens))
    vocab = {token: index for index, token in enumerate(tokens)}
    try:
        if kind == "gpt2":
            rule = pre_tokenizer(str(metadata.get("tokenizer.ggml.pre", "default")))
            backend = _byte_level(metadata, vocab)
            backend.pre_tokenizer = rule.build()
            if (normalizer := rule.normalizer()) is not None:
                backend.normalizer = normalizer
            backend.model.ignore_merges = rule.whole_words
            encoding, space_prefix, bos_default = TokenEncoding.BYTE_LEVEL, False, rule.add_bos
        else:
            space_prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
            backend = _sentencepiece(metadata, vocab, tokens, types, space_prefix=space_prefix)
            encoding, bos_default = TokenEncoding.SENTENCEPIECE, True
        added = _add_tokens(backend, tokens, types, metadata)
    except (UnsupportedModel, ModelCorrupt):
        raise
    except Exception as error:  # the library raises bare Exception for a bad vocabulary
        raise ModelCorrupt(f"the GGUF file's tokenizer cannot be built: {error}") from error

    add_bos = bool(metadata.get("tokenizer.ggml.add_bos_token", bos_default))
    add_eos = bool(metadata.get("tokenizer.ggml.add_eos_token", False))
    ends = {
        eos_id,
        _token_id(metadata, "eot", len(tokens)),
        _token_id(metadata, "eom", len(tokens)),
    }
    ends |= {index for index, token in added.items() if token in _END_NAMES}
    return TokenizerParts(
        backend=backend,
        tokens=tokens,
        encoding=encoding,
        added=added,
        special_ids=frozenset(
            i for i in added if types[i] in (TokenType.CONTROL, TokenType.UNKNOWN)
        ),
        bos_id=bos_id,
        eos_id=eos_id,
        eos_ids=frozenset(i for i in ends if i is not None),
        strip_leading_space=space_prefix,
        chat_templates=_chat_templates(metadata),
        prefix=(bos_id,) if add_bos and bos_id is not None else (),
        suffix=(eos_id,) if add_eos and eos_id is not None else (),
    )


def _byte_level(metadata: Mapping[str, object], vocab: dict[str, int]) -> Tokenizer:
    merges = [
        (left, right)
        for left, _, right in (
            merge.partition(" ") for merge in _strings(metadata, "tokenizer.ggml.merges")
        )
    ]
    return Tokenizer(models.BPE(vocab=vocab, merges=merges))


def _sentencepiece(
    metadata: Mapping[str, object],
    vocab: dict[str, int],
    tokens: Sequence[str],
    types: Sequence[int],
    *,
    space_prefix: bool,
) -> Tokenizer:
    scores = cast("Sequence[float]", _array(metadata, "tokenizer.ggml.scores"))
    if len(scores) != len(tokens):
        raise ModelCorrupt(
            f"the GGUF file has {len(tokens)} tokens but {len(scores)} scores "
            "(tokenizer.ggml.scores)"
        )
    unknown_id = _token_id(metadata, "unknown", len(tokens))
    backend = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=merges_by_score(tokens, scores, types),
            unk_token=None if unknown_id is None else tokens[unknown_id],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    # Applied to each stretch of text between special tokens.
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", SPACE)]
    if space_prefix:
        steps.insert(0, normalizers.Prepend(SPACE))
    backend.normalizer = normalizers.Sequence(steps)
    return backend


def merges_by_score(
    tokens: Sequence[str], scores: Sequence[float], types: Sequence[int]
) -> list[tuple[str, str]]:
    """The merges of a SentencePiece BPE vocabulary, best first.

    SentencePiece joins the neighbours whose joined piece has the highest score (Kudo and
    Richardson 2018), so each way of cutting a piece into two pieces is a merge ranked by the
    score of the whole.
    """
    normal = {
        token: score
        for token, score, kind in zip(tokens, scores, types, strict=True)
        if kind == TokenType.NORMAL
    }
    ranked: list[tuple[float, str, str]] = []
    for token, score in normal.items():
        for cut in range(1, len(token)):
            left = token[:cut]
            if left in normal and (right := token[cut:]) in normal:
                ranked.append((score, left, right))
    ranked.sort(key=lambda merge: merge[0], reverse=True)
    return [(left, right) for _, left, right in ranked]


def _add_tokens(
    backend: Tokenizer,
    tokens: Sequence[str],
    types: Sequence[int],
    metadata: Mapping[str, object],
) -> dict[int, str]:
    """Make control and user-defined tokens match literally; returns them by id."""
    # Phi-3's own tokenizer swallows white space after its marks; GGUF has no key for that.
    keeps_space = {"<unk>", "<s>", "<|endoftext|>"}
    strips = (
        metadata.get("general.architecture") == "phi3"
        and metadata.get("tokenizer.ggml.model") == "llama"
    )
    literal = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)
    added = {i: tokens[i] for i, kind in enumerate(types) if kind in literal and tokens[i]}
    backend.add_tokens(
        [
            AddedToken(
                token,
                normalized=False,
                special=types[i] != TokenType.USER_DEFINED,
                rstrip=strips and token not in keeps_space,
            )
            for i, token in added.items()
        ]
    )
    return added


def _chat_templates(metadata: Mapping[str, object]) -> dict[str, str]:
    prefix = "tokenizer.chat_template"
    found: dict[str, str] = {}
    for key, value in metadata.items():
        if isinstance(value, str):
            if key == prefix:
                found["default"] = value
            elif key.startswith(prefix + "."):
                found[key.removeprefix(prefix + ".")] = value
    return found


def _array(metadata: Mapping[str, object], key: str) -> Sequence[object]:
    value = metadata.get(key)
    if value is None:
        raise ModelCorrupt(f"the GGUF file has a tokenizer but no {key}")
    if isinstance(value, str | bytes) or not hasattr(value, "__len__"):
        raise ModelCorrupt(f"{key} in the GGUF file is {type(value).__name__}, expected an array")
    if hasattr(value, "tolist"):  # a NumPy array: the library wants plain numbers
        return cast("Sequence[object]", value.tolist())
    return cast("Sequence[object]", value)


def _strings(metadata: Mapping[str, object], key: str) -> list[str]:
    values = list(_array(metadata, key))
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise ModelCorrupt(
                f"{key}[{index}] in the GGUF file is {type(value).__name__}, expected a string"
            )
    return cast("list[str]", values)


def _token_types(metadata: Mapping[str, object], count: int) -> Sequence[int]:
    if "tokenizer.ggml.token_type" not in metadata:
        return [TokenType.NORMAL] * count
    types = cast("Sequence[int]", _array(metadata, "tokenizer.ggml.token_type"))
    if len(types) != count:
        raise ModelCorrupt(
            f"the GGUF file has {count} tokens but {len(types)} token types "
            "(tokenizer.ggml.token_type)"
        )
    return types


def _token_id(metadata: Mapping[str, object], name: str, count: int) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    value = metadata.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or not 0 <= value < count:
        raise ModelCorrupt(f"{key} in the GGUF file is {value!r}, expected an id below {count}")
    return value

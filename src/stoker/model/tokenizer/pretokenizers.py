"""The splitting rules that a GGUF file names in `tokenizer.ggml.pre`.

A byte-level BPE model was trained on text cut into words by a rule; merging across those cuts
gives other tokens than the model knows. GGUF stores only the rule's name. Each rule below is a
list of patterns applied one after another, each splitting further what the former left over.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex, normalizers, pre_tokenizers

from stoker.errors import UnsupportedModel

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_REST_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = r"[^\r\n\p{L}\p{N}]?" + _UPPER + "*" + _LOWER + "+"
_CAPITALS = r"[^\r\n\p{L}\p{N}]?" + _UPPER + "+" + _LOWER + "*"
_LLAMA3 = "|".join([_CONTRACTION, _WORD, r"\p{N}{1,3}", _REST])
_QWEN2 = "|".join([_CONTRACTION, _WORD, r"\p{N}", _REST])
_TEKKEN = "|".join([_CASED, _CAPITALS, r"\p{N}", _REST_SLASH])
_GPT4O = "|".join(
    [_CASED + _CONTRACTION + "?", _CAPITALS + _CONTRACTION + "?", r"\p{N}{1,3}", _REST_SLASH]
)


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """A named rule and what comes with it."""

    patterns: tuple[str, ...]
    whole_words: bool = False
    """A word that is itself a token is taken as it is, whatever the merges say."""
    add_bos: bool = False
    """Begin a text with BOS unless the file says otherwise."""
    nfc: bool = False
    """Compose characters (Unicode NFC) before splitting."""

    def build(self) -> pre_tokenizers.PreTokenizer:
        """The rule for the `tokenizers` library: split, then spell as byte-level characters."""
        steps: list[pre_tokenizers.PreTokenizer] = [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in self.patterns
        ]
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
        return pre_tokenizers.Sequence(steps)

    def normalizer(self) -> normalizers.Normalizer | None:
        return normalizers.NFC() if self.nfc else None


_DIGITS_THEN_GPT2 = PreTokenizer((r"\p{N}", _GPT2))
_GPT2_RULE = PreTokenizer((_GPT2,))
_LLAMA3_RULE = PreTokenizer((_LLAMA3,), whole_words=True, add_bos=True)

PRE_TOKENIZERS = {
    "default": _GPT2_RULE,
    "gpt-2": _GPT2_RULE,
    "smollm": _DIGITS_THEN_GPT2,
    "starcoder": _DIGITS_THEN_GPT2,
    "llama-bpe": _LLAMA3_RULE,
    "llama3": _LLAMA3_RULE,
    "llama-v3": _LLAMA3_RULE,
    "falcon3": _LLAMA3_RULE,
    "pixtral": _LLAMA3_RULE,
    "dbrx": PreTokenizer((_LLAMA3,)),
    "smaug-bpe": PreTokenizer((_LLAMA3,)),
    "qwen2": PreTokenizer((_QWEN2,), nfc=True),
    "deepseek-r1-qwen": PreTokenizer((_QWEN2,)),
    "megrez": PreTokenizer((_QWEN2,)),
    "tekken": PreTokenizer((_TEKKEN,), whole_words=True, add_bos=True),
    "gpt-4o": PreTokenizer((_GPT4O,)),
}
"""Rule by its name in `tokenizer.ggml.pre`. A file without the name predates it: `default`."""


def pre_tokenizer(name: str) -> PreTokenizer:
    """The rule called `name`. Raises `UnsupportedModel` with the known names."""
    rule = PRE_TOKENIZERS.get(name)
    if rule is None:
        raise UnsupportedModel(
            f"the GGUF file asks for the pre-tokenizer {name!r} (tokenizer.ggml.pre), which Stoker "
            f"does not know; known are {', '.join(sorted(PRE_TOKENIZERS))}. A directory with the "
            "model's tokenizer.json would work"
        )
    return rule

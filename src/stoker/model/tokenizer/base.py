"""`Tokenizer`: the one class through which the rest of Stoker sees text and tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from stoker.errors import InvalidRequest, ModelNotFound, UnsupportedModel
from stoker.model.tokenizer.parts import TokenizerParts
from stoker.model.tokenizer.vocabulary import TokenEncoding, Vocabulary


class Tokenizer:
    """Text ↔ token ids for one model. Immutable; threads may share it."""

    def __init__(self, parts: TokenizerParts) -> None:
        self._backend = parts.backend
        self._prefix = list(parts.prefix)
        self._suffix = list(parts.suffix)
        self._tokens = parts.tokens
        self._vocabulary = (
            Vocabulary(parts.tokens, parts.encoding, parts.added)
            if parts.encoding is not None
            else None
        )
        self.bos_token_id = parts.bos_id
        self.eos_token_id = parts.eos_id
        """The end token that chat templates mean by `eos_token`."""
        self.eos_token_ids = parts.eos_ids
        """Every token that ends an answer: end of text, of turn, of message."""
        self.special_ids = parts.special_ids
        self.strip_leading_space = parts.strip_leading_space
        self.chat_templates = parts.chat_templates

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """The tokenizer of a Hugging Face directory or of a GGUF file.

        Raises `ModelNotFound` if there is none at `path`, `ModelCorrupt` if it cannot be read,
        `UnsupportedModel` if it is of a kind we do not know.
        """
        path = Path(path)
        if path.is_dir():
            from stoker.model.tokenizer.hf import read_directory

            return cls(read_directory(path))
        if not path.is_file():
            raise ModelNotFound(
                f"there is no tokenizer at {path}: expected a GGUF file or a directory with "
                "tokenizer.json"
            )
        from stoker.model.weights.gguf import GGUFFile

        return cls.from_gguf(GGUFFile(path).metadata)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, object]) -> Tokenizer:
        """The tokenizer described by a GGUF file's `tokenizer.*` metadata."""
        from stoker.model.tokenizer.gguf import read_metadata

        return cls(read_metadata(metadata))

    @property
    def vocab_size(self) -> int:
        """One more than the highest token id. A model's embedding table may be longer."""
        return len(self._tokens)

    @property
    def encoding(self) -> TokenEncoding | None:
        """How the vocabulary spells bytes, if in a way we know."""
        return None if self._vocabulary is None else self._vocabulary.encoding

    @property
    def vocabulary(self) -> Vocabulary:
        """Token id → bytes. Raises `UnsupportedModel` for a vocabulary we cannot spell."""
        if self._vocabulary is None:
            raise UnsupportedModel(
                "this tokenizer's decoder is neither byte-level BPE nor SentencePiece, so its "
                "tokens cannot be turned into text one by one; it cannot be used to generate"
            )
        return self._vocabulary

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the model's chat template, None if it has none."""
        return self.chat_templates.get("default")

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`; special tokens written out in it become those tokens.

        `add_special_tokens` begins (and for some models ends) it as the model was trained;
        rendered chat templates already contain those marks. Raises `InvalidRequest` if `text`
        is not valid Unicode (lone surrogates).
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"the text holds a lone surrogate (U+{ord(text[error.start]):04X} at character "
                f"{error.start}), which is not valid Unicode"
            ) from None
        # Unlike `encode`, this lets other threads run meanwhile and works out no offsets.
        (encoded,) = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids: list[int] = encoded.ids
        if add_special_tokens and (self._prefix or self._suffix):
            return [*self._prefix, *ids, *self._suffix]
        return ids

    def decode(
        self,
        ids: Iterable[int],
        *,
        skip_special_tokens: bool = True,
        continuation: bool = False,
    ) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD, ids without a token nothing.

        `continuation` says that the ids follow others, so a leading space belongs to the text.
        """
        spell = self.vocabulary.token_bytes
        special = self.special_ids if skip_special_tokens else frozenset()
        text = b"".join([spell(i) for i in ids if i not in special]).decode("utf-8", "replace")
        if self.strip_leading_space and not continuation:
            return text.removeprefix(" ")
        return text

    def token_bytes(self, token_id: int) -> bytes:
        """The raw bytes a token stands for; empty for an id that has no token."""
        return self.vocabulary.token_bytes(token_id)

    def id_to_token(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it (`Ġthe`, `▁the`, `<|im_end|>`)."""
        return self._tokens[token_id] if 0 <= token_id < len(self._tokens) else None

    def token_to_id(self, token: str) -> int | None:
        """The id of a token spelled as in the vocabulary, None if there is none."""
        found: int | None = self._backend.token_to_id(token)
        return found

"""A tokenizer from a Hugging Face model directory.

`tokenizer.json` is read whole by the `tokenizers` library. Around it lie facts in other files:
special tokens and the chat template in `tokenizer_config.json`, the ids that end an answer in
`generation_config.json` or `config.json`. GPT-2's original pair `vocab.json` + `merges.txt` is
understood too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, models

from stoker.errors import ModelCorrupt, ModelNotFound
from stoker.model.tokenizer.parts import TokenizerParts
from stoker.model.tokenizer.pretokenizers import pre_tokenizer
from stoker.model.tokenizer.vocabulary import TokenEncoding
from stoker.model.weights.files import read_json

Json = Mapping[str, object]

_ID_LIMIT = 1 << 24
"""Far above any vocabulary; a table is made as long as the highest id."""


def read_directory(directory: Path) -> TokenizerParts:
    """Build the tokenizer of the model in `directory`.

    Raises `ModelNotFound` if it holds none, `ModelCorrupt` if a file cannot be read.
    """
    config = _read_json(directory / "tokenizer_config.json")
    if (directory / "tokenizer.json").is_file():
        backend = _read_backend(directory / "tokenizer.json")
        encoding, strip_leading_space = _decoding(backend)
    elif (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
        backend = _read_gpt2(directory)
        encoding, strip_leading_space = TokenEncoding.BYTE_LEVEL, False
    else:
        raise ModelNotFound(
            f"{directory} holds no tokenizer: expected tokenizer.json, or vocab.json with "
            "merges.txt. A SentencePiece tokenizer.model must be converted to tokenizer.json"
        )
    backend.no_truncation()
    backend.no_padding()
    _add_declared_tokens(backend, config)

    vocab = backend.get_vocab(with_added_tokens=True)
    highest = max(vocab.values(), default=-1)
    if highest >= _ID_LIMIT:
        raise ModelCorrupt(f"the tokenizer in {directory} has a token with the id {highest}")
    tokens: list[str | None] = [None] * (highest + 1)
    for token, index in vocab.items():
        tokens[index] = token
    added = backend.get_added_tokens_decoder()

    bos_ids = _special_ids(directory, backend, "bos")
    eos_ids = _special_ids(directory, backend, "eos")
    return TokenizerParts(
        backend=backend,
        tokens=tokens,
        encoding=encoding,
        added={index: token.content for index, token in added.items()},
        special_ids=frozenset(index for index, token in added.items() if token.special),
        bos_id=bos_ids[0] if bos_ids else None,
        eos_id=eos_ids[0] if eos_ids else None,
        eos_ids=frozenset(eos_ids),
        strip_leading_space=strip_leading_space,
        chat_templates=_chat_templates(directory, config),
    )


def _special_ids(directory: Path, backend: Tokenizer, name: str) -> list[int]:
    """Every id the files give for `bos` or `eos`, that of the tokenizer's own files first."""
    ids: list[object] = []
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _token_text(_read_json(directory / file).get(f"{name}_token"))
        if token is not None:
            ids.append(backend.token_to_id(token))
    for file in ("generation_config.json", "config.json"):
        declared = _read_json(directory / file).get(f"{name}_token_id")
        ids += declared if isinstance(declared, list) else [declared]
    return [index for index in ids if isinstance(index, int) and index >= 0]


def _read_backend(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ModelCorrupt(f"{path} is not a tokenizer the library can read: {error}") from error


def _read_gpt2(directory: Path) -> Tokenizer:
    try:
        model = models.BPE.from_file(str(directory / "vocab.json"), str(directory / "merges.txt"))
    except Exception as error:  # the library raises bare Exception
        raise ModelCorrupt(
            f"vocab.json and merges.txt in {directory} cannot be read: {error}"
        ) from error
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizer("gpt-2").build()
    if backend.token_to_id("<|endoftext|>") is not None:
        backend.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])
    return backend


def _decoding(backend: Tokenizer) -> tuple[TokenEncoding | None, bool]:
    """How tokens spell bytes, and whether a leading space is taken away, from the decoder."""
    decoder = backend.decoder
    if decoder is None:
        return None, False
    description = json.loads(decoder.__getstate__())
    steps = description["decoders"] if description["type"] == "Sequence" else [description]
    kinds = [step["type"] for step in steps]
    if "ByteLevel" in kinds:
        return TokenEncoding.BYTE_LEVEL, False
    if "Metaspace" in kinds:
        scheme = steps[kinds.index("Metaspace")].get("prepend_scheme", "always")
        return TokenEncoding.SENTENCEPIECE, scheme != "never"
    if "ByteFallback" in kinds:
        strip = any(s["type"] == "Strip" and s["content"] == " " and s["start"] for s in steps)
        return TokenEncoding.SENTENCEPIECE, strip
    return None, False


def _add_declared_tokens(backend: Tokenizer, config: Json) -> None:
    """Tokens that tokenizer_config.json declares and tokenizer.json may lack."""
    declared = config.get("added_tokens_decoder")
    if not isinstance(declared, dict):
        return
    known = backend.get_added_tokens_decoder()
    missing: list[tuple[int, AddedToken]] = []
    for key, value in declared.items():
        if not (str(key).isdecimal() and isinstance(value, dict) and "content" in value):
            raise ModelCorrupt(
                f"added_tokens_decoder[{key!r}] in tokenizer_config.json is {value!r}"
            )
        if int(key) not in known:
            flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
            token = AddedToken(
                str(value["content"]), **{f: bool(value[f]) for f in flags if f in value}
            )
            missing.append((int(key), token))
    missing.sort(key=lambda item: item[0])
    backend.add_tokens([token for _, token in missing])
    for index, token in missing:
        if backend.token_to_id(token.content) != index:
            raise ModelCorrupt(
                f"tokenizer_config.json gives {token.content!r} the id {index}, but tokenizer.json "
                f"leads to {backend.token_to_id(token.content)}"
            )


def _chat_templates(directory: Path, config: Json) -> dict[str, str]:
    """Every chat template of the model; a file of its own wins over tokenizer_config.json."""
    found: dict[str, str] = {}
    for source in (config, _read_json(directory / "chat_template.json")):
        template = source.get("chat_template")
        if isinstance(template, str):
            found["default"] = template
        elif isinstance(template, list):
            for entry in template:
                if isinstance(entry, dict) and isinstance(entry.get("template"), str):
                    found[str(entry.get("name"))] = entry["template"]
    files = {"default": directory / "chat_template.jinja"}
    files |= {
        path.stem: path
        for path in sorted((directory / "additional_chat_templates").glob("*.jinja"))
    }
    for name, file in files.items():
        if file.is_file():
            found[name] = _read_text(file)
    return found


def _token_text(value: object) -> str | None:
    """A special token is written as a string or as an object with its content."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _read_json(path: Path) -> Json:
    """The object in a JSON file, or an empty one if there is no such file."""
    return read_json(path) if path.is_file() else {}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelCorrupt(f"{path} is not UTF-8 text: {error}") from None

"""A model that costs nothing: a byte-level tokenizer and a runner that computes letters.

The next letter is a function of the last token, its position and (when not greedy) the seed, so
an answer does not depend on what else is in the batch, as with the real runners.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers

from stoker.engine.async_engine import AsyncEngine
from stoker.engine.config import EngineConfig
from stoker.engine.engine import Engine
from stoker.engine.kv_events import KVEventListener
from stoker.model.spec import LayerSpec, ModelSpec
from stoker.model.template import ChatTemplate
from stoker.model.tokenizer import Tokenizer
from stoker.model.tokenizer.parts import TokenizerParts
from stoker.model.tokenizer.vocabulary import TokenEncoding, byte_alphabet
from stoker.runner.base import Batch, CacheConfig, StepResult, TopLogprobs
from stoker.server.load import observe
from stoker.server.state import ServedModel
from stoker.telemetry.metrics import EngineMetrics
from stoker.telemetry.tracing.export import Tracing

CHATML = (
    "{% for message in messages %}"
    "{% if message.content == 'refuse' %}{{ raise_exception('I will not.') }}{% endif %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END = 258
"""The id of `<|im_end|>`."""
VOCABULARY = 259
HIDDEN = 4
BROKEN = ord("!")
"""After this token the numbers are not finite."""


def byte_tokenizer(template: str = CHATML) -> Tokenizer:
    """Every byte a token, and ChatML's marks."""
    letters = sorted(byte_alphabet(), key=byte_alphabet().__getitem__)
    tokens = [*letters, *SPECIAL]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIAL))
    return Tokenizer(
        TokenizerParts(
            backend=backend,
            tokens=tokens,
            encoding=TokenEncoding.BYTE_LEVEL,
            added={256 + i: token for i, token in enumerate(SPECIAL)},
            special_ids=frozenset({256, 257, 258}),
            bos_id=None,
            eos_id=END,
            eos_ids=frozenset({256, 258}),
            strip_leading_space=False,
            chat_templates={"default": template},
        )
    )


@dataclass(eq=False)
class LetterRunner:
    """Computes letters; `delay` seconds a step, and no step while `gate` is closed.

    With an `answer` it says that instead; with a mask, what the mask allows.
    """

    spec: ModelSpec
    cache: CacheConfig
    gate: threading.Event
    delay: float = 0.0
    answer: str | None = None
    last: tuple[Batch, NDArray[np.int32]] = field(init=False)

    def run(self, batch: Batch) -> StepResult:
        self.gate.wait()
        if self.delay:
            time.sleep(self.delay)
        if batch.before_sampling is not None:
            batch.before_sampling()
        sample = batch.sample
        positions = self._positions(batch)[sample.rows].astype(np.int64)
        last = batch.token_ids[sample.rows].astype(np.int64)
        mixed = last * 7919 + positions * 104729
        hot = sample.temperature > 0
        mixed += np.where(hot, sample.seeds.astype(np.int64) % 1_000_003 * 31, 0)
        tokens = 97 + np.abs(mixed) % 26
        tokens = np.where(np.abs(mixed) % 61 == 60, END, tokens).astype(np.int32)
        if self.answer is not None:
            script = [*self.answer.encode(), END]
            tokens = np.array([script[min(i, len(script) - 1)] for i in sample.steps], np.int32)
        for row, extras in enumerate(sample.extras):
            if extras is not None and extras.banned_ids is not None and END in extras.banned_ids:
                tokens[row] = 97 if tokens[row] == END else tokens[row]
            if extras is not None and extras.allowed_mask is not None:
                said = int(tokens[row]) if self.answer is not None else -1
                tokens[row] = _allowed(extras.allowed_mask, said, int(mixed[row]))
        tokens[last == BROKEN] = -1
        scores = None
        if batch.score is not None:
            scores = _table(batch.score.targets, batch.score.num_logprobs)
        embeddings = None
        if batch.embed_rows is not None:
            waves = batch.token_ids[:, None] * np.arange(1.0, HIDDEN + 1)
            embeddings = np.cos(waves).astype(np.float32)[batch.embed_rows]
        self.last = batch, tokens
        return StepResult(tokens, _table(tokens, sample.num_logprobs), scores, embeddings)

    def run_next(self, block_tables: NDArray[np.int32] | None) -> StepResult:
        batch, sampled = self.last
        return self.run(batch.next(sampled, block_tables))

    @staticmethod
    def _positions(batch: Batch) -> NDArray[np.int32]:
        counts = np.diff(batch.query_starts)
        begin = np.repeat(batch.context_lens - batch.query_starts[:-1], counts)
        return (begin + np.arange(len(batch.token_ids))).astype(np.int32)

    def close(self) -> None:
        pass


def _allowed(mask: NDArray[np.uint32], said: int, wanted: int) -> int:
    """`said`, or else another token that the mask allows: what closes and ends, often."""
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[:VOCABULARY]
    allowed: list[int] = np.flatnonzero(bits).tolist()
    if said in allowed:
        return said
    closing = [token for token in allowed if token >= 256 or token in b'"]}>']
    others = [token for token in allowed if token not in closing]
    letters = [token for token in others if token < 128 and chr(token).isalnum()]
    among = closing if closing and wanted % 3 == 0 else letters or others or closing
    if not among:
        return -1
    return among[wanted // 3 % len(among)]


def _table(tokens: NDArray[np.int32], wanted: NDArray[np.int32]) -> TopLogprobs | None:
    """The token itself is always the likeliest; after it come the next ids."""
    if len(wanted) == 0 or wanted.max() < 0:
        return None
    count = int(wanted.max())
    ids = (tokens[:, None] + np.arange(count)[None, :]) % VOCABULARY
    logprobs = np.broadcast_to(-0.5 - np.arange(count), ids.shape)
    return TopLogprobs(
        chosen=np.full(len(tokens), -0.5, np.float32),
        ranks=np.ones(len(tokens), np.int32),
        ids=ids.astype(np.int32),
        logprobs=logprobs.astype(np.float32),
    )


def letter_model(
    config: EngineConfig | None = None,
    *,
    num_blocks: int = 512,
    max_position: int = 1024,
    delay: float = 0.0,
    gate: threading.Event | None = None,
    template: str = CHATML,
    answer: str | None = None,
    kv_listener: KVEventListener | None = None,
    tracing: Tracing | None = None,
) -> ServedModel:
    """A served model that computes letters, or says `answer` as far as it may."""
    if gate is None:
        gate = threading.Event()
        gate.set()
    spec = ModelSpec(
        architecture="letters",
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=1,
        max_position=max_position,
        layers=(LayerSpec(),),
    )
    tokenizer = byte_tokenizer(template)
    engine = Engine(
        LetterRunner(spec, CacheConfig(num_blocks), gate, delay, answer),
        tokenizer,
        config or EngineConfig(seed=1),
        kv_listener=kv_listener,
    )
    metrics = EngineMetrics(
        engine.stats,
        model_name="letters",
        max_model_len=engine.max_model_len,
        cache_config={"block_size": "16", "num_gpu_blocks": str(num_blocks)},
    )
    tracer = observe(engine, metrics, tracing, "letters")
    return ServedModel(
        engine=AsyncEngine(engine),
        tokenizer=tokenizer,
        template=ChatTemplate.of(tokenizer),
        max_model_len=engine.max_model_len,
        metrics=metrics,
        tracer=tracer,
    )

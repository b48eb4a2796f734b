"""A runner and a tokenizer small enough to know every answer beforehand.

`ContextRunner` keeps no keys and values: its cache holds, at each (block, slot), the id of the
token that was written there. To compute a row it reads the row's whole context back through the
block table and derives the logits from it. A block that is shared wrongly, written without being
copied, reused too early or never filled therefore changes an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers

from stoker.engine.config import EngineConfig
from stoker.engine.engine import Engine
from stoker.engine.kv_events import KVEventListener
from stoker.engine.outputs import RequestOutput
from stoker.engine.sampling_params import BeamSearchParams, RequestOutputKind, SamplingParams
from stoker.model.spec import LayerSpec, ModelSpec
from stoker.model.tokenizer import Tokenizer
from stoker.model.tokenizer.parts import TokenizerParts
from stoker.model.tokenizer.vocabulary import TokenEncoding, byte_alphabet
from stoker.runner.base import Batch, CacheConfig, SampleExtras, StepResult, TopLogprobs

EOS = 256
VOCAB_SIZE = 257
_EMPTY = -1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def tiny_spec(max_position: int = 4096) -> ModelSpec:
    return ModelSpec(
        architecture="double",
        vocab_size=VOCAB_SIZE,
        hidden_size=4,
        intermediate_size=4,
        num_heads=1,
        num_kv_heads=1,
        head_dim=4,
        max_position=max_position,
        layers=(LayerSpec(),),
    )


def byte_tokenizer() -> Tokenizer:
    """One token per byte, and one that ends an answer."""
    characters = {byte: char for char, byte in byte_alphabet().items()}
    tokens = [characters[byte] for byte in range(256)]
    backend = tokenizers.Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(
        TokenizerParts(
            backend=backend,
            tokens=[*tokens, "<end>"],
            encoding=TokenEncoding.BYTE_LEVEL,
            added={EOS: "<end>"},
            special_ids=frozenset({EOS}),
            bos_id=None,
            eos_id=EOS,
            eos_ids=frozenset({EOS}),
            strip_leading_space=False,
            chat_templates={},
        )
    )


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def context_logits(context: NDArray[np.int32]) -> NDArray[np.float32]:
    """`[VOCAB_SIZE]` logits that depend on every token of the context and on its order."""
    with np.errstate(over="ignore"):
        places = _mix((np.arange(len(context), dtype=np.uint64) + np.uint64(1)) * _GOLDEN)
        key = _mix(((context.astype(np.uint64) + np.uint64(1)) * places).sum(keepdims=True))
        bits = _mix(key + np.arange(VOCAB_SIZE, dtype=np.uint64) * _GOLDEN)
    return (bits >> np.uint64(40)).astype(np.float32) / np.float32(2**22)


def _uniform(seed: int, step: int) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        key = _mix(np.array([seed], np.uint64) + np.uint64(step) * _GOLDEN)
        bits = _mix(key + np.arange(VOCAB_SIZE, dtype=np.uint64) * _GOLDEN)
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53


def _adjust(logits: NDArray[np.float32], extras: SampleExtras) -> NDArray[np.float32]:
    logits = logits.copy()
    if extras.has_penalties:
        assert extras.prompt_ids is not None
        assert extras.output_ids is not None
        counts = np.bincount(extras.output_ids, minlength=VOCAB_SIZE)
        seen = (counts > 0) | (np.bincount(extras.prompt_ids, minlength=VOCAB_SIZE) > 0)
        scale = np.where(logits > 0, 1 / extras.repetition_penalty, extras.repetition_penalty)
        logits = np.where(seen, logits * scale, logits).astype(np.float32)
        logits -= np.float32(extras.frequency_penalty) * counts.astype(np.float32)
        logits -= np.float32(extras.presence_penalty) * (counts > 0).astype(np.float32)
    if extras.bias_ids is not None:
        assert extras.bias_values is not None
        logits[extras.bias_ids] += extras.bias_values
    if extras.banned_ids is not None:
        logits[extras.banned_ids] = -np.inf
    if extras.allowed_mask is not None:
        allowed = np.unpackbits(extras.allowed_mask.view(np.uint8), bitorder="little")
        logits[allowed[:VOCAB_SIZE] == 0] = -np.inf
    return logits


class ContextRunner:
    """A `ModelRunner` whose answers are a function of the context it finds in its cache.

    `script` maps a prompt to the tokens that greedily follow it; -1 among them stands for a row
    whose logits are not finite.
    """

    def __init__(
        self,
        num_blocks: int = 64,
        block_size: int = 4,
        *,
        max_position: int = 4096,
        script: Mapping[Sequence[int], Sequence[int]] | None = None,
    ) -> None:
        self.spec = tiny_spec(max_position)
        self.cache = CacheConfig(num_blocks, block_size)
        self.cells = np.full((num_blocks, block_size), _EMPTY, np.int32)
        self.batches: list[Batch] = []
        self.num_followed = 0
        """Batches that were asked for as the step after the one before."""
        self._last: tuple[Batch, NDArray[np.int32]]
        self.closed = False
        self._script = {tuple(prompt): list(answer) for prompt, answer in (script or {}).items()}

    def run(self, batch: Batch) -> StepResult:
        self.batches.append(batch)
        for source, target in batch.block_copies if batch.block_copies is not None else ():
            self.cells[target] = self.cells[source]
        self._write(batch)
        needed = set(batch.sample.rows.tolist())
        if batch.score is not None:
            needed |= set(batch.score.rows.tolist())
        contexts = self._contexts(batch, needed)
        if batch.before_sampling is not None:
            batch.before_sampling()
        sample = batch.sample
        tokens = np.array([self._sample(batch, i, contexts) for i in range(len(sample))], np.int32)
        logprobs = scores = None
        if (sample.num_logprobs >= 0).any():
            logprobs = _top(contexts, sample.rows, tokens, sample.num_logprobs)
        if batch.score is not None:
            score = batch.score
            scores = _top(contexts, score.rows, score.targets, score.num_logprobs)
        self._last = batch, tokens
        return StepResult(tokens, logprobs, scores)

    def run_next(self, block_tables: NDArray[np.int32] | None) -> StepResult:
        batch, sampled = self._last
        self.num_followed += 1
        return self.run(batch.next(sampled, block_tables))

    def close(self) -> None:
        self.closed = True

    def _write(self, batch: Batch) -> None:
        size = self.cache.block_size
        written: set[tuple[int, int]] = set()
        for s in range(batch.num_sequences):
            start, end = batch.query_starts[s : s + 2].tolist()
            for i, token in enumerate(batch.token_ids[start:end].tolist()):
                block, cell = divmod(int(batch.context_lens[s]) + i, size)
                where = int(batch.block_tables[s, block]), cell
                assert where not in written, f"two sequences write {where}"
                written.add(where)
                self.cells[where] = token

    def _contexts(self, batch: Batch, needed: set[int]) -> dict[int, NDArray[np.int32]]:
        contexts = {}
        for s in range(batch.num_sequences):
            start, end = batch.query_starts[s : s + 2].tolist()
            held = self.cells[batch.block_tables[s]].reshape(-1)
            for row in range(start, end):
                if row in needed:
                    context = held[: int(batch.context_lens[s]) + row - start + 1]
                    assert (context != _EMPTY).all(), "a cell is read that was never written"
                    contexts[row] = context
        return contexts

    def _sample(self, batch: Batch, i: int, contexts: Mapping[int, NDArray[np.int32]]) -> int:
        sample = batch.sample
        context = contexts[int(sample.rows[i])]
        scripted = self._scripted(context)
        if scripted is not None:
            return scripted
        logits = context_logits(context)
        extras = sample.extras[i] if sample.extras else None
        if extras is not None:
            logits = _adjust(logits, extras)
            if not np.isfinite(logits).any():
                return -1
        temperature = float(sample.temperature[i])
        if temperature == 0:
            return int(logits.argmax())
        noise = -np.log(-np.log(_uniform(int(sample.seeds[i]), int(sample.steps[i]))))
        return int((logits / temperature + noise).argmax())

    def _scripted(self, context: NDArray[np.int32]) -> int | None:
        tokens = context.tolist()
        for prompt, answer in self._script.items():
            rest = tokens[len(prompt) :]
            if tuple(tokens[: len(prompt)]) == prompt and len(rest) < len(answer):
                return answer[len(rest)]
        return None


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()), np.float32)


def _top(
    contexts: Mapping[int, NDArray[np.int32]],
    rows: NDArray[np.int32],
    chosen: NDArray[np.int32],
    wanted: NDArray[np.int32],
) -> TopLogprobs:
    k = max(int(wanted.max()), 0)
    all_logprobs = np.array([log_softmax(context_logits(contexts[int(row)])) for row in rows])
    of_chosen = all_logprobs[np.arange(len(rows)), chosen]
    ids = np.argsort(-all_logprobs, axis=1, kind="stable")[:, :k].astype(np.int32)
    return TopLogprobs(
        chosen=of_chosen,
        ranks=(all_logprobs > of_chosen[:, None]).sum(axis=1).astype(np.int32) + 1,
        ids=ids,
        logprobs=np.take_along_axis(all_logprobs, ids.astype(np.int64), axis=1),
    )


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make_engine(
    num_blocks: int = 64,
    block_size: int = 4,
    *,
    runner: ContextRunner | None = None,
    clock: Clock | None = None,
    kv_listener: KVEventListener | None = None,
    **settings: Any,
) -> Engine:
    """An engine over a `ContextRunner`, with small defaults."""
    defaults: dict[str, Any] = {"max_num_seqs": 16, "max_num_batched_tokens": 64, "seed": 1}
    config = EngineConfig(**(defaults | settings))
    runner = runner or ContextRunner(num_blocks, block_size)
    return Engine(runner, byte_tokenizer(), config, clock=clock or Clock(), kv_listener=kv_listener)


def check(engine: Engine) -> None:
    """The engine's own checks, and that the cache holds the tokens of every running sequence."""
    engine.check()
    runner = engine.runner
    assert isinstance(runner, ContextRunner)
    for sequence in engine.scheduler.running:
        held = runner.cells[sequence.block_table].reshape(-1)[: sequence.num_computed]
        assert held.tolist() == sequence.tokens(0, sequence.num_computed).tolist()


def finish_all(engine: Engine, *, limit: int = 10_000) -> dict[str, RequestOutput]:
    """Step until nothing is left, checking after every step. The last output of each request;
    deltas are joined."""
    outputs: dict[str, RequestOutput] = {}
    for _ in range(limit):
        if not engine.has_unfinished:
            return outputs
        kinds = {name: request.output_kind for name, request in engine._requests.items()}
        for output in engine.step():
            name = output.request_id
            if name in outputs and kinds[name] is RequestOutputKind.DELTA:
                outputs[name].merge(output)
            else:
                outputs[name] = output
        check(engine)
    raise AssertionError("the engine does not come to an end")


def answer_alone(
    prompt: Sequence[int],
    params: SamplingParams | BeamSearchParams,
    **settings: Any,
) -> RequestOutput:
    """What a fresh engine with room for everything answers."""
    engine = make_engine(1024, 4, **settings)
    engine.submit("alone", prompt, params)
    return finish_all(engine)["alone"]

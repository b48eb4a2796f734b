"""`POST /v1/embeddings`: of an encoder, or of a decoder's pooled states."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import cast

import numpy as np
from fastapi import APIRouter, Request

from stoker.api.embeddings import Embedding, EmbeddingList, EmbeddingRequest, EmbeddingUsage
from stoker.api.errors import bad_request
from stoker.runner.base import Float32Array
from stoker.server.connection import while_connected
from stoker.server.generation import encode
from stoker.server.openapi import describe
from stoker.server.parse import parse_body
from stoker.server.state import ServedEncoder, ServedModel, state_of

router = APIRouter(tags=["embeddings"])


@router.post("/v1/embeddings", **describe(EmbeddingRequest, EmbeddingList))
async def create_embeddings(http: Request) -> EmbeddingList:
    """A vector of length 1 for each input."""
    state = state_of(http)
    model = state.ready_for_embeddings()
    request = await parse_body(http, EmbeddingRequest)
    name = state.check_name(request.model)
    prompts = await _tokens(model, request)
    size = model.hidden_size
    if request.dimensions is not None and request.dimensions > size:
        raise bad_request(
            f"'dimensions' is {request.dimensions}, but the model's embeddings have {size}.",
            param="dimensions",
        )
    vectors = await while_connected(http.receive, _embed(model, prompts, request))
    vectors = vectors[:, : request.dimensions]
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(lengths).all():
        raise bad_request("The model's numbers for this input are not finite.", param="input")
    vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    as_text = request.encoding_format == "base64"
    count = sum(map(len, prompts))
    return EmbeddingList(
        data=[
            Embedding(index=index, embedding=_base64(vector) if as_text else vector.tolist())
            for index, vector in enumerate(vectors)
        ],
        model=name,
        usage=EmbeddingUsage(prompt_tokens=count, total_tokens=count),
    )


async def _tokens(
    model: ServedModel | ServedEncoder, request: EmbeddingRequest
) -> list[Sequence[int]]:
    """Each input's tokens, checked against vocabulary and context."""
    given = request.input
    inputs: Sequence[object]
    inputs = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    found: list[Sequence[int]] = []
    for index, one in enumerate(inputs):
        if isinstance(one, str):
            tokens: Sequence[int] = await encode(model.tokenizer, one, add_special_tokens=True)
        else:
            tokens = cast(list[int], one)
        problem = None
        if not tokens:
            problem = "is empty"
        elif len(tokens) > model.max_model_len:
            problem = f"has {len(tokens)} tokens; the model takes {model.max_model_len}"
        elif max(tokens) >= model.vocab_size:
            problem = f"has the token {max(tokens)}; the vocabulary has {model.vocab_size}"
        if problem is not None:
            raise bad_request(f"'input[{index}]' {problem}.", param="input")
        found.append(tokens)
    return found


async def _embed(
    model: ServedModel | ServedEncoder, prompts: list[Sequence[int]], request: EmbeddingRequest
) -> Float32Array:
    if isinstance(model, ServedEncoder):
        async with model.turn:
            return await asyncio.to_thread(model.encoder.embed, prompts)
    return await model.engine.embed(prompts, request.pooling or "last")


def _base64(vector: Float32Array) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")

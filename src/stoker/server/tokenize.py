"""`/tokenize`, `/detokenize`, `/tokenizer_info`: the model's tokenizer, for clients that count."""

from __future__ import annotations

from fastapi import APIRouter, Request

from stoker.api.tokenize import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
    TokenizerInfo,
)
from stoker.server.generation import encode
from stoker.server.openapi import describe, errors
from stoker.server.parse import parse_body
from stoker.server.render import render_messages
from stoker.server.state import state_of

router = APIRouter(tags=["tokenizer"])


@router.post("/tokenize", **describe(TokenizeRequest, TokenizeResponse))
async def tokenize(http: Request) -> TokenizeResponse:
    """Token ids of a text or of a conversation."""
    state = state_of(http)
    model = state.ready()
    request = await parse_body(http, TokenizeRequest)
    state.check_name(request.model)
    if request.messages is None:
        text, special = request.prompt or "", request.add_special_tokens is not False
    else:
        text = render_messages(
            model.template,
            request.messages,
            add_generation_prompt=request.add_generation_prompt is not False,
            variables=request.chat_template_kwargs,
        )
        special = request.add_special_tokens is True
    tokens = await encode(model.tokenizer, text, add_special_tokens=special)
    strings = None
    if request.return_token_strs:
        strings = [model.tokenizer.id_to_token(token) or "" for token in tokens]
    return TokenizeResponse(
        count=len(tokens), max_model_len=model.max_model_len, tokens=tokens, token_strs=strings
    )


@router.post("/detokenize", **describe(DetokenizeRequest, DetokenizeResponse))
async def detokenize(http: Request) -> DetokenizeResponse:
    """Text of token ids, special tokens included."""
    state = state_of(http)
    model = state.ready()
    request = await parse_body(http, DetokenizeRequest)
    state.check_name(request.model)
    return DetokenizeResponse(
        prompt=model.tokenizer.decode(request.tokens, skip_special_tokens=False)
    )


@router.get("/tokenizer_info", responses=errors(400, 401, 503))
async def tokenizer_info(http: Request) -> TokenizerInfo:
    """The special tokens and the chat template."""
    model = state_of(http).ready()
    tokenizer = model.tokenizer
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return TokenizerInfo(
        vocab_size=tokenizer.vocab_size,
        model_max_length=model.max_model_len,
        bos_token=None if bos is None else tokenizer.id_to_token(bos),
        eos_token=None if eos is None else tokenizer.id_to_token(eos),
        chat_template=model.template.default,
    )

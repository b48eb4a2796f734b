"""`GET /v1/models` and `GET /v1/models/{id}`: what this server answers for."""

from __future__ import annotations

from fastapi import APIRouter, Request

from stoker.api.openai import ModelCard, ModelList, ModelMeta
from stoker.server.openapi import errors
from stoker.server.state import ServerState, state_of

router = APIRouter(tags=["models"])


@router.get("/v1/models", responses=errors(401, 503))
async def list_models(http: Request) -> ModelList:
    """Every name the model is served under."""
    state = state_of(http)
    return ModelList(data=[_card(state, name) for name in state.config.served_names])


@router.get("/v1/models/{name:path}", responses=errors(401, 404, 503))
async def show_model(http: Request, name: str) -> ModelCard:
    """One served model."""
    state = state_of(http)
    return _card(state, state.check_name(name))


def _card(state: ServerState, name: str) -> ModelCard:
    model = state.ready_for_embeddings()
    return ModelCard(
        id=name,
        created=model.created,
        root=state.config.served_names[0],
        max_model_len=model.max_model_len,
        meta=ModelMeta(
            n_vocab=model.spec.vocab_size,
            n_ctx=model.max_model_len,
            n_ctx_train=model.spec.max_position,
            n_embd=model.spec.hidden_size,
            n_layer=model.spec.num_layers,
            size=model.weight_bytes,
        ),
    )

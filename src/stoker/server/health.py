"""Whether the server lives and how busy it is: `/health`, `/ping`, `/load`, `/version`."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel

from stoker import __version__
from stoker.api.errors import unavailable
from stoker.server.openapi import errors
from stoker.server.state import ServedEncoder, state_of

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: str


class Load(BaseModel):
    server_load: int
    """Requests being answered now (vLLM's field)."""


class Version(BaseModel):
    version: str


@router.get("/health", responses=errors(503))
@router.get("/ping", responses=errors(503))
async def health(http: Request) -> Health:
    """200 when requests are taken and the step loop steps; 503 with the reason otherwise."""
    state = state_of(http)
    model = state.ready_for_embeddings()
    if isinstance(model, ServedEncoder):
        return Health(status="ok")
    engine = model.engine.health()
    if not engine.running:
        raise unavailable(
            f"The engine has stopped: {engine.error or 'it was shut down'}.", code="engine_stopped"
        )
    if engine.seconds_since_progress > state.config.stall_timeout:
        raise unavailable(
            f"The engine has work but made no step for {engine.seconds_since_progress:.0f} s.",
            code="engine_stalled",
        )
    return Health(status="ok")


@router.get("/load", responses=errors(401))
async def load(http: Request) -> Load:
    """How many requests are being answered."""
    return Load(server_load=state_of(http).active)


@router.get("/version")
async def version() -> Version:
    """Stoker's version."""
    return Version(version=__version__)

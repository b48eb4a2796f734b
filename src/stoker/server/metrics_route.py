"""`GET /metrics`, in Prometheus' text format."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from stoker.server.state import state_of
from stoker.telemetry.metrics import CONTENT_TYPE, exposition


class MetricsText(Response):
    media_type = CONTENT_TYPE


router = APIRouter(tags=["metrics"])


@router.get("/metrics", response_class=MetricsText)
async def metrics(http: Request) -> Response:
    """The engine's metrics; empty until the model is loaded."""
    model = state_of(http).model
    text = exposition(model.metrics) if model is not None else b""
    return MetricsText(text)

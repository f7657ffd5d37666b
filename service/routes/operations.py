"""Whether the service lives, whether it is ready, and what it is."""

import asyncio

from fastapi import APIRouter, Request, Response

from service.errors import NotReady, error_body
from service.routes.calls import Ready, json_response
from service.runtime import Runtime
from service.schemas import ErrorBody, Info, State
from service.version import VERSION

router = APIRouter(tags=["operations"])

FORWARD_MAX_AGE_S = 10.0
FORWARD_TIMEOUT_S = 5.0


@router.get("/livez", response_model=State)
async def livez() -> Response:
    """Say that the process turns."""
    return json_response({"status": "alive"})


@router.get("/readyz", response_model=State, responses={503: {"model": ErrorBody}})
async def readyz(request: Request) -> Response:
    """Say that a real forward pass succeeded lately, or 503 with the reason why not."""
    state = request.app.state
    runtime: Runtime | None = state.runtime
    reason = state.reason if runtime is None or state.is_draining else None
    if reason is None and runtime is not None:
        reason = await asyncio.to_thread(runtime.check_forward, FORWARD_MAX_AGE_S, FORWARD_TIMEOUT_S)
    if reason is not None:
        return json_response(error_body(reason, NotReady.error_type), 503, {"Retry-After": "2"})
    return json_response({"status": "ready"})


@router.get("/info", response_model=Info)
async def info(runtime: Ready) -> Response:
    """Say what is running: version, device, models, limits."""
    settings, encoder, defaults = runtime.settings, runtime.encoder, runtime.defaults
    return json_response(
        {
            "name": "moverank",
            "version": VERSION,
            "device": encoder.device,
            "models": [
                {
                    "name": encoder.folder.path.name,
                    "fingerprint": encoder.fingerprint,
                    "dim": encoder.dim,
                    "max_tokens": encoder.max_tokens,
                    "token_vectors": encoder.folder.token_vectors,
                    "token_codec": runtime.codec.name,
                    "retrieve": defaults.retrieve,
                    "weight": defaults.weight,
                    "lexical_weight": defaults.lexical_weight,
                }
            ],
            "limits": {name: value for name, value in settings.model_dump().items() if name.startswith("max_")},
            "collections": len(runtime.library.names()),
            "jobs": runtime.jobs.counts(),
        }
    )

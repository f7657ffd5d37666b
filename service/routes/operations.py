"""Whether the service lives, whether it is ready, and what it is."""

import asyncio
import logging

from fastapi import APIRouter, Request, Response

from service.errors import NotReady, error_body
from service.metrics import CONTENT_TYPE
from service.routes.calls import Ready, json_response
from service.runtime import Runtime
from service.schemas import ErrorBody, Info, State
from service.tei_info import tei_info
from service.version import VERSION

router = APIRouter(tags=["operations"])
log = logging.getLogger(__name__)

FORWARD_MAX_AGE_S = 10.0
FORWARD_TIMEOUT_S = 5.0


@router.head("/livez", include_in_schema=False)
@router.get("/livez", response_model=State, responses={503: {"model": ErrorBody}})
async def livez(request: Request) -> Response:
    """Say that the process turns; 503 only where nothing but a new process can help."""
    runtime: Runtime | None = request.app.state.runtime
    if runtime is not None and runtime.queue.is_beyond_repair:
        return json_response(error_body(str(runtime.queue.trouble), NotReady.error_type), 503)
    return json_response({"status": "alive"})


# The class says nothing of a type: errors of these routes stay JSON in the schema.
@router.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
)
async def metrics(request: Request) -> Response:
    """Answer what Prometheus asks for."""
    exposed = await asyncio.to_thread(request.app.state.metrics.expose)
    return Response(exposed, headers={"Content-Type": CONTENT_TYPE})


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", response_model=State, responses={503: {"model": ErrorBody}})
async def readyz(request: Request) -> Response:
    """Say that a real forward pass succeeded lately, or 503 with the reason why not."""
    return await not_ready(request) or json_response({"status": "ready"})


async def not_ready(request: Request) -> Response | None:
    """Return None if a real forward pass succeeded lately, else an answer with the reason why not."""
    state = request.app.state
    runtime: Runtime | None = state.runtime
    reason = state.reason if runtime is None or state.is_draining else None
    if reason is None and runtime is not None:
        reason = await asyncio.to_thread(runtime.check_forward, FORWARD_MAX_AGE_S, FORWARD_TIMEOUT_S)
    if reason != state.said_reason:
        state.said_reason = reason
        log.log(
            logging.INFO if reason is None else logging.WARNING, "ready" if reason is None else f"not ready: {reason}"
        )
    if reason is None:
        return None
    return json_response(error_body(reason, NotReady.error_type), 503, {"Retry-After": "2"})


@router.get("/info", response_model=Info)
async def info(runtime: Ready) -> Response:
    """Say what is running: version, device, models, limits; and the same once more in the words of TEI."""
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
                    "by_length": [[ratio, *shares] for ratio, shares in defaults.shares.points],
                }
            ],
            "limits": {name: value for name, value in settings.model_dump().items() if name.startswith("max_")},
            "collections": len(runtime.library.names()),
            "graphs": len(runtime.graphs.names()),
            "lookup_model": runtime.lookup_model,
            "jobs": runtime.jobs.counts(),
        }
        | tei_info(runtime, "embedding", "reranker")
    )

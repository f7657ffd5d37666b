"""Similar questions of a text."""

from fastapi import APIRouter, Request, Response

from service.document_rules import wrong_text
from service.errors import Conflict, InvalidRequest, NotReady
from service.observability import note
from service.paraphrase_schemas import ParaphrasesBody, ParaphrasesResult
from service.paraphrases import Sampling
from service.routes.calls import JsonRoute, Ready, capped, check_most, json_response, timing_header, wait_for
from service.timings import Timings, deadline_in

router = APIRouter(prefix="/v1", tags=["paraphrases"], route_class=JsonRoute)


@router.post("/paraphrases", response_model=ParaphrasesResult)
async def post_paraphrases(request: Request, runtime: Ready, body: ParaphrasesBody) -> Response:
    """Write texts that ask the same, ranked by cosine, without repetitions of the input."""
    timings = Timings()
    settings = runtime.settings
    samples = capped(body, "samples", settings.max_samples)
    check_most("samples", samples, "max_samples", settings.max_samples)
    if fault := wrong_text(body.text, runtime.limits):
        raise InvalidRequest(f"text: {fault}", param="text")
    tokenized = runtime.encoder.tokenize([body.text])[0]
    if not tokenized.inner:
        raise InvalidRequest("text has no token that the model can read", param="text")
    if runtime.paraphraser is None:
        raise Conflict(
            f"the model {settings.model.name} cannot write: its folder has no language-model head; "
            "set paraphrase_model to a folder that has one"
        )
    deadline = deadline_in(settings.default_timeout_ms)
    future = runtime.paraphraser.submit(body.text, Sampling(body.n, samples, body.top_p, body.seed), deadline)
    try:
        if not await wait_for(request, [future], deadline):
            raise NotReady(
                f"no paraphrases within default_timeout_ms = {settings.default_timeout_ms}; ask for fewer samples",
                retry_after_s=1,
            )
    finally:
        deadline.give_up()  # of what is written by then, this does nothing
    found = future.result()
    timings.lap("generate")
    note(request.scope, samples=samples, distinct=found.distinct)
    content = {
        "text": body.text,
        "truncated": tokenized.truncated or found.is_truncated,
        "paraphrases": [{"text": each.text, "cosine": each.cosine} for each in found.best],
        "distinct": found.distinct,
        "took_ms": timings.total(),
    }
    return json_response(content, headers=timing_header(timings.total()))

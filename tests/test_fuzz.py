"""Requests made from the OpenAPI schema by schemathesis: no fault, no answer that the schema does not know."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from live_service import address_of, small_settings
from service.app import create_app
from service.settings import Settings

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
DELETING = [("DELETE", "/v1/collections/{name}"), ("DELETE", "/v1/graphs/{name}")]
schema = schemathesis.openapi.from_dict(create_app(Settings(sample=False)).openapi())


@schemathesis.serializer("application/x-ndjson", "text/csv", "text/tab-separated-values")
def as_sent(_: schemathesis.SerializationContext, value: object) -> bytes:
    """Send a body of lines as it was made."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module", name="url")
def _url(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, generator_folder: Path) -> Iterator[str]:
    """A running service with a few documents; after everything it must still be ready."""
    given = small_settings(
        tmp_path_factory.mktemp("fuzz") / "data",
        model_folder,
        lookup_model=generator_folder,
    )
    documents = [{"id": str(i), "text": text, "metadata": {"n": i}} for i, text in enumerate(["花呗", "退货", "选课"])]
    with address_of(given) as url:
        path = f"{url}/v1/collections/known/documents"
        assert httpx.post(path, json={"documents": documents}).status_code == 200
        triples = [["花呗（支付）", "额度", "五百"], ["花呗", "还款", "十号"], ["银行卡", "密码", "六位"]]
        assert httpx.post(f"{url}/v1/graphs/known/triples", json={"triples": triples}).status_code == 200
        yield url
        assert httpx.get(f"{url}/readyz").status_code == 200


@schema.parametrize()
@settings(
    max_examples=12,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@pytest.mark.timeout(120)
def test_every_route_answers_as_the_schema_says(case: schemathesis.Case, url: str) -> None:
    """Status, content type and body of each answer are documented, for any collection and for one that exists."""
    case.call_and_validate(base_url=url, checks=CHECKS, timeout=30)
    if "name" in (case.path_parameters or {}) and (case.method, case.path) not in DELETING:
        case.path_parameters["name"] = "known"
        case.call_and_validate(base_url=url, checks=CHECKS, timeout=30)

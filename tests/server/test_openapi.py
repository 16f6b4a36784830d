"""The description that the server gives of itself: valid, and schemathesis finds no request that breaks the server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from edge_llava.server.http.limits import Limits
from edge_llava.server.openai.openapi import describe_api


def test_every_path_is_served_and_described(server: Any) -> None:
    described = {
        (path.replace("{model}", "{name:path}"), method.upper())
        for path, operations in describe_api(Limits(), has_key=True)["paths"].items()
        for method in operations
    }
    served = {
        (route.path, method)
        for route in server.app.asgi.routes
        for method in route.methods - {"HEAD"}
        if not route.path.startswith("/page") and route.path not in ("/", "/openapi.json")
    }
    assert described == served


def test_the_description_is_served(client: Any) -> None:
    answer = client.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == describe_api(Limits(), has_key=False)
    assert len(answer.content) < 20_000


def test_every_field_that_is_described_is_taken(client: Any, server: Any) -> None:
    request = describe_api(Limits(), has_key=False)["components"]["schemas"]["ChatRequest"]
    nothing = dict.fromkeys(set(request["properties"]) - {"messages", "max_tokens"})
    assert server.ask(client, **nothing).status_code == 200


CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    "negative_data_rejection",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_schemathesis_finds_no_5xx(
    make_engine: Callable[..., Any], run_server: Callable[..., Any], mode: GenerationMode
) -> None:
    """Requests by the description and against it: answered or refused as described, in the shapes described."""
    server = run_server(engine=make_engine(n_ctx=256))
    described = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    schemathesis.checks.load_all_checks()
    checks = schemathesis.checks.CHECKS.get_by_names(list(CHECKS))
    statuses: Counter[int] = Counter()
    for result in described.get_all_operations():
        operation = result.ok()
        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue  # nothing that could be wrong
        cases = operation.as_strategy(generation_mode=mode)
        with_everything = settings(
            max_examples=300, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
        )

        @with_everything
        @given(cases)
        def send(case: Any) -> None:
            statuses[case.call_and_validate(checks=checks).status_code] += 1

        send()
    assert sum(statuses.values()) >= 300
    assert (statuses[200] > 0) == (mode is GenerationMode.POSITIVE)
    assert server.engine.metrics.failed_total == 0

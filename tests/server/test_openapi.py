"""The server's OpenAPI description is valid, and describes exactly what the server accepts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from edge_llava.server.http.errors import RequestError
from edge_llava.server.http.limits import Limits
from edge_llava.server.openai.generation import GenerationRequest
from edge_llava.server.openai.request_model import Rules, parse
from edge_llava.server.openapi import OPERATIONS, describe_api
from edge_llava.server.options import ServerOptions

MODELS = {operation.path: operation.request for operation in OPERATIONS if operation.request is not None}
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    "negative_data_rejection",
)  # fmt: skip


def examples(n: int) -> settings:
    """n random examples, the same in every run."""
    return settings(
        max_examples=n,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def test_every_path_is_served_and_described(server: Any) -> None:
    described = {
        (path.replace("{model}", "{name:path}"), method.upper())
        for path, operations in describe_api(has_key=True)["paths"].items()
        for method in operations
    }
    served = {
        (route.path, method)
        for route in server.app.asgi.routes
        for method in route.methods - {"HEAD"}
        if not route.path.startswith("/page") and route.path not in ("/", "/openapi.json")
    }
    assert described == served


@pytest.mark.parametrize("strict", [False, True])
def test_the_description_is_served(run_server: Callable[..., Any], strict: bool) -> None:
    with run_server(ServerOptions(strict=strict)).client() as client:
        answer = client.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == describe_api(has_key=False, strict=strict)
    assert len(answer.content) < 80_000


def test_every_field_that_is_described_is_taken(client: Any, server: Any) -> None:
    request = describe_api(has_key=False)["components"]["schemas"]["ChatRequest"]
    nothing = dict.fromkeys(set(request["properties"]) - {"messages", "max_tokens"})
    assert server.ask(client, **nothing).status_code == 200


def read(path: str, body: Any, rules: Rules) -> None:
    """Parses a request as the server does."""
    if not isinstance(body, dict):
        raise RequestError(400, "not an object")
    request = parse(MODELS[path], body, rules)
    if isinstance(request, GenerationRequest):
        request.read(rules, Limits())


def check_drift(path: str, mode: GenerationMode, n: int, strict: bool) -> None:
    """Checks that bodies that fit the description have no fault in any field, and that others are refused.

    Rules between fields that JSON Schema cannot say are checked once every field is right, by `read`.
    """
    rules, n_sent = Rules(strict), 0
    described = schemathesis.openapi.from_dict(describe_api(has_key=False, strict=strict))

    @examples(n)
    @given(described[path]["POST"].as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        nonlocal n_sent
        body, n_sent = json.loads(json.dumps(case.body)) if _is_json(case.body) else None, n_sent + 1
        if mode is GenerationMode.POSITIVE:
            parse(MODELS[path], body, rules)
            return
        with pytest.raises(RequestError):
            read(path, body, rules)

    send()
    assert n_sent >= n // 2


def _is_json(body: Any) -> bool:
    return isinstance(body, (dict, list, str, int, float, bool, type(None)))


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("path", MODELS)
def test_what_is_described_is_what_is_accepted(path: str, mode: GenerationMode) -> None:
    check_drift(path, mode, 15, strict=False)


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_a_strict_server_describes_what_it_accepts(mode: GenerationMode) -> None:
    check_drift("/v1/chat/completions", mode, 15, strict=True)


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("path", MODELS)
def test_what_is_described_is_what_is_accepted_of_many(path: str, mode: GenerationMode, strict: bool) -> None:
    check_drift(path, mode, 1000, strict)


def send_all(server: Any, mode: GenerationMode, n: int) -> Counter[int]:
    """Sends n requests to every operation, and counts the statuses."""
    described = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    schemathesis.checks.load_all_checks()
    checks = schemathesis.checks.CHECKS.get_by_names(list(CHECKS))
    statuses: Counter[int] = Counter()
    for result in described.get_all_operations():
        operation = result.ok()
        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue  # nothing that could be wrong

        @examples(n)
        @given(operation.as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            answer = case.call_and_validate(checks=checks)
            statuses[answer.status_code] += 1
            if answer.status_code == 400 and mode is GenerationMode.POSITIVE and case.path in MODELS:
                parse(MODELS[case.path], json.loads(answer.request.body), Rules())  # every field is right

        send()
    return statuses


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_schemathesis_finds_no_5xx(
    make_engine: Callable[..., Any], run_server: Callable[..., Any], mode: GenerationMode
) -> None:
    """Requests that fit the description, and others, are answered or refused as described."""
    server = run_server(engine=make_engine(n_ctx=128))
    statuses = send_all(server, mode, 4)
    assert sum(statuses.values()) >= 4 * len(MODELS)
    assert (statuses[200] > 0) == (mode is GenerationMode.POSITIVE)
    assert server.engine.metrics.failed_total == 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_schemathesis_finds_no_5xx_in_many(
    make_engine: Callable[..., Any], run_server: Callable[..., Any], mode: GenerationMode
) -> None:
    server = run_server(engine=make_engine(n_ctx=256))
    statuses = send_all(server, mode, 300)
    assert sum(statuses.values()) >= 300 * len(MODELS)
    assert server.engine.metrics.failed_total == 0

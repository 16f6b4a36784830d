"""`cached_tokens` does not reveal to a client what others with another salt asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edge_llava.server.options import ServerOptions

QUESTION = "Does the red circle stand beside the {} square of the company's new logo?"


@pytest.fixture
def n_cached(make_engine: Callable[..., Any], run_server: Callable[..., Any], ask_user: Any, data_uri: Any) -> Any:
    """n_cached(private, requests) -> the cached positions of each request (its fields)."""

    def run(requests: list[dict[str, str]], *, private: bool = False) -> list[int]:
        server = run_server(ServerOptions(private_cache=private), engine=make_engine(parallel=2))
        messages, found = [ask_user(QUESTION.format("blue"), data_uri(seed=77))], []
        with server.client() as client:
            for fields in requests:
                usage = server.ask(client, messages=messages, max_tokens=1, **fields).json()["usage"]
                found.append(usage["prompt_tokens_details"]["cached_tokens"])
        return found

    return run


def test_without_a_salt_all_share(n_cached: Any) -> None:
    first, second = n_cached([{}, {"safety_identifier": "x"}])
    assert first == 0 < second


def test_requests_share_with_those_of_the_same_key_or_user(n_cached: Any) -> None:
    found = n_cached(
        [
            {"user": "ann"}, {"user": "bob"}, {"user": "ann"}, {}, {"prompt_cache_key": "ann"},
            {"prompt_cache_key": "ann", "user": "bob"}, {"user": ""},
        ]
    )  # fmt: skip
    assert [n > 0 for n in found] == [False, False, True, False, False, True, True]


def test_a_private_cache_shares_nothing_without_them(n_cached: Any) -> None:
    found = n_cached([{}, {}, {"user": "ann"}, {}, {"user": "ann"}, {"user": ""}], private=True)
    assert [n > 0 for n in found] == [False, False, False, False, True, False]

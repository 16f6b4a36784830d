"""A server for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chat_server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    """A server whose replies `server.behave` determines."""
    server = Server()
    yield server
    server.close()

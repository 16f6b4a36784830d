"""The application: its routes, and the middleware that every request passes."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from edge_llava.device.memory import is_out_of_memory
from edge_llava.runtime.model import LlavaModel
from edge_llava.server.http.api_key import ApiKey, RequireKey
from edge_llava.server.http.cors import AllowOrigins
from edge_llava.server.http.errors import (
    RequestError,
    internal_error,
    no_memory,
    show_error,
    show_http_error,
    unavailable,
)
from edge_llava.server.http.framing_check import CheckFraming
from edge_llava.server.http.host_check import CheckHost
from edge_llava.server.http.memory_budget import MemoryBudget
from edge_llava.server.http.metrics import CONTENT_TYPE, write_metrics
from edge_llava.server.http.named_route import NamedRoute
from edge_llava.server.http.origin_check import CheckOrigin
from edge_llava.server.http.path_aliases import AllowAliases
from edge_llava.server.http.request_body import PendingBodies
from edge_llava.server.http.request_counts import RequestCounts
from edge_llava.server.http.request_log import LogRequests
from edge_llava.server.images.image_parts import ImageParts
from edge_llava.server.images.remote_images import RemoteImages, RemoteOptions
from edge_llava.server.ollama.api import OllamaApi
from edge_llava.server.openai.answers import Answers
from edge_llava.server.openai.chat_endpoint import ChatEndpoint
from edge_llava.server.openai.served_models import ServedModels
from edge_llava.server.openapi import describe_api
from edge_llava.server.options import ServerOptions
from edge_llava.server.page.files import page_routes

_log = logging.getLogger("edge_llava.server")


class ServerApp:
    """The application of a server, and all its parts.

    Attributes:
        asgi: The application, for any ASGI server; it does not close the engine.
        answers: The answers that are being computed.
        models: The names of the model.
        limits: Limits of requests and connections.
    """

    def __init__(
        self, engine: LlavaModel, options: ServerOptions | None = None, *, remote: RemoteImages | None = None
    ) -> None:
        """
        Args:
            engine: The model that answers.
            options: Who may use the server, and how.
            remote: Fetches images from the web; None follows `options.remote_images`.

        Raises:
            ValueError: If the API key is too short.
        """
        options = options or ServerOptions()
        self.limits = limits = options.limits
        if remote is None and options.remote_images:
            remote = RemoteImages(RemoteOptions(max_bytes=limits.image_bytes))
        self.answers = Answers(engine)
        self.models = ServedModels(engine, options.aliases)
        self._engine, self._counts, self._budget = engine, RequestCounts(), MemoryBudget(limits.held_bytes)
        images = ImageParts(limits, remote, engine.open_image)
        self._chat = ChatEndpoint(
            self.answers,
            self.models,
            images,
            self._budget,
            limits,
            private_cache=options.private_cache,
            strict=options.strict,
        )
        self._ollama = OllamaApi(self._chat, self.models, engine.bundle, self._budget, limits)
        self._description = describe_api(has_key=options.api_key is not None, strict=options.strict)
        self.asgi = Starlette(
            routes=self._routes(),
            middleware=_middleware(options, self._counts),
            exception_handlers={RequestError: show_error, HTTPException: show_http_error},
            lifespan=self._lifespan,
        )
        self.asgi.router.redirect_slashes = False
        self.asgi.state.bodies = self._bodies = PendingBodies()

    @property
    def n_open_requests(self) -> int:
        """The number of requests that are being read, waiting or answered."""
        return self._counts.n_open

    def stop(self) -> None:
        """Ends running answers and arriving requests with an error for the clients. For the event loop's thread."""
        self.answers.stop()
        self._bodies.stop()

    def _routes(self) -> list[NamedRoute]:
        return [
            NamedRoute("/v1/chat/completions", self._chat.complete, methods=["POST"]),
            NamedRoute("/v1/prepare", self._chat.prepare, methods=["POST"]),
            NamedRoute("/v1/completions", self._chat.continue_text, methods=["POST"]),
            NamedRoute("/v1/responses", self._chat.respond, methods=["POST"]),
            NamedRoute("/v1/models", self._list_models, methods=["GET"]),
            NamedRoute("/v1/models/{name:path}", self._show_model, methods=["GET"]),
            *self._ollama.routes(),
            NamedRoute("/health", self._show_health, methods=["GET"]),
            NamedRoute("/metrics", self._show_metrics, methods=["GET"]),
            NamedRoute("/openapi.json", self._describe, methods=["GET"]),
            *page_routes(),
        ]

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        yield
        self.stop()

    async def _list_models(self, request: Request) -> Response:
        return JSONResponse(self.models.list())

    async def _show_model(self, request: Request) -> Response:
        return JSONResponse(self.models.find(request.path_params["name"]))

    async def _show_health(self, request: Request) -> Response:
        if self.answers.is_stopping or not self._engine.is_open:
            raise unavailable("The server is shutting down, or its engine has failed.")
        engine = self._engine.metrics
        is_busy = self._counts.n_open > self.limits.n_requests  # including this one
        state = {"running": engine.running, "queued": engine.queued, "parallel": engine.n_parallel, "busy": is_busy}
        return JSONResponse({"status": "ok", "model": self.models.name, **state})

    async def _show_metrics(self, request: Request) -> Response:
        text = write_metrics(self._engine.metrics, self._counts, self._budget)
        return Response(text, media_type=None, headers={"Content-Type": CONTENT_TYPE})

    async def _describe(self, request: Request) -> Response:
        return JSONResponse(self._description)


def _middleware(options: ServerOptions, counts: RequestCounts) -> list[Middleware]:
    """The middleware, outermost first."""
    layers = [Middleware(AllowAliases)]
    if options.cors_origins:
        layers.append(Middleware(AllowOrigins, options.cors_origins))
    layers.append(Middleware(LogRequests, counts, options.limits.n_requests))
    # inside of the layer that counts and names requests; Starlette's own error handler is outside of all layers
    layers.append(Middleware(ExceptionMiddleware, {Exception: _show_bug, ClientDisconnect: _reraise}))
    layers.append(Middleware(CheckFraming, options.limits))
    if options.allowed_hosts is not None:
        layers.append(Middleware(CheckHost, options.allowed_hosts))
    layers.append(Middleware(CheckOrigin, options.cors_origins, options.allowed_hosts or ()))
    if options.api_key is not None:
        layers.append(Middleware(RequireKey, ApiKey(options.api_key)))
    return layers


async def _show_bug(request: Request, error: Exception) -> Response:
    is_short = is_out_of_memory(error)
    # its message may contain client data
    _log.error("%s: %s", "not enough memory" if is_short else "internal error", type(error).__name__)
    _log.debug("internal error", exc_info=error)
    return (no_memory() if is_short else internal_error()).response()


async def _reraise(request: Request, error: Exception) -> Response:
    raise error  # the client is gone; the log records it

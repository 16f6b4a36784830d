"""Ollama's API for the bundle that is served; photo programs and home automation use it."""

from __future__ import annotations

from importlib.metadata import version

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edge_llava.bundle.bundle import Bundle
from edge_llava.server.http.errors import RequestError
from edge_llava.server.http.limits import Limits
from edge_llava.server.http.memory_budget import MemoryBudget
from edge_llava.server.http.named_route import NamedRoute
from edge_llava.server.http.request_body import parse_body, read_body
from edge_llava.server.http.thread_call import call_on_thread
from edge_llava.server.ollama.form import OllamaForm, resolve
from edge_llava.server.ollama.models import OllamaModels
from edge_llava.server.ollama.request import NameRequest
from edge_llava.server.openai.chat_endpoint import ChatEndpoint
from edge_llava.server.openai.request_model import Rules, parse
from edge_llava.server.openai.served_models import ServedModels

_SPOKEN = "0.12.6"  # the version of Ollama whose API this is; clients compare it with the one they need
_NOT_OFFERED = (
    ("/api/create", "POST"), ("/api/copy", "POST"), ("/api/push", "POST"), ("/api/delete", "DELETE"),
    ("/api/blobs/{digest}", "POST"),
)  # fmt: skip
_EMBEDDINGS = ("/api/embed", "/api/embeddings")


class OllamaApi:
    """The paths below /api."""

    def __init__(
        self, chat: ChatEndpoint, models: ServedModels, bundle: Bundle, budget: MemoryBudget, limits: Limits
    ) -> None:
        self._chat, self._models, self._budget, self._limits = chat, models, budget, limits
        entries = models.list()["data"]
        self._described = OllamaModels(bundle, entries[0]["n_ctx"], [entry["id"] for entry in entries])
        self._names = {entry["id"] for entry in entries}

    def routes(self) -> list[NamedRoute]:
        """The routes that are served, and those that are refused in Ollama's form."""
        return [
            NamedRoute("/api/chat", self._answer_chat, methods=["POST"]),
            NamedRoute("/api/generate", self._answer_prompt, methods=["POST"]),
            NamedRoute("/api/tags", self._list, methods=["GET"]),
            NamedRoute("/api/show", self._show, methods=["POST"]),
            NamedRoute("/api/ps", self._list_running, methods=["GET"]),
            NamedRoute("/api/version", self._show_version, methods=["GET"]),
            NamedRoute("/api/pull", self._pull, methods=["POST"]),
            *(NamedRoute(path, _refuse_embedding, methods=["POST"]) for path in _EMBEDDINGS),
            *(NamedRoute(path, _refuse_change, methods=[method]) for path, method in _NOT_OFFERED),
        ]

    async def _answer_chat(self, request: Request) -> Response:
        return await self._chat.answer(request, OllamaForm.chat(self._models))

    async def _answer_prompt(self, request: Request) -> Response:
        return await self._chat.answer(request, OllamaForm.generate(self._models))

    async def _list(self, request: Request) -> Response:
        return JSONResponse(await call_on_thread(self._described.list))

    async def _list_running(self, request: Request) -> Response:
        return JSONResponse(await call_on_thread(self._described.running))

    async def _show_version(self, request: Request) -> Response:
        return JSONResponse({"version": _SPOKEN, "server": f"edge-llava {version('edge-llava')}"})

    async def _show(self, request: Request) -> Response:
        name = await self._read_name(request)
        resolve(self._models.check, name)
        return JSONResponse(await call_on_thread(self._described.show, name))

    async def _pull(self, request: Request) -> Response:
        """Succeeds for the model that is served, and refuses all others."""
        name = await self._read_name(request)
        if name not in self._names and name.removesuffix(":latest") not in self._names:
            raise RequestError(
                400,
                f"model '{name[:100]}' cannot be pulled: edge-llava serves one model, "
                f"{self._models.name}. Convert others with 'edge-llava convert'.",
                code="unsupported",
            )
        return JSONResponse({"status": "success"})

    async def _read_name(self, request: Request) -> str:
        with self._budget.open() as lease:
            data = parse_body(await read_body(request, self._limits, lease, any_type=True))
        asked = parse(NameRequest, data, Rules())
        return asked.model or asked.name or ""


async def _refuse_embedding(request: Request) -> Response:
    raise RequestError(400, "this model does not support embeddings", code="unsupported")


async def _refuse_change(request: Request) -> Response:
    raise RequestError(
        400,
        f"{request.method} {request.url.path} is not offered: edge-llava serves one model and does not change it.",
        code="unsupported",
    )

"""The bundle as Ollama's API describes a model."""

from __future__ import annotations

import hashlib
import math
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import Any

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.template_spec import Pieces
from edge_llava.ggml.gguf_header import read_gguf_header
from edge_llava.home.directories import MANIFEST_NAME
from edge_llava.server.ollama.form import time_stamp

Json = dict[str, Any]

_STAYS = timedelta(days=3650)  # nothing unloads the model


class OllamaModels:
    """The answers of /api/tags, /api/show and /api/ps. The files are read at the first request."""

    def __init__(self, bundle: Bundle, n_ctx: int, names: list[str]) -> None:
        """
        Args:
            bundle: The bundle that is served.
            n_ctx: Positions of a conversation.
            names: All its names.
        """
        self._bundle, self._n_ctx, self._names = bundle, n_ctx, names

    def list(self) -> Json:
        """GET /api/tags."""
        return {"models": [self._entry(name) | {"modified_at": self._modified_at} for name in self._names]}

    def running(self) -> Json:
        """GET /api/ps: the model is always loaded."""
        until = time_stamp(datetime.now(timezone.utc) + _STAYS)
        about = {"expires_at": until, "size_vram": 0, "context_length": self._n_ctx}
        return {"models": [self._entry(self._names[0]) | about]}

    def show(self, name: str) -> Json:
        """POST /api/show."""
        return {
            "license": "",
            "modelfile": f"# edge-llava serves this model from a bundle; there is no Modelfile.\nFROM {name}\n",
            "parameters": "",
            "template": self._template(),
            "details": self._details,
            "model_info": self._info(),
            "capabilities": ["completion", "vision"],
            "modified_at": self._modified_at,
        }

    def _entry(self, name: str) -> Json:
        tagged = name if ":" in name else f"{name}:latest"
        return {
            "name": tagged,
            "model": tagged,
            "size": self._bundle.n_bytes,
            "digest": self._digest,
            "details": self._details,
        }

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha256(self._bundle.manifest.to_json().encode()).hexdigest()

    @cached_property
    def _modified_at(self) -> str:
        seconds = int((self._bundle.path / MANIFEST_NAME).stat().st_mtime)
        return time_stamp(datetime.fromtimestamp(seconds, timezone.utc))

    @cached_property
    def _n_parameters(self) -> int:
        tensors = read_gguf_header(self._bundle.file("language")).tensors
        return sum(math.prod(tensor.shape) for tensor in tensors.values())

    @cached_property
    def _details(self) -> Json:
        return {
            "parent_model": "",
            "format": "gguf",
            "family": self._bundle.manifest.language.architecture,
            "families": [self._bundle.manifest.language.architecture, "clip"],
            "parameter_size": _describe_number(self._n_parameters),
            "quantization_level": self._bundle.manifest.language.quant,
        }

    def _info(self) -> Json:
        language, vision = self._bundle.manifest.language, self._bundle.manifest.vision
        architecture = language.architecture
        return {
            "general.architecture": architecture,
            "general.basename": self._bundle.name,
            "general.parameter_count": self._n_parameters,
            f"{architecture}.attention.head_count": language.n_head,
            f"{architecture}.attention.head_count_kv": language.n_head_kv,
            f"{architecture}.block_count": language.n_layer,
            f"{architecture}.context_length": self._n_ctx,
            f"{architecture}.embedding_length": language.n_embd,
            f"{architecture}.vocab_size": language.n_vocab,
            "clip.has_vision_encoder": True,
            "clip.vision.image_size": vision.image_size,
            "clip.vision.patch_size": vision.patch_size,
        }

    def _template(self) -> str:
        template = self._bundle.manifest.language.template
        tokens = read_gguf_header(self._bundle.file("language")).arrays["tokenizer.ggml.tokens"].strings

        def write(pieces: Pieces) -> str:
            return "".join(piece if isinstance(piece, str) else tokens[piece].decode() for piece in pieces)

        opening = write(template.open_with("{{ .System }}") if template.system else template.opening)
        answer = f"{write(template.before_answer)}{{{{ .Response }}}}"
        return f"{opening}{{{{ .Prompt }}}}{write(template.after_question)}{answer}"


def _describe_number(n: int) -> str:
    """Formats a number as Ollama does: 7241732096 as "7.2B"."""
    for size, letter, digits in ((10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 2)):
        if n >= size:
            return f"{n / size:.{digits}f}{letter}"
    return str(n)

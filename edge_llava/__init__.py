"""Run LLaVA on a device. Importing this loads no engine; each name loads what it needs when it is first used.

model = edge_llava.load("llava-1.5-7b-hf-q4_k_m")
chat = model.session()
for token in chat.ask("What is on the table?", image="img.jpg"):
    print(token.text, end="", flush=True)
"""

from __future__ import annotations

import logging
import os.path
from importlib import import_module
from typing import TYPE_CHECKING, Any

_HERE = os.path.dirname(__file__)
if not os.path.isdir(os.path.join(_HERE, "runtime")):  # in a clone, the rooms are beside this directory
    __path__.append(os.path.dirname(_HERE))

if TYPE_CHECKING:
    from edge_llava.bundle.bundle import Bundle
    from edge_llava.captioning.caption_folder import caption_folder
    from edge_llava.captioning.options import CaptionOptions
    from edge_llava.captioning.report import CaptionReport
    from edge_llava.conversion.convert import convert
    from edge_llava.converters.options import ConvertOptions
    from edge_llava.errors import (
        BackendError,
        BundleError,
        CheckpointError,
        ContextOverflow,
        ConversionError,
        DataError,
        EdgeLlavaError,
        ImageError,
        MissingExtra,
        QueueFull,
        TrainingError,
        TransferError,
    )
    from edge_llava.home.progress import ProgressEvent
    from edge_llava.runtime.answer import AnswerProgress, Timings, Token
    from edge_llava.runtime.async_answer import AsyncAnswer
    from edge_llava.runtime.model import LlavaModel, load
    from edge_llava.runtime.options import DecoderOptions, EngineOptions, SamplingOptions, tuned_options
    from edge_llava.runtime.session import Session
    from edge_llava.runtime.vision.image_embedding import ImageEmbedding

    __version__: str

# an app decides what becomes of our messages; without it Python would print warnings to stderr
logging.getLogger("edge_llava").addHandler(logging.NullHandler())

# ONNX Runtime would write an id of this device to the user's cache directory and send it to its makers
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "AnswerProgress": "runtime.answer",
    "AsyncAnswer": "runtime.async_answer",
    "BackendError": "errors",
    "Bundle": "bundle.bundle",
    "BundleError": "errors",
    "CaptionOptions": "captioning.options",
    "CaptionReport": "captioning.report",
    "CheckpointError": "errors",
    "ContextOverflow": "errors",
    "ConversionError": "errors",
    "ConvertOptions": "converters.options",
    "DataError": "errors",
    "DecoderOptions": "runtime.options",
    "EdgeLlavaError": "errors",
    "EngineOptions": "runtime.options",
    "ImageEmbedding": "runtime.vision.image_embedding",
    "ImageError": "errors",
    "LlavaModel": "runtime.model",
    "MissingExtra": "errors",
    "ProgressEvent": "home.progress",
    "QueueFull": "errors",
    "SamplingOptions": "runtime.options",
    "Session": "runtime.session",
    "Timings": "runtime.answer",
    "Token": "runtime.answer",
    "TrainingError": "errors",
    "TransferError": "errors",
    "caption_folder": "captioning.caption_folder",
    "convert": "conversion.convert",
    "load": "runtime.model",
    "tuned_options": "runtime.options",
}

__all__ = [
    "AnswerProgress",
    "AsyncAnswer",
    "BackendError",
    "Bundle",
    "BundleError",
    "CaptionOptions",
    "CaptionReport",
    "CheckpointError",
    "ContextOverflow",
    "ConversionError",
    "ConvertOptions",
    "DataError",
    "DecoderOptions",
    "EdgeLlavaError",
    "EngineOptions",
    "ImageEmbedding",
    "ImageError",
    "LlavaModel",
    "MissingExtra",
    "ProgressEvent",
    "QueueFull",
    "SamplingOptions",
    "Session",
    "Timings",
    "Token",
    "TrainingError",
    "TransferError",
    "caption_folder",
    "convert",
    "load",
    "tuned_options",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("edge-llava")
    if name not in _HOMES:
        raise AttributeError(f"module 'edge_llava' has no attribute {name!r}")
    return getattr(import_module(f"edge_llava.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

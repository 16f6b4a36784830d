"""Says on which devices a bundle computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_llava.cli.display import note
from edge_llava.device.onnx_packages import expected_provider

if TYPE_CHECKING:
    from edge_llava.bundle.bundle import Bundle
    from edge_llava.runtime.model import LlavaModel
    from edge_llava.runtime.options import EngineOptions


def note_places(model: LlavaModel) -> None:
    """Notes where a model computes, and its notice; its tower need not be open."""
    note(describe_places(model.language_on, model.vision_on or expected_provider(model.options.vision_provider)))
    if model.manifest.notice is not None:
        note(model.manifest.notice)


def describe_places(language_on: str, vision_on: str) -> str:
    """One line for people."""
    return f"runs on: language {language_on}, vision {vision_on}"


def expected_places(bundle: Bundle, options: EngineOptions) -> tuple[str, str]:
    """Where the blocks and the tower of a bundle will run: as `LlavaModel.language_on` and `expected_provider`.

    Raises:
        BackendError: If llama.cpp cannot be loaded, or has no device that the options name.
    """
    from edge_llava.errors import BackendError

    try:
        from edge_llava.ggml.devices import choose_devices, describe_place, list_devices

        devices = list_devices()
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(f"llama.cpp cannot be loaded: {error}. See: edge-llava doctor") from error
    decoder = options.decoder
    used = choose_devices(devices, decoder.devices, decoder.n_gpu_layers)
    place = describe_place(used, decoder.n_gpu_layers, bundle.manifest.language.n_layer)
    return place, expected_provider(options.vision_provider)

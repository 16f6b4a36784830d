"""Tower and projector of a bundle, as the device's options have them."""

from __future__ import annotations

from edge_llava.bundle import Bundle
from edge_llava.runtime.engine_options import EngineOptions
from edge_llava.runtime.late_encoder import LateEncoder
from edge_llava.runtime.picture_encoder import PictureEncoder
from edge_llava.runtime.threads import count_cores


def open_tower(bundle: Bundle, options: EngineOptions) -> LateEncoder:
    """A thread that encodes pictures; tower and projector are opened for the first."""
    n_threads, mapped = options.n_vision_threads or count_cores(), options.low_memory

    def opener() -> PictureEncoder:
        return PictureEncoder(
            bundle, n_threads, options.vision_provider, spinning=options.vision_spinning, mapped=mapped
        )

    return LateEncoder(opener, stays_open=not options.low_memory)

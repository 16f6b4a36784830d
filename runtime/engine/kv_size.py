"""How large a KV cache begins."""

from __future__ import annotations

from edge_llava.bundle.manifest import Manifest
from edge_llava.runtime.options import EngineOptions
from edge_llava.runtime.vision.anyres import count_tokens
from edge_llava.runtime.vision.forms import image_forms

_IMAGE_SIZE = (640, 480)
_WORDS = 448  # the template, a question, and an answer or some turns


def first_positions(manifest: Manifest, options: EngineOptions) -> int:
    """Positions that a conversation about one image takes.

    A cache takes its memory, and seconds for a large model, when it is made, whether it is used or not.
    """
    form = image_forms(manifest.vision, options).alone
    return count_tokens(_IMAGE_SIZE, form, options.visual_tokens) + _WORDS

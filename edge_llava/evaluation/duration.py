"""How long a benchmark takes on this device, from what `edge-llava tune` measured."""

from __future__ import annotations

from dataclasses import dataclass

from edge_llava.bundle.manifest import Manifest
from edge_llava.device.profile import find_profile
from edge_llava.evaluation.benchmarks.kinds import Kind

_TEMPLATE_TOKENS = 40  # of the system prompt, once for each image
_QUESTION_TOKENS = 40  # with what asks for a word or a letter


@dataclass(frozen=True)
class Pace:
    """What a bundle takes on this device.

    Attributes:
        image_s: Seconds for an image: tower, projector, and its positions with the system prompt before it.
        prefill_tps, decode_tps: Positions of questions, and tokens of answers, a second.
    """

    image_s: float
    prefill_tps: float
    decode_tps: float

    def seconds(self, kind: Kind, n_questions: int | None = None) -> float:
        """For a benchmark as it is published, or for as many of its questions on their share of the images."""
        question_s = _QUESTION_TOKENS / self.prefill_tps + kind.typical_tokens / self.decode_tps
        n = kind.n_questions if n_questions is None else n_questions
        n_images = kind.n_images * n / kind.n_questions
        return n_images * self.image_s + n * question_s


def find_pace(manifest: Manifest) -> Pace | None:
    """What was measured for a bundle, whose images are one square each; None if nothing was."""
    profile = find_profile(manifest)
    measured = {} if profile is None else profile.measured
    values = [measured.get(name) for name in ("vision_s", "projector_s", "prefill_tps", "decode_tps")]
    vision_s, projector_s, prefill_tps, decode_tps = (value or 0.0 for value in values)
    if not prefill_tps or not decode_tps:
        return None
    image_s = vision_s + projector_s + (manifest.vision.n_features + _TEMPLATE_TOKENS) / prefill_tps
    return Pace(image_s, prefill_tps, decode_tps)

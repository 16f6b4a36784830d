"""Lets a bundle take an exam: every question is the first turn of a conversation, answered greedily."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_llava.evaluation.answering import Ask
from edge_llava.runtime.options import SamplingOptions
from edge_llava.scenes.drawing import encode_scene
from edge_llava.scenes.scene import Scene

if TYPE_CHECKING:
    from edge_llava.runtime.model import LlavaModel


class BundleAnswerer:
    """Shows scenes to an opened bundle; an instance is the `look` argument of `evaluate_scenes`."""

    def __init__(self, model: LlavaModel) -> None:
        self._model = model

    def __call__(self, scene: Scene) -> Ask:
        """Encodes the picture of a scene from a JPEG file, as a user's image would be."""
        image = self._model.embed_image(encode_scene(scene))

        def ask(question: str, max_tokens: int) -> str:
            session = self._model.session(SamplingOptions(temperature=0, max_new_tokens=max_tokens))
            return "".join(token.text for token in session.ask(question, image=image)).strip()

        return ask

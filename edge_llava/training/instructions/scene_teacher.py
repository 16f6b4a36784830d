"""The teacher that needs no model: it knows every fact of a scene, and asks and answers by rules."""

from __future__ import annotations

import hashlib

import numpy as np

from edge_llava.errors import DataError
from edge_llava.scenes.pointing import POINTINGS, point
from edge_llava.scenes.questions import KINDS, ask
from edge_llava.scenes.reasoning import reason
from edge_llava.scenes.scene import Scene
from edge_llava.scenes.sentences import describe, pick
from edge_llava.training.instructions.annotation import AnnotatedImage
from edge_llava.training.instructions.conversations import Turn
from edge_llava.training.instructions.phrasings import DETAIL
from edge_llava.training.instructions.reply import format_reply
from edge_llava.training.instructions.teacher import TeacherReply

N_TURNS = (3, 8)  # of a conversation, at least and at most


class SceneTeacher:
    """Replies about images whose scene is known; the same seed, image and type produce the same reply."""

    name = "scenes"

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def reply(self, image: AnnotatedImage, response_type: str) -> TeacherReply:
        """See `Teacher.reply`.

        Raises:
            DataError: If the image has no scene.
        """
        if image.scene is None:
            raise DataError(
                f"the scene teacher needs images with their facts, and {image.id} has none. "
                "Draw some with 'edge-llava data scenes', or give the address of another teacher."
            )
        digest = hashlib.sha256(f"{self._seed} {image.id} {response_type}".encode()).digest()
        random = np.random.default_rng(int.from_bytes(digest, "little"))
        return TeacherReply(format_reply(teach(image.scene, response_type, random), response_type))


def teach(
    scene: Scene, response_type: str, random: np.random.Generator, n_turns: tuple[int, int] = N_TURNS
) -> tuple[Turn, ...]:
    """Writes questions and answers about one scene.

    Args:
        scene: The scene they are about.
        response_type: "conversation" for several short questions, "detail" for a description, "reasoning" for one
            question that needs some thought.
        random: Source of every choice.
        n_turns: Questions of a conversation, at least and at most.

    Returns:
        The turns, without repeated questions.
    """
    if response_type == "conversation":
        return _converse(scene, random, n_turns)
    if response_type == "detail":
        return (Turn(pick(random, DETAIL), describe(scene)),)
    if response_type == "reasoning":
        return (Turn(*reason(scene, random)),)
    raise DataError(f"the scene teacher has no responses of type {response_type!r}.")


def _converse(scene: Scene, random: np.random.Generator, limits: tuple[int, int]) -> tuple[Turn, ...]:
    n_turns = int(random.integers(limits[0], limits[1] + 1))
    answers: dict[str, str] = {}
    while len(answers) < n_turns:
        # every kind that the scene allows once, before any is repeated
        for kind in map(str, random.permutation((*KINDS, *POINTINGS))):
            pair = _ask(scene, kind, random)
            if pair is not None and len(answers) < n_turns:
                answers.setdefault(*pair)
    return tuple(Turn(question, answer) for question, answer in answers.items())


def _ask(scene: Scene, kind: str, random: np.random.Generator) -> tuple[str, str] | None:
    if kind in POINTINGS:
        return point(scene, kind, random)
    question = ask(scene, kind, random)
    return None if question is None else (question.text, question.answer)

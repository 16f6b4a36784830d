"""Conversations about images, to measure what matters in a language model: the demo's, built-in or the user's own.

The texts need not be what the model would say. They show it questions, answers and images as it will read them.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_llava.conversion.calibration import MAX_IMAGES, list_images
from edge_llava.converters.dialogue import Dialogue, choose_evenly
from edge_llava.errors import DataError
from edge_llava.scenes.drawing import draw_scene
from edge_llava.scenes.scene import Scene, sample_scenes
from edge_llava.training.instructions.conversations import Turn, read_conversations
from edge_llava.training.instructions.scene_teacher import teach

_DEMO_SCENES, _DEMO_TURNS, _DEMO_SIDE = 64, (6, 10), 224
_SCENES = 4  # that the built-in images begin with
# About the other built-in images, in their order: landscapes, clouds, a page, noise, a gradient, darkness.
_TURNS: tuple[tuple[tuple[str, str], ...], ...] = (
    (
        ("Describe this image in detail.",
         "The image shows a wide landscape under a partly cloudy sky. Several ranges of hills follow one another, and "
         "each is darker than the one behind it, which gives the scene a sense of depth. The light comes from above "
         "and fades towards the horizon. No people, animals or buildings are visible."),
        ("Is there a person in the image?\nAnswer the question using a single word or phrase.", "No"),
    ),
    (
        ("What time of day could it be?",
         "It is hard to be certain, but the soft light and the pale sky suggest early morning or late afternoon, when "
         "the sun is low and distant hills lose their colour in the haze."),
        ("How many ranges of hills can you see?\nAnswer the question using a single word or phrase.", "3"),
    ),
    (
        ("Write a short caption for this photo.", "Rolling hills beneath drifting clouds."),
        ("What should I bring if I want to go hiking here?",
         "Here are a few things that I would bring:\n\n1. Sturdy shoes, since the ground looks uneven.\n2. A jacket, "
         "because the weather may change quickly.\n3. Water and some food.\n4. A map or a phone with GPS."),
    ),
    (
        ("Which of these is in the picture?\nA. a bus\nB. a mountain\nC. a kitchen\nD. a dog\n"
         "Answer with the option's letter from the given choices directly.", "B"),
        ("Why?", "The outline that rises behind the darker hills in front has the shape of a mountain. Nothing in the "
         "image looks like a vehicle, a room or an animal."),
    ),
    (
        ("What do you see?", "A soft texture of light and dark areas, like clouds or fog, without sharp edges."),
        ("Please answer in French.", "Une texture douce, faite de zones claires et sombres, comme des nuages."),
    ),
    (
        ("What colors are in the image?", "Mostly muted tones: gray, brown, a little blue, and some green."),
        ("Return them as JSON.", '{"colors": ["gray", "brown", "blue", "green"]}'),
    ),
    (
        ("What kind of document is this?",
         "It looks like a printed page: about twenty lines of text in a dark typeface on a light background, followed "
         "by a bar chart with eight bars of different heights and colors."),
        ("Read the first word on the page.\nAnswer the question using a single word or phrase.", "the"),
        ("What is the sum of 17 and 25, and is the tallest bar on the left?",
         "17 + 25 = 42. The tallest bar is not on the left; it stands near the middle of the chart."),
    ),
    (
        ("What is shown here?", "The image contains only colorful noise, like a television without signal."),
    ),
    (
        ("Describe how the brightness changes from left to right.",
         "The left side is dark. Towards the right the colors become lighter and more saturated, and the lower right "
         "corner is the brightest part of the image."),
        ("Where is the darkest point?", "In the upper left corner."),
    ),
    (
        ("What went wrong with this photo?",
         "It is almost completely black. Perhaps the lens cap was still on, or the exposure was far too short."),
        ("def average(values):\nComplete this Python function.",
         "```python\ndef average(values):\n    return sum(values) / len(values)\n```"),
    ),
)  # fmt: skip


def demo_images() -> Iterator[NDArray[np.uint8]]:
    """Yields drawn scenes of the training split, uint8 (H, W, 3)."""
    return (np.asarray(draw_scene(scene, _DEMO_SIDE)) for scene in _demo_scenes())


def demo_dialogues() -> list[Dialogue]:
    """Questions about each of `demo_images` with the right answers."""
    random = np.random.default_rng(3)
    return [_about_scene(index, scene, random, _DEMO_TURNS) for index, scene in enumerate(_demo_scenes())]


def _demo_scenes() -> Iterator[Scene]:
    return itertools.islice(sample_scenes("train", seed=11), _DEMO_SCENES)


def builtin_dialogues() -> list[Dialogue]:
    """One about each of the images of `calibration.builtin_images`."""
    random = np.random.default_rng(5)
    scenes = itertools.islice(sample_scenes("train", seed=7), _SCENES)
    dialogues = [_about_scene(index, scene, random, (3, 6)) for index, scene in enumerate(scenes)]
    return [*dialogues, *(Dialogue(index, turns) for index, turns in enumerate(_TURNS, _SCENES))]


def own_dialogues(directory: Path) -> tuple[list[Path], list[Dialogue]]:
    """The user's images, and what is said about them: conversations in LLaVA's JSON beside them, else built-in ones.

    Args:
        directory: Of images; may hold *.json and *.jsonl files of conversations, whose images are relative to it.

    Returns:
        Image files, and dialogues about them; of more than `MAX_IMAGES`, an evenly spaced choice.

    Raises:
        DataError: If a file of conversations cannot be read, an image of one is missing, or none is about an image.
        ImageError: If there are neither conversations nor images.
    """
    entries = sorted(directory.iterdir()) if os.path.isdir(directory) else []
    files = [path for path in entries if path.suffix.lower() in (".json", ".jsonl")]
    if not files:
        images = list_images(directory)
        return images, [Dialogue(index, _TURNS[index % len(_TURNS)]) for index in range(len(images))]
    conversations = [one for file in files for one in read_conversations(file, directory) if one.image is not None]
    if not conversations:
        names = ", ".join(file.name for file in files)
        raise DataError(f"{names} in {directory}: none of the conversations is about an image.")
    chosen = choose_evenly(conversations, MAX_IMAGES)
    images = [directory / str(conversation.image) for conversation in chosen]
    return images, [Dialogue(index, _pairs(conversation.turns)) for index, conversation in enumerate(chosen)]


def _about_scene(index: int, scene: Scene, random: np.random.Generator, n_turns: tuple[int, int]) -> Dialogue:
    return Dialogue(index, _pairs(teach(scene, "conversation", random, n_turns)))


def _pairs(turns: Sequence[Turn]) -> tuple[tuple[str, str], ...]:
    return tuple((turn.question, turn.answer) for turn in turns)

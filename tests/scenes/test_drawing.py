from __future__ import annotations

import colorsys
import hashlib
import io
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from edge_llava.scenes.drawing import draw_map, draw_scene, encode_scene
from edge_llava.scenes.scene import COLOURS, Scene, sample_scene

HUES = {"red": 0.0, "yellow": 1 / 6, "green": 1 / 3, "cyan": 1 / 2, "blue": 2 / 3, "purple": 0.79}


def test_same_scene_same_bytes_in_another_process():
    digest = hashlib.sha256(b"".join(encode_scene(sample_scene(seed)) for seed in range(6))).hexdigest()
    code = """
import hashlib
from edge_llava.scenes.drawing import encode_scene
from edge_llava.scenes.scene import sample_scene
files = [encode_scene(sample_scene(seed)) for seed in reversed(range(6))]
print(hashlib.sha256(b"".join(reversed(files))).hexdigest(), end="")
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == digest


def test_a_picture_is_the_decoded_jpeg():
    scene = sample_scene(5)
    file = encode_scene(scene)
    decoded = Image.open(io.BytesIO(file))
    assert (decoded.format, decoded.mode, decoded.size) == ("JPEG", "RGB", (224, 224))
    assert draw_scene(scene).tobytes() == decoded.tobytes()


@pytest.mark.parametrize("side", [16, 112, 336])
def test_any_side(side):
    assert draw_scene(sample_scene(5), side).size == (side, side)


def test_no_two_pictures_of_one_scene_have_the_same_pixels():
    """Background, light, noise and artefacts come from the seed, so that nothing can be learned pixel by pixel."""
    objects = sample_scene(9).objects
    pictures = [np.asarray(draw_scene(Scene(seed, objects)), int) for seed in range(8)]
    for i, a in enumerate(pictures):
        for b in pictures[:i]:
            assert (a != b).any(axis=2).mean() > 0.97


def test_the_background_is_textured():
    for seed in range(40):
        scene = sample_scene(seed)
        picture = np.asarray(draw_scene(scene).convert("L"), float)[draw_map(scene, 224) < 0]
        assert picture.std() > 1.5
        assert len(np.unique(picture)) > 8


def test_objects_have_the_colour_that_is_said_of_them():
    seen = dict.fromkeys(COLOURS, 0)
    for seed in range(120):
        scene = sample_scene(seed)
        picture, shown = np.asarray(draw_scene(scene)), draw_map(scene, 224)
        for index, thing in enumerate(scene.objects):
            red, green, blue = np.median(picture[shown == index], axis=0) / 255
            hue, saturation, _ = colorsys.rgb_to_hsv(red, green, blue)
            distance = {name: min(abs(hue - h), 1 - abs(hue - h)) for name, h in HUES.items()}
            assert min(distance, key=distance.__getitem__) == thing.colour
            assert saturation > 0.5
            seen[thing.colour] += 1
    assert min(seen.values()) > 20


def test_the_background_is_duller_than_any_object():
    for seed in range(60):
        scene = sample_scene(seed)
        pixels = np.asarray(draw_scene(scene).resize((56, 56), Image.Resampling.BOX).convert("HSV"), float)
        saturation, shown = pixels[..., 1] / 255, draw_map(scene, 56)
        outside = np.median(saturation[shown < 0])
        assert all(np.median(saturation[shown == i]) > outside + 0.2 for i in range(len(scene.objects)))


def test_a_ring_shows_what_is_behind_it():
    ring = next(o for seed in range(100) for o in sample_scene(seed).objects if o.shape == "ring")
    shown = draw_map(Scene(0, (ring,)), 224)
    assert shown[int(ring.y * 224), int(ring.x * 224)] == -1
    assert shown[int(ring.y * 224), int((ring.x + 0.76 * ring.radius) * 224)] == 0


def test_the_map_shows_later_objects_over_earlier_ones():
    first, second = (o for o in sample_scene(2024).objects[:2])
    under = Scene(0, (first, replace(second, x=first.x, y=first.y)))
    assert set(np.unique(draw_map(under, 224))) == {-1, 0, 1}
    assert draw_map(under, 224)[int(first.y * 224), int(first.x * 224)] == 1

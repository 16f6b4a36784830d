from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from edge_llava.scenes.drawing import draw_map
from edge_llava.scenes.scene import COLOURS, SHAPES, SIZES, SPLITS, Scene, sample_scene, sample_scenes

SIDE = 448
SCENE_2024 = [
    ("small green circle", 0.3416, 0.7248, 0.1123),
    ("small red circle", 0.53, 0.4666, 0.1121),
    ("small green circle", 0.2067, 0.1847, 0.101),
    ("small red square", 0.8692, 0.5046, 0.1046),
    ("small red triangle", 0.7432, 0.7457, 0.1148),
]
HELD_OUT_SEEDS = [(1 << 32) + offset for offset in (3, 4, 14, 21)]


def facts(scene):
    """What is where, to an eighth of the side: scenes of equal facts must be of one split."""
    return frozenset(Counter((o.phrase, int(o.x * 8), int(o.y * 8)) for o in scene.objects).items())


def test_the_scene_of_a_seed_never_changes():
    """Checkpoints name their pictures by seed: another scene under an old seed would change scores silently."""
    shown = [(o.phrase, round(o.x, 4), round(o.y, 4), round(o.radius, 4)) for o in sample_scene(2024).objects]
    assert shown == SCENE_2024
    assert [scene.seed for scene in islice(sample_scenes("held-out", 1), 4)] == HELD_OUT_SEEDS


def test_same_seed_same_scenes_and_another_seed_others():
    first, again, other = (list(islice(sample_scenes("train", seed), 50)) for seed in (3, 3, 4))
    assert first == again
    assert not {facts(scene) for scene in first} & {facts(scene) for scene in other}


def test_splits_share_no_scene(scenes):
    by_split = {split: {facts(scene) for scene in scenes if scene.split == split} for split in SPLITS}
    assert [sum(scene.split == split for scene in scenes) for split in SPLITS] == [1500, 1500]
    assert min(map(len, by_split.values())) > 1000
    assert not by_split["train"] & by_split["held-out"]


def test_one_scene_in_ten_is_held_out():
    n_held_out = sum(sample_scene(seed).split == "held-out" for seed in range(5000))
    assert abs(n_held_out / 5000 - 26 / 256) < 0.02


def test_the_split_belongs_to_what_is_seen_not_to_the_seed(scenes):
    for scene in scenes[:300]:
        moved = tuple(replace(o, x=(int(o.x * 8) + 0.5) / 8, angle=0.0, radius=0.1) for o in scene.objects)
        assert Scene(scene.seed + 1, moved[::-1]).split == scene.split


def test_a_change_that_is_seen_may_change_the_split(scenes):
    repainted = (Scene(s.seed, (replace(s.objects[0], colour="red"), *s.objects[1:])) for s in scenes[:300])
    assert {scene.split for scene in repainted} == set(SPLITS)


def test_one_to_five_objects_of_every_kind(scenes):
    n_objects = Counter(len(scene.objects) for scene in scenes)
    assert set(n_objects) == {1, 2, 3, 4, 5}
    things = [thing for scene in scenes for thing in scene.objects]
    for attribute, values in (("shape", SHAPES), ("colour", COLOURS)):
        counts = Counter(getattr(thing, attribute) for thing in things)
        assert set(counts) == set(values)
        assert len(counts) == 6
        assert max(counts.values()) < 1.2 * min(counts.values())
    assert {thing.size for thing in things} == set(SIZES)


def test_every_object_lies_inside_the_picture(scenes):
    for thing in (thing for scene in scenes for thing in scene.objects):
        assert min(thing.x, thing.y, 1 - thing.x, 1 - thing.y) >= thing.radius
        left, top, right, bottom = thing.box
        assert 0 <= left < thing.x < right <= 1
        assert 0 <= top < thing.y < bottom <= 1


def test_objects_overlap_little(scenes):
    for scene in scenes:
        for i, a in enumerate(scene.objects):
            for b in scene.objects[:i]:
                assert np.hypot(a.x - b.x, a.y - b.y) >= 0.95 * (a.radius + b.radius)


def test_small_and_large_are_distinguishable(scenes):
    radii = {
        size: [thing.radius for scene in scenes for thing in scene.objects if thing.size == size] for size in SIZES
    }
    assert max(radii["small"]) < 0.75 * min(radii["large"])


def test_boxes_are_tight(scenes):
    for thing in (thing for scene in scenes[:150] for thing in scene.objects):
        ys, xs = np.nonzero(draw_map(Scene(0, (thing,)), SIDE) == 0)
        seen = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert np.abs(seen - SIDE * np.array(thing.box)).max() < 2.0, thing


def test_every_object_is_seen_nearly_whole(scenes):
    for scene in scenes[:150]:
        together = draw_map(scene, SIDE)
        for index, thing in enumerate(scene.objects):
            alone = draw_map(Scene(0, (thing,)), SIDE) == 0
            assert (together == index)[alone].mean() > 0.97


@pytest.mark.parametrize(("shape", "share"), [("circle", np.pi), ("square", 2.0), ("triangle", 1.299), ("ring", 2.292)])
def test_shapes_have_the_area_of_their_kind(scenes, shape, share):
    """In squares of the radius: pi for a disc, pi (1 - 0.52^2) for a ring, and so on."""
    things = [thing for scene in scenes[:100] for thing in scene.objects if thing.shape == shape]
    assert len(things) > 20
    for thing in things:
        pixels = (draw_map(Scene(0, (thing,)), SIDE) == 0).sum()
        assert pixels / (SIDE * thing.radius) ** 2 == pytest.approx(share, rel=0.05)

"""What becomes of transparency, at every door of a model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from edge_llava.bundle.bundle import Bundle
from edge_llava.runtime.model import LlavaModel
from edge_llava.runtime.options import DecoderOptions, EngineOptions

pytestmark = pytest.mark.convert
ONE_THREAD = EngineOptions(decoder=DecoderOptions(n_threads=1), n_vision_threads=1)


@pytest.fixture(scope="module")
def models(seeded_f32, tmp_path_factory):
    """By their `alpha`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_LLAVA_HOME", str(tmp_path_factory.mktemp("home")))
        opened = {
            alpha: LlavaModel(Bundle.open(seeded_f32), dataclasses.replace(ONE_THREAD, alpha=alpha))
            for alpha in ("white", "drop")
        }
        yield opened
        for model in opened.values():
            model.close()


def test_each_door_puts_transparency_on_white_or_drops_it(models, noise):
    rgb = noise(64, 48)
    clear = np.dstack([rgb, np.zeros((48, 64), np.uint8)])
    for alpha, shown in (("white", np.full_like(rgb, 255)), ("drop", rgb)):
        model = models[alpha]
        expected = model.embed_image(shown)
        for source in (clear, Image.fromarray(clear)):
            assert model.embed_image(source).key == expected.key == model.tower.place(source).key
            assert model.embed_image(source).data.tobytes() == expected.data.tobytes()
        np.testing.assert_array_equal(model.patch_features(clear), model.patch_features(shown))
        assert model.show_input(clear).tobytes() == model.show_input(shown).tobytes()


def test_opaque_images_have_the_same_key(models, noise):
    rgb = noise(64, 48)
    opaque = np.dstack([rgb, np.full((48, 64), 255, np.uint8)])
    keys = {model.embed_image(source).key for model in models.values() for source in (rgb, opaque)}
    assert len(keys) == 1


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="alpha must be white or drop"):
        EngineOptions(alpha="black")  # type: ignore[arg-type]


def test_a_truncated_image_is_known_to_the_conversation(models, noise, tmp_path):
    Image.fromarray(noise(64, 48)).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    assert models["white"].tower.place(data[:-2]).truncated
    assert not models["white"].tower.place(data).truncated

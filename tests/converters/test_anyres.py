"""LLaVA-1.6: an F32 bundle computes what transformers computes, for pictures of many shapes, alone and together."""

from __future__ import annotations

import numpy as np
import pytest

import edge_llava

pytestmark = pytest.mark.convert

N_NEW = 24
HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
SIZES = [(70, 123), (123, 70), (112, 112), (30, 30), (20, 260), (300, 31), (224, 224), (199, 111)]  # height, width


@pytest.fixture
def converted(make_next, convert_to, shape, next_reference):
    """converted(seed) -> an F32 bundle and its checkpoint in transformers."""

    def make(seed: int):
        checkpoint = make_next(shape(heads=4, kv_heads=2, context=1024, image_size=56), seed)
        return convert_to(checkpoint, quant="F32"), next_reference(checkpoint)

    return make


def test_pictures_of_many_shapes(converted, picture):
    bundle, truth = converted(31)
    with edge_llava.load(bundle) as model:
        assert model.manifest.vision.aspect == "anyres"
        n_tokens = set()
        for height, width in SIZES:
            shown = picture(height, width, height)
            ours, theirs = model.embed_image(shown).data, truth.embedding(shown)
            assert ours.shape == theirs.shape
            assert np.abs(ours - theirs).max() < 1e-4
            assert theirs.std(0).mean() > 0.3
            n_tokens.add(len(ours))
        assert len(n_tokens) > 4


@pytest.mark.parametrize("sizes", [[(70, 123)], [(199, 111), (30, 30)], [(20, 260), (112, 112)]])
def test_answers_about_one_and_several(converted, picture, sizes):
    bundle, truth = converted(33)
    shown = [picture(height, width, height) for height, width in sizes]
    prompt = f"{HUMAN} USER: " + "<image>\n" * len(shown) + "What is it? ASSISTANT:"
    expected = truth.greedy_about(prompt, shown, N_NEW)
    options = edge_llava.SamplingOptions(temperature=0, max_new_tokens=N_NEW)
    with edge_llava.load(bundle) as model:
        tokens = [token.id for token in model.session(options).ask("What is it?", image=shown)]
    assert tokens == expected
    assert len(set(tokens)) > N_NEW // 4

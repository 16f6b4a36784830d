"""A bundle opened with fewer visual tokens: what is computed, what is counted, and what is never taken for what."""

from __future__ import annotations

import dataclasses

import numpy as np
import PIL.Image
import pytest

import edge_llava
from edge_llava.bundle.bundle import Bundle
from edge_llava.device.thread_count import ThreadCount
from edge_llava.errors import BundleError, ContextOverflow, ImageError
from edge_llava.home.directories import cache_directory
from edge_llava.runtime.kv.disk_cache import PrefixStore
from edge_llava.runtime.model import LlavaModel
from edge_llava.runtime.options import DecoderOptions, EngineOptions, SamplingOptions
from edge_llava.runtime.vision.encoder import VisionEncoder
from edge_llava.runtime.vision.image import Image
from edge_llava.runtime.vision.image_embedding import ImageEmbedding
from edge_llava.runtime.vision.image_encoder import ImageEncoder
from edge_llava.runtime.vision.preprocess import pixel_values
from edge_llava.runtime.vision.projector import Projector
from edge_llava.runtime.vision.tower import Tower
from edge_llava.runtime.vision.visual_tokens import reduce_tokens

QUESTION = "What is this?"
GREEDY = SamplingOptions(temperature=0, max_new_tokens=8)


@pytest.fixture
def picture(noise):
    return noise(64, 48)


@pytest.fixture
def open_with(home, seeded_f32):
    """open_with(visual tokens, cache=False, **DecoderOptions fields) -> the F32 demo."""
    opened = []

    def run(visual_tokens, *, cache=False, path=seeded_f32, **decoder):
        options = EngineOptions(
            DecoderOptions(n_threads=1, **decoder), n_vision_threads=1, cache=cache, visual_tokens=visual_tokens
        )
        opened.append(edge_llava.load(path, options))
        return opened[-1]

    yield run
    for model in opened:
        model.close()


def ask(model, image, question=QUESTION):
    """(ids, timings) of the first answer of a new conversation."""
    chat = model.session(GREEDY)
    return [token.id for token in chat.ask(question, image=image)], chat.timings


@pytest.mark.parametrize("n", [2, 16, 63])
def test_rows_are_the_projected_reduced_features(n, open_with, seeded_f32, picture):
    bundle = Bundle.open(seeded_f32)
    vision = VisionEncoder(bundle.file("vision"), bundle.manifest.vision, EngineOptions(n_vision_threads=1))
    projector = Projector(bundle.file("projector"), bundle.manifest.projector, ThreadCount(1))
    patches = vision.rank(pixel_values(PIL.Image.fromarray(picture), bundle.manifest.vision))
    expected = projector(reduce_tokens(patches, n))
    vision.close()
    projector.close()
    model = open_with(n)
    embedding = model.embed_image(picture)
    assert embedding.data.tobytes() == expected.tobytes()
    assert (embedding.n_tokens, embedding.grid, embedding.image_size) == (n, (8, 8), (64, 48))
    assert model.patch_features(picture).shape == (64, 32)  # what the tower sees does not change
    assert min(embedding.vision_s, embedding.projector_s) > 0


def test_kept_rows_are_those_of_the_whole_picture(open_with, picture):
    """The rows of 16 are rows of 64, in the same order."""
    whole, reduced = (open_with(n).embed_image(picture).data for n in (None, 16))
    distances = np.abs(reduced[:, None] - whole[None]).max(-1)
    kept = distances.min(1) < 1e-4 * np.abs(whole).max()
    assert kept.sum() == 16
    places = distances.argmin(1)[kept]
    assert (np.diff(places) > 0).all()


def key_of(path, image, n):
    return Tower(Bundle.open(path), EngineOptions(visual_tokens=n)).key(image)


def test_every_number_has_a_key_of_its_own(seeded_f32, picture, noise):
    images = [Image.open(picture), Image.open(noise(64, 48, seed=1))]
    keys = {key_of(seeded_f32, image, n) for image in images for n in [None, *range(2, 64)]}
    assert len(keys) == 2 * 63


def test_the_key_says_how_many_whoever_computes_it(open_with, seeded_f32, picture):
    for n in (None, 16, 17):
        model = open_with(n)
        key = key_of(seeded_f32, Image.open(picture), n)
        assert model.embed_image(picture).key == model.tower.place(picture).key == key
        chat = model.session(GREEDY)
        list(chat.ask(QUESTION, image=picture))
        assert (chat.images[0].key, chat.images[0].n_tokens) == (key, n or 64)


def test_positions_are_counted(open_with, picture, positions):
    whole, reduced = open_with(None), open_with(16)
    counts = [ask(model, picture)[1].prefill_tokens for model in (whole, reduced)]
    assert counts[0] - counts[1] == 64 - 16
    chat = reduced.session(GREEDY)
    assert "<image: 16 positions>" in chat.show_prompt(QUESTION, image=picture)
    list(chat.ask(QUESTION, image=[picture, picture]))
    assert [image.n_tokens for image in chat.images] == [16, 16]
    assert len(positions(reduced)) == chat.n_positions - 1  # the last token was not needed yet


def test_a_context_too_small_for_all_tokens(open_with, picture):
    n_needed = ask(open_with(None), picture)[1].prefill_tokens + 1
    with pytest.raises(ContextOverflow) as caught:
        open_with(None, n_ctx=n_needed - 40).session(GREEDY).ask(QUESTION, image=picture)
    assert "64 for 1 images" in str(caught.value)
    tight = open_with(16, n_ctx=n_needed - 40)
    assert len(ask(tight, picture)[0]) > 1
    with pytest.raises(ContextOverflow) as caught:
        tight.session(GREEDY).ask(QUESTION, image=[picture] * 5)
    assert "80 for 5 images" in str(caught.value)


def test_another_number_is_not_restored_from_disk(open_with, picture):
    """Each keeps its own beginning, and finds no other's."""
    answers = {}
    for n in (None, 16, 17, 63):
        answers[n], timings = ask(open_with(n, cache=True), picture)
        assert timings.cached_tokens == 0
    assert len(list(PrefixStore(cache_directory()).files())) == 4
    for n, answer in answers.items():
        model = open_with(n, cache=True)
        again, timings = ask(model, picture)
        assert again == answer
        assert timings.cached_tokens == len(
            model.engine.language.tokenize(model._planner.template.opening[0], add_bos=True)
        ) + (n or 64)
        assert timings.vision_s == 0


def test_nothing_changes_unless_asked(open_with, model, picture):
    """None is what a model without the option does."""
    assert open_with(None).embed_image(picture).key == model.embed_image(picture).key
    assert open_with(None).embed_image(picture).data.tobytes() == model.embed_image(picture).data.tobytes()
    assert ask(open_with(None), picture)[0] == ask(model, picture)[0]


def test_saved_embeddings_of_another_number_are_refused(open_with, picture, tmp_path):
    models = {n: open_with(n) for n in (None, 16, 17)}
    for n, model in models.items():
        model.embed_image(picture).save(tmp_path / f"{n}")
    for n, model in models.items():
        for other in models:
            loaded = ImageEmbedding.load(tmp_path / f"{other}")
            if other == n:
                assert ask(model, loaded)[0] == ask(model, picture)[0]
                continue
            with pytest.raises(ImageError) as caught:
                ask(model, loaded)
            assert f"has shape ({other or 64}, 64), expected ({n or 64}, 64)" in str(caught.value)
            assert "--visual-tokens" in str(caught.value)


def test_embeddings_are_never_taken_for_each_other(open_with, picture, tmp_path):
    """Rows of the whole picture cut to as many, under the key of the reduced one, in memory and from a file."""
    whole, model = open_with(None).embed_image(picture), open_with(16)
    own = model.embed_image(picture)
    forged = dataclasses.replace(whole, data=whole.data[:16].copy(), key=own.key)
    forged.save(tmp_path / "forged")
    loaded = ImageEmbedding.load(tmp_path / "forged")
    assert own.identity == own.key == loaded.key
    assert len({own.identity, forged.identity, whole.identity}) == 3
    assert loaded.identity == forged.identity
    expected = ask(open_with(16), picture)[0]
    n_before = len(model.engine.language.tokenize(model._planner.template.opening[0], add_bos=True))
    for image, other in ((own, loaded), (loaded, picture), (picture, forged), (forged, own)):
        ask(model, image)
        answer, timings = ask(model, other)
        assert timings.cached_tokens == n_before
        assert other is loaded or other is forged or answer == expected


def test_embeddings_of_the_same_number_are_exchanged(open_with, picture):
    first, second = open_with(16), open_with(16)
    embedding = first.embed_image(picture)
    expected = ask(first, embedding)[0]
    assert ask(second, embedding)[0] == expected
    _, timings = ask(second, picture)
    assert timings.cached_tokens > 16  # the same rows are known by the same key
    assert timings.vision_s == 0


@pytest.mark.parametrize("n", [None, 16])
def test_a_picture_encoded_while_the_model_is_loaded_is_the_one_asked_about(n, seeded_f32, picture):
    options = EngineOptions(DecoderOptions(n_threads=1), n_vision_threads=1, visual_tokens=n)
    with LlavaModel(Bundle.open(seeded_f32), options, first_images=[picture]) as model:
        (key,) = model.tower._early
        assert key == key_of(seeded_f32, Image.open(picture), n)
        answer, timings = ask(model, picture)
        assert not model.tower._early  # taken, not encoded again
        assert timings.vision_s > 0
        assert answer == ask(model, model.embed_image(picture))[0]


@pytest.mark.parametrize("n", [64, 65, 576])
def test_too_many_is_said_when_the_model_is_opened(n, open_with, seeded_f32):
    with pytest.raises(BundleError, match=r"gives an image 64 tokens: --visual-tokens takes 2 to 63"):
        open_with(n)
    with pytest.raises(BundleError, match="takes 2 to 63"):
        ImageEncoder(Bundle.open(seeded_f32), EngineOptions(visual_tokens=n))


@pytest.mark.parametrize("n", [1, 0, -5])
def test_too_few_is_no_option(n):
    with pytest.raises(ValueError, match="visual_tokens must be at least 2"):
        EngineOptions(visual_tokens=n)

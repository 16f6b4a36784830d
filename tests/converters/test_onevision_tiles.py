"""OneVision's tiles: an F32 bundle computes what transformers computes for one image and for several, with limits."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import N_TOKENS, NextReference  # of this directory

import edge_llava
from edge_llava.errors import ConversionError, ImageError
from edge_llava.runtime.dialogue.messages import Message
from edge_llava.runtime.runs import ImageRun

pytestmark = pytest.mark.convert

N_NEW = 24
SIZES = [(70, 123), (123, 70), (112, 112), (30, 30), (20, 260), (300, 31), (224, 224), (199, 111)]  # height, width
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)


class OnevisionReference(NextReference):
    """transformers' LLaVA-OneVision."""

    def __init__(self, directory):
        import torch
        from transformers import LlamaTokenizer, LlavaOnevisionForConditionalGeneration

        self.model = LlavaOnevisionForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
        self.tokenizer = LlamaTokenizer(vocab_file=str(directory / "tokenizer.model"), legacy=True)
        self.config = self.model.config

    def process(self, images):
        """(n, T, 3, S, S) float32 of the images of one prompt."""
        from PIL import Image
        from transformers import CLIPImageProcessor
        from transformers.models.llava_onevision.image_processing_llava_onevision import LlavaOnevisionImageProcessor

        side, clip = self.config.vision_config.image_size, CLIPImageProcessor()
        processor = LlavaOnevisionImageProcessor(
            size={"height": side, "width": side}, image_grid_pinpoints=self.config.image_grid_pinpoints,
            image_mean=clip.image_mean, image_std=clip.image_std,
        )  # fmt: skip
        return processor([[Image.fromarray(image) for image in images]], return_tensors="np")["pixel_values"]

    def rows(self, images):
        """Embedding rows (N, E) of each image of one prompt."""
        import torch

        sizes = torch.tensor([image.shape[:2] for image in images])
        with torch.inference_mode():
            rows = self.model.model.get_image_features(
                torch.from_numpy(self.process(images)), sizes, batch_num_images=torch.tensor([len(images)])
            )
        return [values.numpy() for values in rows]

    def greedy_about(self, prompt, images, n_tokens=N_NEW):
        import torch

        first, *others = prompt.split("<image>")
        ids = self.ids(first, bos=True)
        for rows, piece in zip(self.rows(images), others, strict=True):
            ids += [self.config.image_token_index] * len(rows) + self.ids(piece)
        tokens = torch.tensor([ids])
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                pixel_values=torch.from_numpy(self.process(images)),
                image_sizes=torch.tensor([image.shape[:2] for image in images]),
                batch_num_images=torch.tensor([len(images)]),
                do_sample=False,
                max_new_tokens=n_tokens,
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.config.pad_token_id,
                suppress_tokens=list(range(N_TOKENS, self.config.text_config.vocab_size)) or None,
                return_dict_in_generate=True,
                output_scores=True,
            )
        best = torch.stack(output.scores)[:, 0].topk(2).values
        assert (best[:, 0] - best[:, 1]).min() > 1e-3
        return output.sequences[0, len(ids) :].tolist()


@pytest.fixture
def make_onevision(make_next, shape, edit_config):
    """make_onevision(seed) -> OneVision's canvases and limit on a small CLIP and LLaMA."""

    def make(seed):
        checkpoint = make_next(shape(heads=4, kv_heads=2, context=1024, image_size=56), seed)
        kind = {"architectures": ["LlavaOnevisionForConditionalGeneration"], "model_type": "llava_onevision"}
        tap = {
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "default",
            "vision_aspect_ratio": "anyres_max_2",
        }
        edit_config(checkpoint, kind | tap)
        return checkpoint

    return make


@pytest.fixture
def converted(make_onevision, convert_to):
    """converted(seed) -> an F32 bundle and its checkpoint in transformers."""

    def make(seed):
        checkpoint = make_onevision(seed)
        return convert_to(checkpoint, quant="F32", template="llava_v1"), OnevisionReference(checkpoint)

    return make


def ask(session, question, **options):
    return [token.id for token in session.ask(question, **options)]


def greedy(n_tokens=N_NEW):
    return edge_llava.SamplingOptions(temperature=0, max_new_tokens=n_tokens)


def test_images_of_many_shapes(converted, make_image):
    bundle, truth = converted(41)
    with edge_llava.load(bundle) as model:
        vision, n_scaled = model.manifest.vision, 0
        assert (vision.aspect, vision.merge_limit, vision.several_images) == ("anyres", 2, "square_with_newline")
        for height, width in SIZES:
            shown = make_image(height, width, height)
            ours, (theirs,) = model.embed_image(shown), truth.rows([shown])
            assert ours.data.shape == theirs.shape
            assert np.abs(ours.data - theirs).max() < 1e-4
            unlimited = replace(vision, merge_limit=None)
            n_scaled += model.tower.n_tokens((width, height)) != model.tower.n_tokens((width, height), unlimited)
            assert ours.n_tokens == 16 + ours.grid[0] * (ours.grid[1] + 1)
        assert n_scaled == 2


def test_several_images_are_squares(converted, make_image):
    bundle, truth = converted(43)
    shown = [make_image(height, width, height) for height, width in ((70, 123), (199, 111), (30, 30))]
    expected = truth.greedy_about(f"{SYSTEM} USER: " + "<image>\n" * 3 + "What is it? ASSISTANT:", shown)
    with edge_llava.load(bundle) as model:
        rows = [model.embed_image(image, among_several=True).data for image in shown]
        for ours, theirs in zip(rows, truth.rows(shown), strict=True):
            assert ours.shape == theirs.shape == (17, theirs.shape[1])
            assert np.abs(ours - theirs).max() < 1e-4
        chat = model.session(greedy())
        assert ask(chat, "What is it?", image=shown) == expected
        assert [image.n_tokens for image in chat.images] == [17] * 3
        embedded = [model.embed_image(image, among_several=True) for image in shown]
        assert ask(model.session(greedy()), "What is it?", image=embedded) == expected


def test_a_second_image_changes_the_first(converted, make_image):
    """The conversation is as if both had been known from its beginning, for sessions and for messages."""
    bundle, _ = converted(43)
    first, second = make_image(70, 123, 1), make_image(199, 111, 2)
    with edge_llava.load(bundle) as model:
        chat = model.session(greedy())
        ask(chat, "What is it?", image=first)
        (alone,) = chat.images
        assert alone.n_tokens > 17
        ask(chat, "And this?", image=second)
        assert [image.n_tokens for image in chat.images] == [17, 17]
        assert chat.images[0].key != alone.key
        assert ask(chat, "Which is larger?") == ask(replay(model, chat), "Which is larger?")
        messages = [
            Message("user", "What is it?", (first,)),
            Message("assistant", "A box."),
            Message("user", "And this?", (second,)),
        ]
        runs = model._planner.request(messages, greedy()).runs
        assert [run.key for run in runs if isinstance(run, ImageRun)] == [image.key for image in chat.images]


def replay(model, chat):
    """A session with the same turns, planned at once."""
    again = model.session(greedy())
    again._past = model._planner._plan_again(chat._past[:-1], model._planner.template)
    return again


def test_an_embedding_made_alone_is_refused_among_several(converted, make_image):
    bundle, _ = converted(43)
    first, second = make_image(70, 123, 1), make_image(199, 111, 2)
    with edge_llava.load(bundle) as model:
        alone, square = model.embed_image(first), model.embed_image(second, among_several=True)
        chat = model.session(greedy(4))
        ask(chat, "What is it?", image=alone)
        n_positions = chat.n_positions
        with pytest.raises(ImageError) as caught:
            chat.ask("And this?", image=second)
        assert str(caught.value) == (
            f"this image embedding has the {alone.n_tokens} positions that {bundle.name} takes for an image alone, "
            "expected 17. Give the image itself, or embed it with --among-several."
        )
        assert chat.n_positions == n_positions
        assert ask(chat, "Is it?")
        with pytest.raises(ImageError, match=r"for an image one of several, expected .* without --among-several"):
            model.session().ask("What is it?", image=square)


def test_a_limit_that_is_recorded(make_onevision, convert_to, make_image):
    checkpoint, shown = make_onevision(47), make_image(224, 224, 1)
    bundle = convert_to(checkpoint, quant="F32", template="llava_v1", max_tiles=3)
    assert json.loads((bundle / "manifest.json").read_text())["vision"]["max_tiles"] == 3
    truth = OnevisionReference(checkpoint)
    truth.config.image_grid_pinpoints = [
        pair for pair in truth.config.image_grid_pinpoints if pair[0] * pair[1] <= 2 * 56**2
    ]
    assert len(truth.config.image_grid_pinpoints) == 2
    with edge_llava.load(bundle) as model:
        ours, (theirs,) = model.embed_image(shown), truth.rows([shown])
        assert ours.data.shape == theirs.shape
        assert np.abs(ours.data - theirs).max() < 1e-4
        key = ours.key
    for n, differs in ((5, False), (3, False)):
        with edge_llava.load(bundle, edge_llava.EngineOptions(max_tiles=n)) as model:
            assert (model.embed_image(shown).key != key) == differs
    whole = convert_to(checkpoint, quant="F32", template="llava_v1")
    keys = set()
    for n in (None, 4, 3):
        with edge_llava.load(whole, edge_llava.EngineOptions(max_tiles=n)) as model:
            keys.add(model.embed_image(shown).key)
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("options", "says"),
    [({"max_tiles": 2}, "as 3 tiles or more"), ({"max_tiles": 5, "aspect": "pad"}, "does not cut images")],
)
def test_limits_that_cannot_be(make_onevision, convert_to, options, says):
    with pytest.raises(ConversionError) as caught:
        convert_to(make_onevision(48), quant="F32", template="llava_v1", **options)
    assert says in str(caught.value)

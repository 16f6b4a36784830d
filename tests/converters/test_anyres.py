"""LLaVA-1.6: an F32 bundle computes what transformers computes, for images of many shapes, alone and together."""

from __future__ import annotations

import numpy as np
import pytest

import edge_llava
from edge_llava.errors import BundleError

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


@pytest.mark.family(
    "LLaVA-1.6, Hugging Face",
    "LlavaNextForConditionalGeneration, image_newline, any pinpoints",
    "pixels 0.0, embeddings < 1e-4 at 8 shapes",
)
def test_images_of_many_shapes(converted, make_image):
    bundle, truth = converted(31)
    with edge_llava.load(bundle) as model:
        assert model.manifest.vision.aspect == "anyres"
        n_tokens = set()
        for height, width in SIZES:
            shown = make_image(height, width, height)
            ours, theirs = model.embed_image(shown).data, truth.embedding(shown)
            assert ours.shape == theirs.shape
            assert np.abs(ours - theirs).max() < 1e-4
            assert theirs.std(0).mean() > 0.3
            n_tokens.add(len(ours))
        assert len(n_tokens) > 4


@pytest.mark.parametrize("sizes", [[(70, 123)], [(199, 111), (30, 30)], [(20, 260), (112, 112)]])
def test_answers_about_one_and_several(converted, make_image, sizes):
    bundle, truth = converted(33)
    shown = [make_image(height, width, height) for height, width in sizes]
    prompt = f"{HUMAN} USER: " + "<image>\n" * len(shown) + "What is it? ASSISTANT:"
    expected = truth.greedy_about(prompt, shown, N_NEW)
    options = edge_llava.SamplingOptions(temperature=0, max_new_tokens=N_NEW)
    with edge_llava.load(bundle) as model:
        tokens = [token.id for token in model.session(options).ask("What is it?", image=shown)]
    assert tokens == expected
    assert len(set(tokens)) > N_NEW // 4


@pytest.mark.family(
    "LLaVA-1.6, original",
    "image_aspect_ratio anyres, spatial_unpad, pinpoints as list or text, tower inside (fine-tuned or not)",
    "embeddings < 1e-4 at 8 shapes",
)
def test_original_layout_with_a_tower_of_its_own(
    make_llava, original_layout, shape, reference, make_image, convert_to, weights_of
):
    """Pinpoints are written as text, (width, height); the unpadded size is rounded down."""
    import torch

    llava = make_llava(
        shape(heads=4, kv_heads=2, vision_width=128, vision_heads=2, context=1024, image_size=56), seed=34
    )
    pinpoints = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
    directory = original_layout(
        llava, tower=None, image_aspect_ratio="anyres", mm_patch_merge_type="spatial_unpad",
        image_grid_pinpoints=str(pinpoints), unfreeze_mm_vision_tower=True,
    )  # fmt: skip
    tensors = torch.load(directory / "pytorch_model.bin", weights_only=True)
    newline = torch.randn(tensors["model.norm.weight"].shape, generator=torch.Generator().manual_seed(2))
    inside = {f"model.vision_tower.{n}": t for n, t in weights_of(llava).items() if n.startswith("vision_tower.")}
    torch.save(tensors | inside | {"model.image_newline": newline}, directory / "pytorch_model.bin")
    truth = reference(llava)
    with edge_llava.load(convert_to(directory, quant="F32")) as model:
        for height, width in SIZES:
            shown = make_image(height, width, width)
            pixels = next_pixels(shown, pinpoints)
            rows = torch.from_numpy(np.stack([truth.embeddings(square[None]) for square in pixels]))
            expected = as_published(rows, newline, (width, height), pinpoints, 56)
            assert np.abs(model.embed_image(shown).data - expected.numpy()).max() < 1e-4


def next_pixels(shown: np.ndarray, pinpoints: list[list[int]]) -> np.ndarray:
    from PIL import Image
    from transformers.models.llava_next.image_processing_llava_next import LlavaNextImageProcessor

    processor = LlavaNextImageProcessor(
        image_grid_pinpoints=[[height, width] for width, height in pinpoints],
        size={"shortest_edge": 56},
        crop_size={"height": 56, "width": 56},
    )
    return processor(Image.fromarray(shown), return_tensors="np")["pixel_values"][0]


def as_published(rows, newline, size, pinpoints, side):
    """LLaVA's prepare_inputs_labels_for_multimodal of one image, with its own unpad_image."""
    import torch
    from transformers.models.llava_next.modeling_llava_next import select_best_resolution

    width, height = size
    best_height, best_width = select_best_resolution((height, width), [(h, w) for w, h in pinpoints])
    n_down, n_across, patches = best_height // side, best_width // side, side // 14
    image = rows[1:].view(n_down, n_across, patches, patches, -1)
    image = image.permute(4, 0, 2, 1, 3).contiguous().flatten(1, 2).flatten(2, 3)
    current_height, current_width = image.shape[1:]
    if width / height > current_width / current_height:
        padding = (current_height - int(height * (current_width / width))) // 2
        image = image[:, padding : current_height - padding, :]
    else:
        padding = (current_width - int(width * (current_height / height))) // 2
        image = image[:, :, padding : current_width - padding]
    image = torch.cat((image, newline[:, None, None].expand(*image.shape[:-1], 1)), dim=-1)
    return torch.cat((rows[0], image.flatten(1, 2).transpose(0, 1)), dim=0)


def test_tokens_of_tiles_are_not_reduced(converted):
    bundle, _ = converted(31)
    with pytest.raises(BundleError) as caught:
        edge_llava.load(bundle, edge_llava.EngineOptions(visual_tokens=8))
    assert str(caught.value) == (
        "this bundle cuts images into tiles (anyres): their tokens cannot be reduced. Leave --visual-tokens out."
    )

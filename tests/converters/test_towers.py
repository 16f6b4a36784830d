"""SigLIP towers: what transformers computes with them, from every layout; and which tower a checkpoint holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import edge_llava
from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.row_cosines import row_cosines
from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.expected_tensors import infer_tower
from edge_llava.converters.model_configs import read_tower
from edge_llava.converters.preprocessor import check_preprocessor, find_aspect
from edge_llava.converters.taps import FeatureTap, TapChoice, find_tap
from edge_llava.converters.towers import CLIP, SIGLIP
from edge_llava.errors import CheckpointError, ConversionError
from edge_llava.home.image_files.opening import open_image
from edge_llava.runtime.vision.preprocess import pixel_values

pytestmark = pytest.mark.convert

MAX_ABS, N_NEW = 1e-4, 32
QUESTION = "What is shown in this picture?"
PROMPT = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    f"and polite answers to the human's questions. USER: <image>\n{QUESTION} ASSISTANT:"
)
FULL = {"vision_feature_select_strategy": "full", "image_seq_length": 9}
SIGLIP_PROCESSOR = {
    "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "SiglipImageProcessor", "image_std": [0.5, 0.5, 0.5], "resample": 3,
    "rescale_factor": 1 / 255, "size": {"height": 48, "width": 48},
}  # fmt: skip
SO400M = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
    "num_attention_heads": 16, "image_size": 384, "patch_size": 14,
}  # fmt: skip


@pytest.fixture
def make_siglip(make_llava, shape, copy_of, edit_config, weights_of, put_weights) -> Callable[..., Path]:
    """make_siglip(seed, changes of config.json, **fields of Shape) -> LLaVA with a SigLIP of 48 px: 3 * 14 + 6."""

    def make(seed: int, changes: dict[str, Any] = FULL, **fields: Any) -> Path:
        fields = {"tower": "siglip_vision_model", "image_size": 48, **fields}
        copy = copy_of(make_llava(shape(**fields), seed))
        edit_config(copy, changes)
        tensors = weights_of(copy)
        for name, tensor in tensors.items():
            if name.startswith("vision_tower") and tensor.ndim > 1:
                tensor.mul_(0.25)  # as transformers draws a SigLIP's, which is wider than a CLIP's
            if "projector" in name and tensor.ndim > 1:
                tensor.mul_(2.5)
        put_weights(copy, tensors)
        sides = dict.fromkeys(("height", "width"), fields["image_size"])
        (copy / "preprocessor_config.json").write_text(json.dumps(SIGLIP_PROCESSOR | {"size": sides}))
        return copy

    return make


def compare(bundle: Path, truth: Any, image: np.ndarray, aspect: str = "squash") -> None:
    """Asserts that every stage of the bundle equals the reference."""
    pixels = truth.pixels(image, aspect)
    features, embeddings = truth.features(pixels), truth.embeddings(pixels)
    tokens = truth.greedy(truth.prompt_ids(PROMPT), [pixels], N_NEW)
    with edge_llava.load(bundle) as model:
        assert model.manifest.vision.aspect == aspect
        our_pixels = pixel_values(open_image(image), model.manifest.vision)
        our_features, our_rows = model.patch_features(image), model.embed_image(image).data
        options = edge_llava.SamplingOptions(temperature=0, max_new_tokens=N_NEW)
        our_tokens = [token.id for token in model.session(options).ask(QUESTION, image=image)]
    assert np.abs(our_pixels - pixels).max() == 0.0
    assert our_features.shape == features.shape
    assert embeddings.std(0).mean() > 0.3  # far enough from each other for 1e-4 to mean something
    assert np.abs(our_features - features).max() < MAX_ABS
    assert our_rows.shape == embeddings.shape
    assert np.abs(our_rows - embeddings).max() < MAX_ABS
    assert our_tokens == tokens
    assert len(set(tokens)) > len(tokens) // 3


def test_as_transformers_computes_it(make_siglip, convert_to, reference, make_image):
    checkpoint = make_siglip(60)
    bundle = convert_to(checkpoint, quant="F32")
    compare(bundle, reference(checkpoint), make_image(70, 123, 60))
    vision = Bundle.open(bundle).manifest.vision
    assert (vision.n_blocks, vision.has_class_row, vision.n_dropped_rows, vision.n_features) == (2, False, 0, 9)
    assert (vision.ranking, vision.image_mean, vision.image_std) == ("received_attention", (0.5,) * 3, (0.5,) * 3)


def test_heads_that_are_72_wide(make_siglip, convert_to, reference, make_image):
    checkpoint = make_siglip(61, vision_width=144, vision_heads=2)
    compare(convert_to(checkpoint, quant="F32"), reference(checkpoint), make_image(200, 90, 61))


def test_the_last_state_is_not_normalized(make_siglip, convert_to, reference, make_image):
    checkpoint = make_siglip(62, FULL | {"vision_feature_layer": -1})
    bundle = convert_to(checkpoint, quant="F32")
    compare(bundle, reference(checkpoint), make_image(48, 48, 62))
    assert Bundle.open(bundle).manifest.vision.n_blocks == 3


def test_a_dropped_row_is_a_patch(make_siglip, convert_to, reference, make_image):
    """transformers drops the first row for the strategy "default", whatever the tower."""
    checkpoint = make_siglip(63, {"image_seq_length": 8})
    bundle = convert_to(checkpoint, quant="F32")
    compare(bundle, reference(checkpoint), make_image(90, 61, 63))
    vision = Bundle.open(bundle).manifest.vision
    assert (vision.n_features, vision.n_dropped_rows, vision.ranking) == (8, 1, "none")


def test_pixels_beyond_whole_patches_never_matter(make_siglip, convert_to, make_image):
    bundle = convert_to(make_siglip(64), quant="F32")
    session = onnxruntime.InferenceSession(bundle / "vision.onnx", providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).standard_normal((1, 3, 48, 48)).astype(np.float32)
    others = pixels.copy()
    others[:, :, 42:], others[:, :, :, 42:] = 9, -9
    (features,), (same,) = (session.run(["patch_features"], {"pixel_values": p}) for p in (pixels, others))
    assert features.shape == (1, 9, 64)
    assert np.array_equal(features, same)
    others[:, :, 41] = 9
    assert not np.array_equal(features, session.run(["patch_features"], {"pixel_values": others})[0])


def test_729_patches(make_siglip, convert_to, reference, make_image):
    """As published: 384 px are 27 patches of 14 px, and 6 px."""
    wide = {"image_size": 384, "vision_width": 144, "vision_heads": 2, "context": 1024}
    checkpoint = make_siglip(65, FULL | {"image_seq_length": 729}, **wide)
    truth, image = reference(checkpoint), make_image(300, 500, 65)
    rows = truth.embeddings(truth.pixels(image, "squash"))
    with edge_llava.load(convert_to(checkpoint, quant="F32")) as model:
        ours = model.embed_image(image).data
    assert ours.shape == rows.shape == (729, 64)
    assert np.abs(ours - rows).max() < MAX_ABS


class TestAllBlocksButTheLast:
    """26 of 27 blocks, by all roads that published models take; here 2 of 3."""

    @pytest.fixture
    def llava(self, make_siglip) -> Path:
        """A LLaVA in Hugging Face layout with layer -2 of 3; 42 px and wide heads, as are inferred from tensors."""
        checkpoint = make_siglip(66, image_size=42, vision_width=144, vision_heads=2)
        (checkpoint / "preprocessor_config.json").unlink()
        return checkpoint

    @pytest.fixture
    def embed(self, convert_to, make_image) -> Callable[..., np.ndarray]:
        """embed(checkpoint) -> embedding (P, E) of an image."""

        def run(checkpoint: Path) -> np.ndarray:
            bundle = convert_to(checkpoint, quant="F32")
            vision = Bundle.open(bundle).manifest.vision
            assert (vision.n_blocks, vision.n_dropped_rows, vision.aspect, vision.image_size) == (2, 0, "squash", 42)
            assert vision.image_mean == (0.5, 0.5, 0.5)
            with edge_llava.load(bundle) as model:
                return model.embed_image(make_image(70, 50, 66)).data

        return run

    def test_two_stored_blocks(
        self, llava, embed, copy_of, edit_config, weights_of, put_weights, reference, make_image
    ):
        other = copy_of(llava)
        edit_config(other, {"vision_config.num_hidden_layers": 2, "vision_feature_layer": -1})
        put_weights(other, {n: t for n, t in weights_of(other).items() if ".layers.2." not in n or "vision" not in n})
        rows = embed(llava)
        truth = reference(llava)
        assert np.abs(rows - truth.embeddings(truth.pixels(make_image(70, 50, 66), "squash"))).max() < MAX_ABS
        assert np.array_equal(embed(other), rows)

    @pytest.mark.parametrize("place", ["inside", "whole", "half"])
    def test_the_original_layout(self, llava, embed, original_layout, weights_of, tmp_path, place):
        """Its code ignores layer and feature, and deletes the last block; what it saves inside lacks it already."""
        import torch

        tower = {n: t for n, t in weights_of(llava).items() if n.startswith("vision_tower.")}
        ignored = {"mm_vision_select_layer": -1, "mm_vision_select_feature": "patch", "image_aspect_ratio": None}
        original = original_layout(llava, None, mm_vision_tower=None if place == "inside" else "../tower", **ignored)
        if place == "inside":
            weights = torch.load(original / "pytorch_model.bin", weights_only=True)
            kept = {f"model.vision_tower.{n}": t for n, t in tower.items() if ".layers.2." not in n}
            torch.save(weights | kept, original / "pytorch_model.bin")
        else:
            save_siglip(
                tmp_path / "tower", json.loads((llava / "config.json").read_text())["vision_config"], tower, place
            )
        assert np.array_equal(embed(original), embed(llava))


def save_siglip(target: Path, vision: dict[str, Any], tensors: dict[str, Any], part: str) -> None:
    """Saves a SiglipModel ("whole"), or its SiglipVisionModel ("half")."""
    from transformers import SiglipConfig, SiglipModel, SiglipTextConfig, SiglipVisionConfig, SiglipVisionModel

    text = SiglipTextConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    config = SiglipVisionConfig(**vision)
    whole = SiglipConfig(text_config=text.to_dict(), vision_config=config.to_dict())
    model = SiglipModel(whole) if part == "whole" else SiglipVisionModel(config)
    inner = {name.removeprefix("vision_tower."): tensor for name, tensor in tensors.items()}
    missing, unexpected = model.load_state_dict(inner, strict=False)
    assert not unexpected
    assert not any(name.startswith("vision_model.") for name in missing)
    model.save_pretrained(target)


class TestRanking:
    @pytest.fixture
    def pixels(self) -> np.ndarray:
        """Two squares."""
        return np.random.default_rng(0).standard_normal((2, 3, 48, 48)).astype(np.float32)

    def run(self, bundle: Path, pixels: np.ndarray) -> list[np.ndarray]:
        session = onnxruntime.InferenceSession(bundle / "vision.onnx", providers=["CPUExecutionProvider"])
        shapes = {output.name: output.shape[1:] for output in session.get_outputs()}
        assert shapes == {"patch_features": [9, 64], "cls_attention": [9], "patch_keys": [9, 16]}
        return session.run(list(shapes), {"pixel_values": pixels})

    def eager(self, checkpoint: Path, pixels: np.ndarray) -> list[np.ndarray]:
        """Features, attention that each patch receives, and keys, by transformers."""
        import torch
        from transformers import LlavaForConditionalGeneration

        model = LlavaForConditionalGeneration.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        tower, seen = model.model.vision_tower, []
        tower.vision_model.encoder.layers[-2].self_attn.k_proj.register_forward_hook(
            lambda module, inputs, output: seen.append(output.view(2, 9, 4, 16).mean(2))
        )
        with torch.inference_mode():
            found = tower(torch.from_numpy(pixels), output_attentions=True, output_hidden_states=True)
        attention = found.attentions[-2].mean(1).mean(1)
        return [values.numpy() for values in (found.hidden_states[-2], attention, seen[0])]

    def test_as_transformers_computes_it(self, make_siglip, convert_to, pixels):
        checkpoint = make_siglip(67)
        expected = self.eager(checkpoint, pixels)
        np.testing.assert_allclose(expected[1].sum(1), 1, rtol=1e-5)
        assert expected[1].max() > 1.05 * expected[1].min()
        for precision, most in (("fp32", 1e-5), ("fp16", 1e-2)):
            found = self.run(convert_to(checkpoint, quant="F32", vision=precision), pixels)
            for ours, theirs in zip(found, expected, strict=True):
                assert ours.shape == theirs.shape
                assert np.abs(ours - theirs).max() < most

    def test_fewer_rows(self, make_siglip, convert_to, make_image):
        bundle = convert_to(make_siglip(67), quant="F32")
        with edge_llava.load(bundle, edge_llava.EngineOptions(visual_tokens=5)) as model:
            assert model.embed_image(make_image(70, 60, 67)).data.shape == (5, 64)


def test_int8(make_siglip, convert_to, reference, make_image):
    checkpoint = make_siglip(68, vision_width=144, vision_heads=2, vision_ff=272)
    bundle = convert_to(checkpoint, vision="int8")
    quantization = Bundle.open(bundle).manifest.vision.quantization
    assert len(quantization.matmuls) == 12
    assert {name.rpartition(".")[2] for name in quantization.matmuls} == {
        "q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"
    }  # fmt: skip
    assert quantization.count("int8") >= 6
    assert quantization.cosine_mean >= quantization.budget_mean
    assert quantization.cosine_min >= quantization.budget_min
    truth, image = reference(checkpoint), make_image(70, 60, 68)
    with edge_llava.load(bundle) as model:
        cosines = row_cosines(model.patch_features(image), truth.features(truth.pixels(image, "squash")))
    assert 0.99 < cosines.min() < 1 - 1e-7
    operations = [node.op_type for node in onnx.load(bundle / "vision.onnx", load_external_data=False).graph.node]
    assert operations.count("FastGelu") == 2
    assert "Tanh" not in operations


def test_no_file_for_llama_cpp(make_siglip, convert_to):
    with pytest.raises(ConversionError, match=r"its tower is a SigLIP.*Leave --mmproj out"):
        convert_to(make_siglip(69), quant="F32", mmproj=True)


def test_tensors_of_the_pooling_are_known_and_others_are_not(make_siglip, weights_of, put_weights):
    checkpoint = make_siglip(69)
    tensors = weights_of(checkpoint)
    assert "vision_tower.vision_model.head.probe" in tensors
    assert Checkpoint.open(str(checkpoint)).tower.kind == SIGLIP
    bias = tensors.pop("vision_tower.vision_model.embeddings.patch_embedding.bias")
    put_weights(checkpoint, tensors)
    with pytest.raises(CheckpointError, match=r"vision.embeddings.patch_embedding.bias is missing"):
        Checkpoint.open(str(checkpoint))
    tensors["vision_tower.vision_model.embeddings.patch_embedding.bias"] = bias
    put_weights(checkpoint, tensors | {"vision_tower.vision_model.embeddings.class_embedding": bias.clone()})
    with pytest.raises(CheckpointError, match="class_embedding"):
        Checkpoint.open(str(checkpoint))


@pytest.mark.parametrize(("kind", "model_type"), [(CLIP, "clip_vision_model"), (SIGLIP, "siglip_vision_model")])
def test_defaults_are_those_of_transformers(kind, model_type):
    from transformers import AutoConfig

    theirs, faults = AutoConfig.for_model(model_type), []
    ours = read_tower({"model_type": model_type}, kind, faults, is_inside_llava=True)
    assert not faults
    for key, value in kind.sizes.items():
        assert getattr(theirs, key) == value
    assert (ours.hidden_act, ours.layer_norm_eps) == (theirs.hidden_act, theirs.layer_norm_eps)
    assert ours.kind == kind


def test_the_published_siglip(make_siglip, edit_config):
    faults = []
    tower = read_tower(SO400M, SIGLIP, faults, is_inside_llava=True)
    assert not faults
    assert (tower.grid_side, tower.hidden_act, tower.layer_norm_eps) == (27, "gelu_pytorch_tanh", 1e-6)


def tower_shapes(n_positions: int, width: int, has_class_row: bool) -> dict[str, tuple[int, ...]]:
    shapes = {
        "vision.embeddings.patch_embedding.weight": (width, 3, 14, 14),
        "vision.embeddings.position_embedding.weight": (n_positions, width),
        "vision.encoder.layers.0.mlp.fc1.weight": (4304, width),
        "vision.encoder.layers.25.mlp.fc1.weight": (4304, width),
    }
    return shapes | {"vision.embeddings.class_embedding": (width,)} if has_class_row else shapes


def test_the_kind_of_a_tower_inside():
    siglip = infer_tower(tower_shapes(729, 1152, has_class_row=False))
    assert (siglip.kind, siglip.image_size, siglip.n_heads, siglip.layer_norm_eps) == (SIGLIP, 384, 16, 1e-6)
    assert infer_tower(tower_shapes(256, 1152, has_class_row=False)).image_size == 224
    clip = infer_tower(tower_shapes(577, 1024, has_class_row=True))
    assert (clip.kind, clip.image_size, clip.n_heads, clip.hidden_act) == (CLIP, 336, 16, "quick_gelu")
    for shapes, name in (
        (tower_shapes(577, 1152, has_class_row=False), "is not a SigLIP: 577 positions of 1152"),
        (tower_shapes(729, 1024, has_class_row=True), "is not a CLIP: 729 positions of 1024"),
        (tower_shapes(729, 1000, has_class_row=False), "is not a SigLIP: 729 positions of 1000"),
    ):
        with pytest.raises(CheckpointError, match=name):
            infer_tower(shapes)


@pytest.mark.parametrize(
    ("rule", "layer", "drops", "n_layers", "is_inside", "expected"),
    [
        ("index", -2, True, 24, True, (23, 1)),
        ("index", -2, False, 27, True, (26, 0)),
        ("index", -1, False, 26, True, (26, 0)),
        ("index", 26, False, 27, False, (26, 0)),
        ("without_last", -2, True, 27, False, (26, 0)),
        ("without_last", -1, True, 26, True, (26, 0)),
    ],
)
def test_taps(rule, layer, drops, n_layers, is_inside, expected):
    assert find_tap(rule, TapChoice(layer, drops, n_layers, is_inside)) == FeatureTap(*expected)


def test_a_tap_that_does_not_exist():
    for rule, layer, n_layers in (("index", -28, 27), ("index", 28, 27), ("without_last", -1, 1)):
        with pytest.raises(CheckpointError, match=f"does not exist in a tower of {n_layers} blocks"):
            find_tap(rule, TapChoice(layer, False, n_layers, is_inside=False))


@pytest.mark.parametrize(
    ("settings", "clip", "siglip"),
    [
        ({}, "pad", "squash"),
        ({"do_pad": False}, "crop", "squash"),
        ({"do_pad": True}, "pad", "pad"),
        ({"image_processor_type": "SiglipImageProcessor"}, "squash", "squash"),
        ({"image_processor_type": "SiglipImageProcessorFast"}, "squash", "squash"),
        ({"image_processor_type": "CLIPImageProcessor"}, "pad", "crop"),
        ({"image_processor_type": "LlavaImageProcessor", "do_pad": False}, "crop", "crop"),
        ({"image_processor_type": "LlavaImageProcessorFast", "do_pad": True}, "pad", "pad"),
    ],
)
def test_how_images_are_fitted(settings, clip, siglip):
    assert (find_aspect(settings, CLIP), find_aspect(settings, SIGLIP)) == (clip, siglip)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"crop_size": None, "do_center_crop": None}, None),
        ({"size": {"shortest_edge": 48}}, "size is {'shortest_edge': 48}, expected a height and a width"),
        ({"size": {"height": 384, "width": 384}}, "size is {'height': 384, 'width': 384}, expected 48"),
        ({"resample": 2}, "resample is 2, expected 3"),
        ({"do_rescale": False}, "do_rescale is False"),
    ],
)
def test_a_siglip_processor(changes, fault):
    faults = []
    check_preprocessor(SIGLIP_PROCESSOR | changes, "squash", 48, faults)
    assert len(faults) == (fault is not None)
    assert fault is None or fault in faults[0].replace('"', "'")


def test_training_refuses_it(make_siglip, tmp_path):
    from edge_llava.training.starting_point import join, open_llava

    with pytest.raises(CheckpointError, match="has a SigLIP tower; training starts from a CLIP"):
        open_llava(make_siglip(69))
    (tmp_path / "config.json").write_text(json.dumps(SO400M))
    with pytest.raises(CheckpointError, match="has a SigLIP tower; training starts from a CLIP"):
        join(tmp_path, tmp_path, "linear", 0)

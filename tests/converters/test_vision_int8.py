"""The int8 tower: exact integers, a budget that is measured and kept, and what is restored if it would be exceeded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

import edge_llava
from edge_llava.bundle.bundle import Bundle, describe_file
from edge_llava.bundle.parity_record import ParityRecord
from edge_llava.bundle.row_cosines import row_cosines
from edge_llava.bundle.vision_spec import VisionQuantization
from edge_llava.conversion.calibration import builtin_images
from edge_llava.conversion.convert import convert
from edge_llava.converters import vision_int8
from edge_llava.converters.bundle_specs import describe_vision
from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.options import ConvertOptions
from edge_llava.converters.reference import reference_pixels
from edge_llava.converters.reference_tower import reference_features
from edge_llava.converters.smoothing import Smoother
from edge_llava.converters.tower import build_tower, load_weight
from edge_llava.converters.vision_int8 import BUDGET_MEAN, BUDGET_MIN, Calibration, is_worthwhile, write_int8
from edge_llava.converters.vision_matmuls import (
    BLOCK,
    LARGEST_PAIR,
    ExportedTower,
    quantize_blockwise,
    quantize_per_channel,
)
from edge_llava.converters.vision_onnx import write_vision
from edge_llava.errors import ImageError
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent
from edge_llava.parity.verify import verify, verify_against
from edge_llava.runtime.options import EngineOptions
from edge_llava.runtime.vision.encoder import VisionEncoder

pytestmark = pytest.mark.convert

OUTLIER = 60  # times as large as the other channels
INT16 = 2**15 - 1


@dataclass(frozen=True)
class Towers:
    """A tower in float32 in every form: images, features, and a graph to be quantized, which is not smoothed."""

    checkpoint: Checkpoint
    calibration: Calibration
    smoother: Smoother
    exported: ExportedTower

    def write_int8(self, path: Path, progress: ProgressCallback = silent) -> VisionQuantization:
        """Writes the smoothed tower in int8."""
        return write_int8(self.checkpoint, path, self.calibration, self.smoother, progress)

    def plain(self, kind: str) -> vision_int8.Fidelity:
        """Quantizes all MatMuls to one kind, without moving outliers first."""
        return self.calibration.measure(
            self.exported.write("plain.onnx", {matmul.name: kind for matmul in self.exported.matmuls})
        )


@pytest.fixture
def with_outliers(seeded_checkpoint, copy_of, weights_of, put_weights) -> Callable[..., Path]:
    """with_outliers(compensated) -> the seeded checkpoint, in every LayerNorm four channels OUTLIER times as large.

    compensated: the weights that read them are as much smaller, as training makes them; else the tower runs wild.
    """

    def make(*, compensated: bool) -> Path:
        copy = copy_of(seeded_checkpoint)
        weights, random = weights_of(copy), np.random.default_rng(3)
        prefix = "vision_tower.vision_model.encoder.layers."
        for layer in range(4):
            for norm, readers in (("layer_norm1", ("self_attn.q", "self_attn.k", "self_attn.v")), ("layer_norm2", ())):
                channels = random.choice(256, 4, replace=False)
                for end in ("weight", "bias"):
                    weights[f"{prefix}{layer}.{norm}.{end}"][channels] *= OUTLIER
                for reader in [f"{name}_proj" for name in readers] or ["mlp.fc1"]:
                    if compensated:
                        weights[f"{prefix}{layer}.{reader}.weight"][:, channels] /= OUTLIER
        put_weights(copy, weights)
        return copy

    return make


@pytest.fixture
def open_towers(tmp_path) -> Callable[[Path], Towers]:
    """open_towers(checkpoint directory) -> Towers."""

    def open_(directory: Path) -> Towers:
        checkpoint = Checkpoint.open(str(directory))
        pixels = tuple(reference_pixels(checkpoint, image, "pad") for image in builtin_images())
        smoother = Smoother()
        features = tuple(reference_features(checkpoint, pixels, smoother.watch))
        (tmp_path / "exact").mkdir()
        write_vision(checkpoint, tmp_path / "exact" / "vision.onnx", "fp32")
        exported = ExportedTower(tmp_path / "exact" / "vision.onnx")
        return Towers(checkpoint, Calibration(pixels, features, 1), smoother, exported)

    return open_


def measured_again(towers: Towers, path: Path) -> vision_int8.Fidelity:
    """Measured by the runtime, from the file."""
    encoder = VisionEncoder(
        path,
        describe_vision(towers.checkpoint, "int8", "pad"),
        EngineOptions(n_vision_threads=1, vision_provider="cpu"),
    )
    cosines = [
        row_cosines(encoder(pixels), features)
        for pixels, features in zip(towers.calibration.pixels, towers.calibration.features, strict=True)
    ]
    flat = np.concatenate(cosines)
    return vision_int8.Fidelity(float(flat.mean()), float(flat.min()), 0)


def test_pairs_of_products_fit_where_x86_has_no_vnni(seeded_checkpoint, open_towers, tmp_path):
    towers = open_towers(seeded_checkpoint)
    quantization = towers.write_int8(tmp_path / "vision.onnx")
    assert set(quantization.matmuls.values()) == {"int8"}
    weights = [w for w in onnx.load(tmp_path / "vision.onnx").graph.initializer if w.name.endswith(".int8")]
    assert len(weights) == len(quantization.matmuls) == 18
    for weight in weights:
        integers = onnx.numpy_helper.to_array(weight).astype(np.int64)
        for half in (np.maximum(integers, 0), np.maximum(-integers, 0)):
            # an input is 0..255: its worst case is 255 where the weights are of one sign, and 0 elsewhere
            assert 255 * (half[:-1] + half[1:]).max() <= INT16
        assert np.abs(integers).max() > 64  # more than 7 bits
    assert 255 * LARGEST_PAIR == 32640 <= INT16 < 255 * 2 * 127


@pytest.mark.parametrize("pair", [(1.0, 1.0), (-1.0, -1.0), (1.0, -1.0), (1.0, 0.1), (0.51, 0.5)])
@pytest.mark.parametrize("start", [0, 1, 4])
def test_two_neighbours_at_their_worst(pair, start):
    weights = np.zeros((6, 1), np.float32)
    weights[start : start + 2, 0] = pair
    integers, scales = quantize_per_channel(weights)
    first, second = (int(value) for value in integers[start : start + 2, 0])
    assert 255 * max(first + second, -first - second, first, second, -first, -second) <= INT16
    assert np.abs(integers * scales - weights).max() <= scales[0] / 2 * 1.0001
    assert max(abs(first), abs(second)) >= 63
    assert quantize_per_channel(weights[:1])[0].shape == (1, 1)


def test_blocks_of_weights_fit_too():
    random = np.random.default_rng(0)
    integers, scales = quantize_blockwise(random.standard_normal((70, 24)).astype(np.float32))
    assert (integers.shape, scales.shape) == ((24, 3, BLOCK), (24, 3))
    assert (integers.min(), integers.max()) == (1, 127)
    assert 127 * 2 * int(integers.max()) <= INT16


def test_weights_are_near_their_integers():
    weights = np.random.default_rng(1).standard_normal((64, 8)).astype(np.float32)
    weights[:, 3] = 0
    integers, scales = quantize_per_channel(weights)
    assert np.abs(integers * scales - weights).max() <= scales.max() / 2 + 1e-6
    blocks, block_scales = quantize_blockwise(weights)
    restored = ((blocks.astype(np.float32) - 64) * block_scales[..., None]).reshape(8, 64).T
    assert np.abs(restored - weights).max() <= block_scales.max() / 2 + 1e-6
    assert not integers[:, 3].any()
    assert not restored[:, 3].any()


def test_onnxruntime_computes_the_integers_that_we_wrote(seeded_checkpoint, open_towers):
    """One int8 MatMul, computed by hand in 64-bit integers: nothing saturated, nothing was fused wrongly."""
    towers = open_towers(seeded_checkpoint)
    first = towers.exported.matmuls[0]
    assert first.name == "layers.0.self_attn.q_proj"
    kinds = {matmul.name: "float" for matmul in towers.exported.matmuls} | {first.name: "int8"}
    model = onnx.load(towers.exported.write("one.onnx", kinds))
    for name in (first.source, first.output):
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given, found = session.run([first.source, first.output], {"pixel_values": towers.calibration.pixels[0]})
    weights = {weight.name: onnx.numpy_helper.to_array(weight) for weight in model.graph.initializer}
    low, high = min(given.min(), 0), max(given.max(), 0)
    scale = np.float32(high - low) / np.float32(255)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    steps = np.clip(np.rint(given / scale) + zero, 0, 255).astype(np.int64) - int(zero)
    total = steps[0] @ weights[f"{first.weights}.int8"].astype(np.int64)
    expected = total * (scale * weights[f"{first.weights}.scales"])
    # a step on the other side of a tie would be 1/255 of the range
    assert np.abs(found[0] - expected).max() < 1e-2 * np.abs(expected).max()
    assert np.abs(found[0] - expected).mean() < 1e-4 * np.abs(expected).max()


def smoothed_tower(towers: Towers) -> Any:
    """The whole tower in torch, rescaled."""
    tower = build_tower(towers.checkpoint)
    weights = {name: towers.smoother.apply(name, load_weight(towers.checkpoint, name)) for name in tower.state_dict()}
    tower.load_state_dict(weights, assign=True)
    return tower


def test_moving_outliers_changes_nothing_but_their_size(with_outliers, open_towers):
    towers = open_towers(with_outliers(compensated=True))
    tower, seen = smoothed_tower(towers), {}
    for block, layers in enumerate(tower.vision_model.encoder.layers):
        for layer in (layers.self_attn.q_proj, layers.mlp.fc1):
            layer.register_forward_pre_hook(partial(note_largest, seen, (block, layer.out_features)))
    pixels = torch.from_numpy(np.concatenate(towers.calibration.pixels[:4]))
    with torch.inference_mode():
        same = tower(pixels)["patch_features"].numpy()
    assert np.abs(same - np.concatenate(towers.calibration.features[:4])).max() < 1e-4
    assert len(seen) == 6
    assert all(float(values.max() / values.median()) < 6 for values in seen.values())
    scales = towers.smoother.rescalings["vision_model.encoder.layers.0.mlp.fc1.weight"].factors
    assert float(scales.max() / scales.median()) > 30  # an outlier is 60 times as large, its weights 1 / 60


def note_largest(seen: dict[Any, Any], key: Any, layer: Any, inputs: Any) -> None:
    seen[key] = inputs[0].abs().flatten(0, -2).amax(0)


def test_smoothing_does_not_write_to_what_is_loaded(with_outliers, open_towers):
    towers = open_towers(with_outliers(compensated=True))
    for name in towers.smoother.rescalings:
        weight = load_weight(towers.checkpoint, name)
        before = weight.clone()
        assert not torch.equal(towers.smoother.apply(name, weight), before)
        assert torch.equal(weight, before)
    assert len(towers.smoother.rescalings) == 3 * 10


def test_outliers_break_plain_int8_and_not_ours(with_outliers, open_towers, tmp_path):
    towers = open_towers(with_outliers(compensated=True))
    plain = towers.plain("int8")
    assert plain.cosine_mean < 0.98
    assert plain.cosine_min < 0.9
    quantization = towers.write_int8(tmp_path / "vision.onnx")
    assert quantization.count("int8") == 18
    fidelity = measured_again(towers, tmp_path / "vision.onnx")
    assert fidelity.cosine_mean >= BUDGET_MEAN == 0.999
    assert fidelity.cosine_min >= BUDGET_MIN == 0.99
    assert fidelity.cosine_mean == pytest.approx(quantization.cosine_mean, abs=1e-5)
    assert fidelity.cosine_min == pytest.approx(quantization.cosine_min, abs=1e-4)


def test_a_tower_with_outliers_restores_what_harms(with_outliers, open_towers, tmp_path):
    towers = open_towers(with_outliers(compensated=False))
    assert towers.plain("int8").cosine_mean < 0.95
    events: list[ProgressEvent] = []
    quantization = towers.write_int8(tmp_path / "vision.onnx", events.append)
    assert min(quantization.count(kind) for kind in ("int8", "blockwise8", "float")) > 0
    fidelity = measured_again(towers, tmp_path / "vision.onnx")
    assert fidelity.cosine_mean >= BUDGET_MEAN
    assert fidelity.cosine_min >= BUDGET_MIN
    assert [event.done for event in events] == list(range(1, 19))
    graph = onnx.load(tmp_path / "vision.onnx").graph
    operators = [node.op_type for node in graph.node]
    fused = operators.count("DynamicQuantizeMatMul") + operators.count("MatMulIntegerToFloat")
    assert fused == quantization.count("int8")  # the optimizer has been there
    assert operators.count("MatMulNBits") == quantization.count("blockwise8")
    used = {name for node in graph.node for name in node.input}
    assert {weight.name for weight in graph.initializer} <= used


def test_nothing_holds_a_budget_that_only_float_can_hold(seeded_checkpoint, open_towers, tmp_path, monkeypatch):
    monkeypatch.setattr(vision_int8, "BUDGET_MEAN", 1 - 1e-9)
    monkeypatch.setattr(vision_int8, "BUDGET_MIN", 1 - 1e-9)
    towers = open_towers(seeded_checkpoint)
    quantization = towers.write_int8(tmp_path / "vision.onnx")
    assert quantization.count("float") == 18
    assert quantization.cosine_min >= 1 - 1e-9
    assert not is_worthwhile(quantization)


def test_a_switch_computes_what_the_graph_without_it_does(seeded_checkpoint, open_towers):
    towers = open_towers(seeded_checkpoint)
    pixels = towers.calibration.pixels[0]
    switched = towers.calibration.open(towers.exported.write_switched("switched.onnx", "int8"))
    for index in (0, 5):
        name = towers.exported.matmuls[index].name
        kinds = {matmul.name: "float" for matmul in towers.exported.matmuls} | {name: "int8"}
        alone = towers.calibration.open(towers.exported.write("alone.onnx", kinds))
        (expected,) = alone.run(["patch_features"], {"pixel_values": pixels})
        switches = np.eye(18, dtype=np.float32)[index]
        (found,) = switched.run(["patch_features"], {"pixel_values": pixels, "switches": switches})
        assert np.abs(found - expected).max() < 0.02 * np.abs(expected - towers.calibration.features[0]).max()


@pytest.fixture(scope="module")
def made(seeded_checkpoint, convert_to) -> Path:
    """Read only."""
    return convert_to(seeded_checkpoint, vision="int8")


def test_a_bundle_in_int8(made, seeded_checkpoint, converted_q4, make_image):
    bundle = Bundle.open(made)
    data = json.loads((made / "manifest.json").read_text())["vision"]
    assert data["precision"] == "int8"
    assert data["quantization"]["matmuls"]["layers.2.mlp.fc2"] == "int8"
    assert data["quantization"]["n_pictures"] == 16
    assert (data["quantization"]["budget_mean"], data["quantization"]["budget_min"]) == (0.999, 0.99)
    assert 0.999 <= bundle.manifest.parity["vision"].cosine_mean < 1
    assert (
        bundle.file("vision_data").stat().st_size < 0.4 * Bundle.open(converted_q4).file("vision_data").stat().st_size
    )
    features = []
    for path in (made, converted_q4):
        with edge_llava.load(path) as model:
            features.append(model.patch_features(make_image(100, 80, 1)))
    cosines = row_cosines(*features)
    assert 0.9999999 > cosines.mean() > 0.999
    assert cosines.min() > 0.99
    report = verify_against(bundle, Checkpoint.open(str(seeded_checkpoint)))
    assert report.ok
    assert "vision (int8)" in report.checks[-1].detail


@pytest.mark.parametrize(
    ("precision", "recorded", "ok"), [("int8", 0.995, True), ("int8", 0.998, False), ("fp32", 0.995, False)]
)
def test_int8_may_lose_twice_what_was_recorded(made, tmp_path, precision, recorded, ok):
    """Another processor rounds differently, which moves whole steps in int8. Here the worst row is at 0.993."""
    shutil.copytree(made, tmp_path / "b")
    record = ParityRecord.load(tmp_path / "b" / "parity.safetensors")
    size = np.linalg.norm(record.features, axis=-1, keepdims=True)
    noise = np.random.default_rng(0).standard_normal(record.features.shape).astype(np.float32)
    noise *= 0.115 * size / np.linalg.norm(noise, axis=-1, keepdims=True)
    replace(record, features=record.features + noise).save(tmp_path / "b" / "parity.safetensors")
    data = json.loads((tmp_path / "b" / "manifest.json").read_text())
    data["files"]["parity"] = asdict(describe_file(tmp_path / "b" / "parity.safetensors", tmp_path / "b"))
    data["parity"]["vision"]["cosine_min"] = recorded
    data["vision"] |= {"precision": precision, "quantization": None}
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(data))
    checks = {check.name: check for check in verify(Bundle.open(tmp_path / "b")).checks}
    assert checks["vision"].ok == ok
    assert 0.99 < checks["vision"].figures["cosine_min"] < 0.995
    assert checks["files"].ok


@pytest.mark.parametrize(
    ("options", "tries"),
    [({}, True), ({"quant": "Q8_0"}, True), ({"quant": "F16"}, False), ({"quant": "F32", "vision": "int8"}, True)],
)
def test_what_auto_tries(options: dict[str, Any], tries):
    assert ConvertOptions(**options).tries_int8 == tries


def test_auto_keeps_float_where_int8_is_not_worth_it(seeded_checkpoint, tmp_path, monkeypatch, converted_q4):
    monkeypatch.setattr(vision_int8, "BUDGET_MEAN", 1 - 1e-9)
    events: list[ProgressEvent] = []
    bundle = convert(seeded_checkpoint, tmp_path / "b", progress=events.append)
    assert (bundle.manifest.vision.precision, bundle.manifest.vision.quantization) == ("fp32", None)
    assert "vision tower, fp32: int8 holds its budget for 0 MatMuls only" in [event.stage for event in events]
    for name in ("vision.onnx", "vision.onnx.data"):
        assert (bundle.path / name).read_bytes() == (converted_q4 / name).read_bytes()
    assert sorted(path.name for path in bundle.path.iterdir()) == sorted(path.name for path in converted_q4.iterdir())


def test_auto_leaves_int8_to_cpus(seeded_checkpoint, monkeypatch):
    assert ConvertOptions().tries_int8
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    assert not ConvertOptions().tries_int8
    assert ConvertOptions(vision="int8").tries_int8


def test_own_images(seeded_checkpoint, tmp_path, make_image, run):
    directory = tmp_path / "images"
    directory.mkdir()
    for index in range(3):
        Image.fromarray(make_image(90 + index, 120, index)).save(directory / f"{index}.png")
    (directory / "notes.txt").write_text("not an image")
    arguments = ("convert", seeded_checkpoint, "-o", tmp_path / "b", "--vision", "int8", "--calibrate", directory)
    result = run(*arguments)
    assert result.code == 0
    assert "Vision in int8: 18 MatMuls: 18 int8; cosine 0.999" in result.err
    assert Bundle.open(tmp_path / "b").manifest.vision.quantization.n_pictures == 5
    assert "18 int8; cosine 0.999" in run("inspect", tmp_path / "b").out
    shutil.rmtree(tmp_path / "b")
    (directory / "3.jpg").write_bytes(b"no JPEG")
    damaged = run(*arguments)
    assert (damaged.code, damaged.out) == (7, "")
    assert "3.jpg" in damaged.err
    assert not list(tmp_path.glob("b*"))


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_a_directory_without_images(seeded_checkpoint, tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match=f"{name} contains no images to measure with"):
        convert(seeded_checkpoint, tmp_path / "b", ConvertOptions(calibrate=str(tmp_path / name)))
    assert not list(tmp_path.glob("b*"))

"""A bundle appears complete or not at all, and records what it is made of."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_llava
from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.contents import CARD_MARK
from edge_llava.bundle.language_spec import QUANTS
from edge_llava.bundle.templates import TEMPLATES
from edge_llava.conversion.convert import convert
from edge_llava.conversion.memory_hint import find_shortage
from edge_llava.converters import memory_needs, pipeline
from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.disk_space import estimate_bytes
from edge_llava.converters.memory_needs import estimate_memory
from edge_llava.converters.options import ConvertOptions
from edge_llava.converters.staging import check_target, staging_directory
from edge_llava.device.tree import Tree
from edge_llava.errors import BundleError, CheckpointError, ConversionError
from edge_llava.home.atomic_directory import MARKER, atomic_directory
from edge_llava.home.directories import bundles_directory, default_bundle
from edge_llava.home.progress import ProgressEvent

pytestmark = pytest.mark.convert

FILES = {"language.gguf", "manifest.json", "parity.safetensors", "projector.gguf", "vision.onnx", "vision.onnx.data"}
STAGES = (
    "loading torch",
    "loading transformers",
    "checkpoint",
    "vision tower, fp32",
    "projector, F32",
    "language model, F32",
    "checking against the checkpoint",
)
F32 = ConvertOptions(quant="F32")


@pytest.fixture(scope="module")
def tiny(make_checkpoint, shape) -> Path:
    """Read only."""
    return make_checkpoint(shape(), seed=51)


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory) -> Path:
    """An F32 bundle of it; read only."""
    directory = tmp_path_factory.mktemp("made") / "b"
    convert(tiny, directory, F32)
    return directory


@pytest.fixture
def older(made, tmp_path) -> Path:
    """An existing bundle."""
    shutil.copytree(made, tmp_path / "b")
    return tmp_path / "b"


def digests(directory: Path) -> dict[str, tuple[str, int]]:
    """sha256 and mtime of every file below a directory."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(directory)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in files
    }


def interrupt_at(stage: str, *, finished: bool) -> Any:
    """A progress callback that is interrupted, as by Ctrl-C, when a stage begins or ends."""

    def progress(event: ProgressEvent) -> None:
        if event.stage == stage and (not finished or event.done == event.total):
            raise KeyboardInterrupt

    return progress


def test_the_files_of_a_bundle(tiny, tmp_path):
    bundle = convert(tiny, tmp_path / "new" / "bundle", F32)
    assert {path.name for path in bundle.path.iterdir()} == FILES
    assert [path.name for path in bundle.path.parent.iterdir()] == ["bundle"]
    for entry in bundle.manifest.files.values():
        data = (bundle.path / entry.path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.bytes, entry.sha256)
    assert bundle == Bundle.open(bundle.path)
    assert (bundle.path / "parity.safetensors").stat().st_size < 2_000_000


def test_the_manifest(make_checkpoint, shape, tmp_path):
    wanted = shape(
        vision_width=96, vision_heads=3, width=128, heads=8, kv_heads=2, layers=3, context=640, image_size=70
    )
    checkpoint = make_checkpoint(wanted, seed=52)
    (checkpoint / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.25, 0.125], "image_std": [1, 2, 4]}')
    bundle = convert(checkpoint, tmp_path / "b", ConvertOptions(vision="fp32"))
    data = json.loads((bundle.path / "manifest.json").read_text())
    assert data["format_version"] == 2
    assert data["created_by"] == f"edge-llava {version('edge-llava')}"
    assert data["source"] == {"name": "llava-52", "revision": None, "layout": "hf", "license_files": []}
    assert data["vision"] == {
        "image_size": 70,
        "patch_size": 14,
        "hidden_size": 96,
        "n_blocks": 2,
        "has_class_row": True,
        "n_dropped_rows": 1,
        "image_mean": [0.5, 0.25, 0.125],
        "image_std": [1.0, 2.0, 4.0],
        "aspect": "pad",
        "grid_pinpoints": [],
        "merge": "flat",
        "has_newline": False,
        "precision": "fp32",
        "quantization": None,
        "merge_limit": None,
        "several_images": "as_one",
        "max_tiles": None,
        "ranking": "class_attention",
    }
    assert data["projector"] == {"kind": "mlp2x_gelu", "in_features": 96, "out_features": 128, "quant": "Q6_K"}
    assert data["language"] == {
        "architecture": "llama",
        "n_embd": 128,
        "n_layer": 3,
        "n_head": 8,
        "n_head_kv": 2,
        "n_vocab": 512,
        "n_ctx_train": 640,
        "quant": "Q4_K_M",
        "template": {
            "name": "llava_v1",
            "opening": [TEMPLATES["llava_v1"].opening],
            "before_system": [],
            "after_system": [" USER: "],
            "image_before": [],
            "image_after": ["\n"],
            "before_question": [],
            "after_question": [" ASSISTANT:"],
            "after_past_question": [" ASSISTANT:"],
            "before_answer": [" "],
            "between_turns": [2, "USER: "],
            "stops": ["</s>"],
            "joins_text": False,
            "system": TEMPLATES["llava_v1"].system,
        },
        "bos": 1,
        "eos": 2,
        "end_ids": [2],
        "tokenizer": {
            "model": "llama",
            "pre": "default",
            "adds_bos": True,
            "adds_space": True,
            "normalizer": "none",
            "strips_after": [],
        },
        "importance": None,
        "mix": {},
    }
    assert set(data["files"]) == {"vision", "vision_data", "projector", "language", "parity"}
    assert set(data["parity"]) == {"tokenizer", "preprocess", "vision", "projector", "language"}


def test_figures_of_an_unquantized_bundle(make_llava, shape, tmp_path):
    parity = convert(make_llava(shape(), seed=53), tmp_path / "b", F32).manifest.parity
    assert parity["preprocess"].max_abs == 0.0
    for stage in ("vision", "projector", "language"):
        assert parity[stage].cosine_min > 0.999999
        assert 0 < parity[stage].max_abs < 1e-4
    assert (parity["language"].tokens_equal, parity["language"].tokens_total) == (16, 16)


def test_figures_tell_what_a_quantization_costs(converted_f32, converted_q4):
    full, quantized = (Bundle.open(path).manifest.parity for path in (converted_f32, converted_q4))
    for stage, most in (("language", 0.1), ("projector", 0.01)):
        assert 1 - full[stage].cosine_mean < 1e-6
        assert 1e-4 < 1 - quantized[stage].cosine_mean < most
    assert full["vision"] == quantized["vision"]
    assert full["language"].tokens_equal == 16 > quantized["language"].tokens_equal


def test_the_original_layout_in_the_manifest(make_checkpoint, shape, original_layout, tmp_path):
    original = original_layout(make_checkpoint(shape(), seed=54), image_aspect_ratio="square")
    manifest = convert(original, tmp_path / "b", F32).manifest
    assert (manifest.source.layout, manifest.vision.aspect) == ("original", "crop")


def test_without_a_directory_it_becomes_the_default_of_the_home(tiny):
    bundle = convert(tiny)
    assert bundle.path == bundles_directory() / f"{tiny.name}-q4_k_m"
    assert default_bundle() == bundle.name
    with edge_llava.load() as model:
        assert model.bundle.path == bundle.path


def test_two_conversions_give_the_same_bytes(tiny, tmp_path):
    first, second = (convert(tiny, tmp_path / name) for name in ("first", "second"))
    for name in sorted(FILES):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes(), name


def test_the_source_is_only_read(tiny, tmp_path):
    before = digests(tiny)
    convert(tiny, tmp_path / "b", F32)
    assert digests(tiny) == before
    assert len(before) > 3


def test_the_source_may_be_read_only(tiny, copy_of, tmp_path):
    copy = copy_of(tiny)
    for path in [*copy.iterdir(), copy]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        bundle = convert(copy, tmp_path / "b", F32)
    finally:
        copy.chmod(0o755)
    assert {path.name for path in bundle.path.iterdir()} == FILES


def test_licenses_are_copied(tiny, copy_of, tmp_path):
    copy = copy_of(tiny)
    (copy / "LICENSE").write_bytes(b"Llama 2 Community License\r\n")
    (copy / "USE_POLICY.md").write_text("be kind")
    bundle = convert(copy, tmp_path / "b", F32)
    assert bundle.manifest.source.license_files == ("LICENSE", "USE_POLICY.md")
    assert (bundle.path / "licenses" / "LICENSE").read_bytes() == b"Llama 2 Community License\r\n"
    assert (bundle.path / "licenses" / "USE_POLICY.md").read_text() == "be kind"


@pytest.mark.parametrize(
    ("stage", "finished"), [*((stage, False) for stage in STAGES), (STAGES[1], True), (STAGES[4], True)]
)
def test_an_interrupt_leaves_nothing(tiny, tmp_path, stage, finished):
    with pytest.raises(KeyboardInterrupt):
        convert(tiny, tmp_path / "b", F32, progress=interrupt_at(stage, finished=finished))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage", [STAGES[2], STAGES[4]])
def test_an_interrupt_leaves_the_older_bundle(tiny, older, tmp_path, stage):
    before = digests(tmp_path)
    options = ConvertOptions(quant="F32", overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        convert(tiny, older, options, progress=interrupt_at(stage, finished=False))
    assert digests(tmp_path) == before


def test_every_stage_is_reported(tiny, tmp_path):
    events: list[ProgressEvent] = []
    convert(tiny, tmp_path / "b", F32, progress=events.append)
    stages = list(dict.fromkeys(event.stage for event in events))
    assert stages == list(STAGES)
    for stage in stages:
        own = [event for event in events if event.stage == stage]
        assert [event.done for event in own] == sorted(event.done for event in own)
        assert [event.done == event.total for event in own].count(True) == 1
        assert own[-1].done == own[-1].total


def test_what_a_killed_process_left_is_cleared(tiny, tmp_path):
    (tmp_path / "b.partial").mkdir()
    (tmp_path / "b.partial" / "vision.onnx").write_bytes(b"half")
    (tmp_path / "b.partial" / MARKER).touch()
    (tmp_path / "b.lock").touch()
    convert(tiny, tmp_path / "b", F32)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_what_another_conversion_works_on_is_left_alone(tiny, tmp_path):
    with atomic_directory(tmp_path / "b", overwrite=False) as directory:
        (directory / "vision.onnx").write_bytes(b"half")
        with pytest.raises(ConversionError, match=r"another conversion is writing .*b\. Wait"):
            convert(tiny, tmp_path / "b", F32)
        assert sorted(path.name for path in directory.iterdir()) == [MARKER, "vision.onnx"]


def test_a_directory_of_others_is_left_alone(tiny, tmp_path):
    (tmp_path / "b.partial").mkdir()
    (tmp_path / "b.partial" / "diary.txt").write_text("mine")
    with pytest.raises(ConversionError, match="is in the way"):
        convert(tiny, tmp_path / "b", F32)
    assert (tmp_path / "b.partial" / "diary.txt").read_text() == "mine"


@pytest.mark.parametrize("at_once", [True, False])
def test_an_older_bundle_comes_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch, at_once):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").write_text("old")
    if not at_once:
        monkeypatch.setattr("edge_llava.home.atomic_directory.exchange", lambda first, second: False)
    with (
        pytest.raises(ConversionError, match="The older bundle is still there"),
        staging_directory(tmp_path / "b", overwrite=True) as directory,
    ):
        shutil.rmtree(directory)  # before it is renamed, as a virus scanner or an open handle would have it
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o022, 0o644)])
def test_files_obey_umask(tiny, tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        convert(tiny, tmp_path / "b", F32)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "b").rglob("*") if path.is_file()} == {mode}
    assert (tmp_path / "b").stat().st_mode & 0o077 == mode & 0o077 | (mode & 0o044) >> 2


def test_an_empty_directory_may_be_filled(tiny, tmp_path):
    (tmp_path / "b").mkdir()
    assert convert(tiny, tmp_path / "b", F32).path == tmp_path / "b"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_foreign_directory_is_left_alone(tiny, tmp_path, overwrite):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(ConversionError, match="exists and is not a bundle; it is left alone"):
        convert(tiny, tmp_path / "b", ConvertOptions(quant="F32", overwrite=overwrite))
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["holiday.jpg"]


@pytest.mark.parametrize("manifest", ['{"name": "an app", "icons": []}', "[]", "{", '{"format_version": 1}'])
def test_a_manifest_of_others_makes_no_bundle(tmp_path, manifest):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "manifest.json").write_text(manifest)
    with pytest.raises(ConversionError, match="exists and is not a bundle; it is left alone"):
        check_target(tmp_path / "b", overwrite=True)


@pytest.mark.parametrize("foreign", ["notes.txt", "album/img.jpg", "README.md"])
def test_a_bundle_with_files_of_others_is_left_alone(tiny, older, foreign):
    path = older / foreign
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(ConversionError, match=foreign):
        convert(tiny, older, ConvertOptions(quant="F32", overwrite=True))
    assert path.read_text() == "mine"
    path.write_text(CARD_MARK)
    if foreign == "README.md":
        check_target(older, overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_left_alone(tiny, tmp_path, overwrite):
    (tmp_path / "b").write_bytes(b"mine")
    with pytest.raises(ConversionError, match="exists and is not a bundle; it is left alone"):
        convert(tiny, tmp_path / "b", ConvertOptions(quant="F32", overwrite=overwrite))
    assert (tmp_path / "b").read_bytes() == b"mine"


def test_the_checkpoint_itself_is_not_a_target(tiny, copy_of):
    copy = copy_of(tiny)
    before = digests(copy)
    with pytest.raises(ConversionError, match="exists and is not a bundle"):
        convert(copy, copy, ConvertOptions(quant="F32", overwrite=True))
    assert digests(copy) == before


def test_an_older_bundle_is_replaced_only_on_request(tiny, older, tmp_path):
    before = digests(tmp_path)
    with pytest.raises(ConversionError, match=r"exists already\. Replace it with --force"):
        convert(tiny, older)
    assert digests(tmp_path) == before
    assert convert(tiny, older, ConvertOptions(overwrite=True)).manifest.language.quant == "Q4_K_M"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_target_that_cannot_be_made(tiny, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConversionError, match="cannot be written"):
        convert(tiny, tmp_path / "file" / "b", F32)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_disk_that_is_too_small_is_seen_before(tiny, tmp_path, monkeypatch):
    needed = estimate_bytes(Checkpoint.open(str(tiny)), F32)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(ConversionError, match=r"MB free; the bundle needs \d+ MB\. Choose another place"):
        convert(tiny, tmp_path / "b", F32)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    convert(tiny, tmp_path / "b", F32)


def test_too_little_memory_is_told_before_and_nothing_is_refused(tiny, tmp_path, monkeypatch, run):
    def tell(available: int | None) -> None:
        """As the system tells it."""
        text = "" if available is None else f"MemTotal: 9000000 kB\nMemAvailable: {available // 1024} kB\n"
        (tmp_path / "proc").mkdir(exist_ok=True)
        (tmp_path / "proc" / "meminfo").write_text(text)

    checkpoint, tree = Checkpoint.open(str(tiny)), Tree(tmp_path)
    needed = estimate_memory(checkpoint, tries_int8=False)
    for available in (None, needed + 1024):
        tell(available)
        assert find_shortage(checkpoint, tries_int8=False, tree=tree) is None
    tell(needed - 1024)
    message = find_shortage(checkpoint, tries_int8=False, tree=tree)
    assert message.startswith("converting llava-51 takes about 0.0 GB of memory, and 0.0 GB are free: it may")
    monkeypatch.setattr(memory_needs, "_TENSOR", 10**12)  # more than this machine has
    result = run("convert", tiny, "-o", tmp_path / "b", "--quant", "F32")
    assert result.code == 0
    assert re.search(
        r"^edge-llava: converting llava-51 takes about \d+\.0 GB .* Close other programs", result.err, re.M
    )


def test_a_container_that_is_too_small_refuses_before_it_kills(tiny, tmp_path):
    """Its limit, less what is used, without cached files, which are dropped before."""
    checkpoint, root = Checkpoint.open(str(tiny)), tmp_path / "root"
    needed = estimate_memory(checkpoint, tries_int8=False)
    group = root / "sys/fs/cgroup"
    (root / "proc").mkdir(parents=True)
    group.mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal: 90000000 kB\nMemAvailable: 80000000 kB\n")
    (root / "proc/self").mkdir()
    (root / "proc/self/cgroup").write_text("0::/\n")
    (group / "memory.max").write_text("1000000000")
    (group / "memory.stat").write_text(f"anon 1\ninactive_file {needed}\nactive_file 1000\n")
    for used, fits in ((10**9 + 1000, True), (10**9 + 1001, False)):
        (group / "memory.current").write_text(str(used))
        if fits:
            assert find_shortage(checkpoint, tries_int8=False, tree=Tree(root)) is None
        else:
            with pytest.raises(ConversionError, match=r"are free in this container\. Give it 0\.0 GB more, or convert"):
                find_shortage(checkpoint, tries_int8=False, tree=Tree(root))


def test_memory_is_estimated_by_the_largest_step(make_checkpoint, shape):
    wide_tower = Checkpoint.open(str(make_checkpoint(shape(vision_width=256, vision_ff=1024), seed=57)))
    wide_language = Checkpoint.open(str(make_checkpoint(shape(width=256, ff=8192), seed=58)))
    long_vocabulary = Checkpoint.open(str(make_checkpoint(shape(extra_rows=50_000), seed=59)))
    block = 4 * 256**2 + 2 * 256 * 1024
    assert estimate_memory(wide_tower, tries_int8=True) == 60 * block
    deep_tower = Checkpoint.open(str(make_checkpoint(shape(vision_width=256, vision_ff=1024, vision_layers=11), 60)))
    assert estimate_memory(deep_tower, tries_int8=False) == 7 * 10 * block
    assert estimate_memory(wide_language, tries_int8=True) == 7 * (4 * 256**2 + 3 * 256 * 8192 + 2 * 256)
    assert estimate_memory(long_vocabulary, tries_int8=True) == 8 * (512 + 50_000) * 64


@pytest.mark.parametrize("quant", ["F32", "Q4_K_M"])
def test_the_estimate_is_near(seeded_checkpoint, converted_f32, converted_q4, quant):
    estimate = estimate_bytes(Checkpoint.open(str(seeded_checkpoint)), ConvertOptions(quant=quant, vision="fp32"))
    actual = Bundle.open(converted_f32 if quant == "F32" else converted_q4).n_bytes
    assert actual <= estimate <= actual + (4 << 20)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 3 MB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(mount)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can make a small disk")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


BIG_TOWER = {"vision_width": 256, "vision_ff": 1024, "vision_layers": 4}
BIG_LANGUAGE = {"width": 256, "ff": 768, "layers": 4}


@pytest.mark.parametrize("big", [BIG_TOWER, BIG_LANGUAGE])
def test_a_disk_that_fills_up_during_the_conversion(make_checkpoint, shape, small_disk, monkeypatch, big):
    checkpoint = make_checkpoint(shape(**big), seed=55)
    monkeypatch.setattr(pipeline, "check_disk", lambda *_: None)  # as if the space was there when it looked
    with pytest.raises(ConversionError, match=rf"the disk of {small_disk} is full\. Nothing was kept; free some space"):
        convert(checkpoint, small_disk / "b", F32)
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("big", [BIG_TOWER, BIG_LANGUAGE])
def test_a_file_that_may_not_grow(make_checkpoint, shape, tmp_path, big):
    checkpoint = make_checkpoint(shape(**big), seed=56)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, hard))
    try:
        with pytest.raises(ConversionError, match="cannot be written"):
            convert(checkpoint, tmp_path / "b", F32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_half_precision_is_exact_for_a_checkpoint_in_half_precision(
    seeded_checkpoint, converted_q4, tmp_path, make_image
):
    full, half = Bundle.open(converted_q4), convert(seeded_checkpoint, tmp_path / "half", ConvertOptions(vision="fp16"))
    assert (full.manifest.vision.precision, half.manifest.vision.precision) == ("fp32", "fp16")
    assert half.file("vision_data").stat().st_size < 0.51 * full.file("vision_data").stat().st_size
    features = []
    for bundle in (full, half):
        with edge_llava.load(bundle.path) as model:
            features.append(model.patch_features(make_image(100, 80, 1)))
    assert features[0].std() > 0.1
    assert np.array_equal(features[0], features[1])


def test_half_precision_of_other_checkpoints_is_measured(tiny, tmp_path):
    parity = convert(tiny, tmp_path / "b", ConvertOptions(vision="fp16")).manifest.parity["vision"]
    assert 1e-4 < parity.max_abs < 0.5
    assert 0.999 < parity.cosine_min < 1


def test_a_tower_beyond_half_precision(tiny, copy_of, weights_of, put_weights, tmp_path):
    copy, weights = copy_of(tiny), weights_of(tiny)
    weights["vision_tower.vision_model.encoder.layers.0.mlp.fc2.weight"][3, 5] = 70000.0
    put_weights(copy, weights)
    with pytest.raises(ConversionError, match=r"does not fit in half precision\. Use --vision fp32"):
        convert(copy, tmp_path / "b", ConvertOptions(vision="fp16"))
    assert list(tmp_path.glob("b*")) == []


def test_a_language_model_beyond_half_precision(tiny, copy_of, weights_of, put_weights, tmp_path):
    copy, weights = copy_of(tiny), weights_of(tiny)
    weights["language_model.model.layers.1.mlp.up_proj.weight"][0, 0] = -1e6
    put_weights(copy, weights)
    with pytest.raises(ConversionError, match=r"blk\.1\.ffn_up\.weight contains 1e\+06, beyond F16's 65504"):
        convert(copy, tmp_path / "b", ConvertOptions(quant="F16"))
    assert list(tmp_path.glob("b*")) == []


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "vision_tower.vision_model.encoder.layers.1.layer_norm1.bias",
            CheckpointError,
            "vision.encoder.layers.1.layer_norm1.bias contains infinite",
        ),
        ("multi_modal_projector.linear_1.bias", ConversionError, "mm.0.bias contains infinite or undefined numbers"),
        (
            "multi_modal_projector.linear_2.weight",
            ConversionError,
            "mm.2.weight contains infinite or undefined numbers",
        ),
        (
            "language_model.model.layers.0.self_attn.v_proj.weight",
            ConversionError,
            "blk.0.attn_v.weight contains infinite or undefined numbers",
        ),
        ("language_model.model.norm.weight", ConversionError, "output_norm.weight contains infinite or undefined"),
    ],
)
def test_damaged_weights(tiny, copy_of, weights_of, put_weights, tmp_path, name, error, message):
    copy, weights = copy_of(tiny), weights_of(tiny)
    weights[name].view(-1)[7] = float("nan")
    put_weights(copy, weights)
    with pytest.raises(error) as raised:
        convert(copy, tmp_path / "b", F32)
    assert message in str(raised.value)
    assert list(tmp_path.glob("b*")) == []


def test_rows_without_a_token_may_contain_anything(tiny, made, copy_of, weights_of, put_weights, tmp_path, read_gguf):
    copy, weights = copy_of(tiny), weights_of(tiny)
    weights["language_model.model.embed_tokens.weight"][512:] = float("nan")
    weights["language_model.lm_head.weight"][512:] = float("nan")
    put_weights(copy, weights)
    bundle, whole = convert(copy, tmp_path / "b", F32), Bundle.open(made)
    assert read_gguf(bundle.file("language")).tensors == read_gguf(whole.file("language")).tensors
    assert bundle.file("parity").read_bytes() == whole.file("parity").read_bytes()


def test_an_unknown_quantization(tiny, tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"quant must be one of {', '.join(QUANTS)}")):
        convert(tiny, tmp_path / "b", ConvertOptions(quant="Q9_K"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options", [{"vision": "q4"}, {"calibrate": "x", "vision": "fp16"}, {"aspect": "anyres"}, {"n_threads": 0}]
)
def test_options_that_are_not_offered(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ConvertOptions(**options)


def test_a_bundle_is_not_a_checkpoint(tiny, made, tmp_path):
    with pytest.raises(CheckpointError, match=r"is a bundle already\. Use it: edge-llava chat IMAGE -m "):
        convert(made, tmp_path / "c")
    with pytest.raises(BundleError, match=f"It looks like a checkpoint: edge-llava convert {tiny}"):
        Bundle.open(tiny)


@pytest.mark.parametrize(
    ("name", "keys", "fault"),
    [
        ("preprocessor_config.json", {"image_std": [65535.0, 0.5, 0.5]}, "vision.image_std is"),
        ("config.json", {"model_type": "llava_next", "image_grid_pinpoints": [[57, 112]],
                         "use_image_newline_parameter": False}, "not multiples of image_size 56"),
    ],
)  # fmt: skip
def test_what_a_manifest_may_not_contain_is_refused_before_the_work(copy_of, tiny, tmp_path, name, keys, fault):
    directory = copy_of(tiny)
    path = directory / name
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | keys))
    with pytest.raises(CheckpointError, match=fault):
        convert(directory, tmp_path / "out", F32)
    assert not list(tmp_path.glob("out*"))

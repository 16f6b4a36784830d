"""What a bundle takes in memory, as it is predicted and as it is measured."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from edge_llava.bundle.bundle import Bundle
from edge_llava.device.tree import Tree
from edge_llava.fitting.bundle_needs import estimate_needs, predict_needs
from edge_llava.fitting.needs import MemoryNeeds, Part
from edge_llava.fitting.room import Room, read_room
from edge_llava.fitting.settings import find_settings, most_layers, shortest_context
from edge_llava.ggml.devices import GgmlDevice
from edge_llava.ggml.gguf_header import read_gguf_header
from edge_llava.runtime.language.decoder import Decoder
from edge_llava.runtime.language.dry_run import dry_run
from edge_llava.runtime.language.llama_log import heard_messages
from edge_llava.runtime.options import DecoderOptions, EngineOptions

GPU = GgmlDevice("CUDA0", "A GPU", "CUDA", "gpu", 4 << 30, 6 << 30)


@pytest.fixture
def bundle(seeded_q4):
    return Bundle.open(seeded_q4)


@pytest.mark.parametrize(
    "options", [DecoderOptions(), DecoderOptions(n_ctx=512, n_batch=64), DecoderOptions(kv_type="f32")]
)
def test_the_dry_run_says_what_a_context_takes(bundle, options):
    path, spec = bundle.file("language"), bundle.manifest.language
    tried = dry_run(path, spec, options, n_parallel=2)
    with heard_messages() as heard:
        Decoder(path, spec, options, n_parallel=2).close()
    # llama.cpp writes two decimals of a mebibyte
    (cache,) = (line for line in heard if line.startswith("llama_kv_cache: size ="))
    assert f"{tried.cache_bytes / (1 << 20):.2f} MiB" in cache
    sizes = re.findall(r"CPU +(?:compute|output) buffer size = +([\d.]+) MiB", "\n".join(heard))
    assert len(sizes) == 2
    assert tried.compute_bytes["CPU"] == pytest.approx(sum(map(float, sizes)) * (1 << 20), abs=1 << 15)


@pytest.mark.parametrize("n_ctx", [None, 256])
@pytest.mark.parametrize("low_memory", [False, True])
def test_the_quick_estimate_is_not_too_small(seeded_q4, seeded_f32, n_ctx, low_memory):
    for path in (seeded_q4, seeded_f32):
        bundle, options = Bundle.open(path), EngineOptions(DecoderOptions(n_ctx=n_ctx), low_memory=low_memory)
        quick, exact = estimate_needs(bundle, options), predict_needs(bundle, options)
        assert exact.n_bytes <= quick.n_bytes <= 1.2 * exact.n_bytes


def part_of(needs: MemoryNeeds, name: str, device: str = "") -> int:
    return sum(part.n_bytes for part in needs.parts if (part.name, part.device) == (name, device))


def test_blocks_on_a_gpu_take_its_memory(bundle, monkeypatch):
    """Of two blocks and the head, which is tied to nothing."""
    spec = bundle.manifest.language
    # what a GPU computes in is only known where there is one
    tried = dry_run(bundle.file("language"), spec, DecoderOptions())
    monkeypatch.setattr("edge_llava.fitting.bundle_needs._try", lambda *_: tried)

    def predict(n: int, *devices: GgmlDevice) -> MemoryNeeds:
        monkeypatch.setattr("edge_llava.fitting.bundle_needs.used_devices", lambda options: devices)
        return predict_needs(bundle, EngineOptions(DecoderOptions(n_gpu_layers=n, repack=False)))

    assert spec.n_layer == 2
    nowhere, *placed = predict(0), *(predict(n, GPU) for n in (1, 2, 3, 99, -1))
    weights = [part_of(needs, "weights", "CUDA0") for needs in placed]
    assert 0 < weights[0] < weights[1] < weights[2] == weights[3] == weights[4]
    whole_cache = part_of(nowhere, "KV cache")
    assert [part_of(needs, "KV cache", "CUDA0") / whole_cache for needs in placed] == [0, 0.5, 1, 1, 1]
    tensors = read_gguf_header(bundle.file("language")).tensors
    for needs in placed:
        assert part_of(needs, "KV cache") + part_of(needs, "KV cache", "CUDA0") == whole_cache
        stored = part_of(needs, "weights") + part_of(needs, "weights", "CUDA0")
        assert stored == sum(tensor.n_bytes for tensor in tensors.values())


def test_as_many_blocks_as_fit(bundle):
    language = replace(bundle.manifest.language, n_layer=4)
    bundle = replace(bundle, manifest=replace(bundle.manifest, language=language))

    def predict(_, options):
        n = options.decoder.n_gpu_layers
        n = 5 if n < 0 else n
        return MemoryNeeds((Part("weights", 10 * (5 - n)), Part("weights", 10 * n + 5 * (n > 0), "CUDA0")))

    def most(free: int) -> int | None:
        return most_layers(bundle, EngineOptions(), Room(10**6, gpu_bytes={"CUDA0": free}), predict)

    assert [most(free) for free in (14, 15, 24, 25, 54, 55, 1000)] == [None, 1, 1, 2, 4, 5, 5]
    settings = find_settings(bundle, EngineOptions(), Room(10**6, gpu_bytes={"CUDA0": 25}), predict)
    assert settings[0].words == "--gpu-layers 2"
    # the others have to fit beside them
    assert most_layers(bundle, EngineOptions(), Room(30, gpu_bytes={"CUDA0": 25}), predict) == 2
    assert most_layers(bundle, EngineOptions(), Room(29, gpu_bytes={"CUDA0": 25}), predict) is None


def test_several_gpus_share_by_what_is_free(bundle, monkeypatch):
    tried = dry_run(bundle.file("language"), bundle.manifest.language, DecoderOptions())
    monkeypatch.setattr("edge_llava.fitting.bundle_needs._try", lambda *_: tried)
    gpus = (GPU, replace(GPU, name="CUDA1", free_bytes=GPU.free_bytes // 4))
    monkeypatch.setattr("edge_llava.fitting.bundle_needs.used_devices", lambda options: gpus)
    needs = predict_needs(bundle, EngineOptions())
    assert needs.devices == ("CUDA0", "CUDA1")
    assert needs.on_device("CUDA0") == pytest.approx(4 * needs.on_device("CUDA1"), abs=8)


def test_a_context_has_room_for_the_largest_image(bundle):
    assert shortest_context(bundle, EngineOptions()) == 64 + 448
    assert shortest_context(bundle, EngineOptions(visual_tokens=10)) == 10 + 448
    tiled = replace(
        bundle.manifest.vision, aspect="anyres", merge="flat", grid_pinpoints=((112, 56), (112, 112)), max_tiles=None
    )
    language = replace(bundle.manifest.language, n_ctx_train=4096)
    large = replace(bundle, manifest=replace(bundle.manifest, vision=tiled, language=language))
    assert shortest_context(large, EngineOptions()) == 5 * 64 + 448
    assert shortest_context(large, EngineOptions(max_tiles=3)) == 3 * 64 + 448


def test_a_verdict():
    needs = MemoryNeeds((Part("weights", 60, is_mapped=True), Part("KV cache", 40), Part("weights", 30, "CUDA0")))
    assert (needs.n_bytes, needs.kept_bytes, needs.on_device("CUDA0")) == (100, 40, 30)
    assert Room(None).judge(needs) == Room(100).judge(needs) == "fits"
    assert Room(99).judge(needs) == Room(40).judge(needs) == "slow"
    assert Room(39).judge(needs) == "too much"
    assert Room(100, gpu_bytes={"CUDA0": 29}).judge(needs) == "too much"
    assert Room(100, gpu_bytes={"CUDA0": 30}).judge(needs) == "fits"
    assert Room(100, address_bytes=99).judge(needs) == "too much"
    # a GPU that is a part of the processor takes main memory
    assert Room(129, shared=frozenset({"CUDA0"})).judge(needs) == "slow"
    assert Room(130, shared=frozenset({"CUDA0"})).judge(needs) == "fits"


def test_what_is_free_on_a_gpu():
    igpu = replace(GPU, name="Vulkan0", kind="igpu")
    silent = replace(GPU, name="CUDA1", free_bytes=0, total_bytes=0)
    full = replace(GPU, name="CUDA2", free_bytes=1)
    room = read_room((GPU, igpu, silent, full))
    assert room.gpu_bytes == {"CUDA0": (4 << 30) - (6 << 30) // 10, "CUDA2": 0}
    assert room.shared == {"Vulkan0"}


def test_a_jetson_has_one_memory(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "nv_tegra_release").write_text("# R36 (release), REVISION: 4.3\n")
    room = read_room((GPU,), Tree(tmp_path))
    assert (room.gpu_bytes, room.shared) == ({}, {"CUDA0"})


ASK = """
import sys
from edge_llava.cli import main
from edge_llava.device.memory import peak_rss_bytes
import atexit, json
atexit.register(lambda: print(json.dumps(peak_rss_bytes()), file=sys.stderr))
main(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the figures are Linux's")
@pytest.mark.parametrize("words", [[], ["-c", "256"], ["--low-memory"]])
def test_the_prediction_is_near_what_is_measured(seeded_q4, tmp_path, words):
    """Of a bundle so small, the programs are nearly all of it, and differ between builds; others: docs/devices.md."""
    Image.fromarray(np.zeros((64, 48, 3), np.uint8)).save(tmp_path / "image.png")
    chat = ["chat", "-m", str(seeded_q4), str(tmp_path / "image.png"), "-p", "What?", "-n", "2", "--no-cache", *words]
    done = subprocess.run([sys.executable, "-c", ASK, *chat], capture_output=True, text=True, check=True)
    measured = json.loads(done.stderr.splitlines()[-1])
    fit = [sys.executable, "-m", "edge_llava.cli", "fit", str(seeded_q4), "--json", *words]
    predicted = json.loads(subprocess.run(fit, capture_output=True, text=True, check=True).stdout)["main_bytes"]
    assert predicted == pytest.approx(measured, rel=0.25)

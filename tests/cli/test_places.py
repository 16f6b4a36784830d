"""Where a bundle computes is said, and what cannot be had is refused or noted. The tests' llama.cpp sees no GPU."""

from __future__ import annotations

import ctypes
import json
from dataclasses import replace

import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.manifest import StageParity
from edge_llava.cli.options import EngineChoice
from edge_llava.device.facts import this_device
from edge_llava.device.onnx_packages import expected_provider
from edge_llava.device.profile import DeviceSettings, Profile, save_profile
from edge_llava.errors import BackendError
from edge_llava.ggml.devices import GgmlDevice, list_devices, offload_devices
from edge_llava.parity import verify as verifying
from edge_llava.parity.engines import BundleEngines
from edge_llava.runtime.language.llama_params import context_params, model_params
from edge_llava.runtime.options import DecoderOptions, EngineOptions
from edge_llava.runtime.vision import onnx_runtime

pytestmark = pytest.mark.skipif(bool(offload_devices(list_devices())), reason="llama.cpp sees a GPU here")
ASKED = ("-p", "What?", "-n", 2, "--temp", 0, "-t", 1, "--no-cache", "--json")


def test_an_answer_says_where_it_was_computed(run, seeded_q4, photo):
    with_image = json.loads(run("chat", photo, "-m", seeded_q4, *ASKED).out)["timings"]
    assert (with_image["vision_on"], with_image["language_on"]) == ("cpu", "cpu")
    without = json.loads(run("chat", "-m", seeded_q4, *ASKED).out)["timings"]
    assert (without["vision_on"], without["language_on"]) == (None, "cpu")  # no image was encoded


@pytest.mark.parametrize("choice", [("--gpu-layers", 0), ("--device", "none"), ("--gpu-layers", -1)])
def test_what_needs_no_gpu_answers_the_same(run, seeded_q4, choice):
    expected = json.loads(run("chat", "-m", seeded_q4, *ASKED).out)
    answer = json.loads(run("chat", "-m", seeded_q4, *ASKED, *choice).out)
    assert (answer["text"], answer["timings"]["language_on"]) == (expected["text"], "cpu")


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        (("--gpu-layers", 99), "llama.cpp sees no GPU for 99 blocks"),
        (("--device", "CUDA7"), "llama.cpp has no device CUDA7"),
        (("--device", "CUDA0,CUDA1", "--device", "Vulkan0"), "no device CUDA0, CUDA1, Vulkan0"),
    ],
)
def test_a_gpu_that_is_not_there_is_an_error(run, seeded_q4, choice, says):
    result = run("chat", "-m", seeded_q4, *ASKED, *choice)
    assert (result.code, result.out) == (BackendError.exit_code, "")
    assert says in result.err


@pytest.mark.parametrize(
    "choice",
    [
        ("--device", "none,CUDA0"),
        ("--device", ""),
        ("--device", "CUDA0", "--gpu-layers", 0),
        ("--gpu-layers", 9, "--device", "none"),
    ],
)
def test_devices_that_contradict_are_a_usage_error(run, seeded_q4, choice):
    result = run("chat", "-m", seeded_q4, *ASKED, *choice)
    assert result.code == 2
    assert "--device" in result.err


def test_devices_reach_the_engines_and_other_processes(seeded_q4):
    bundle = Bundle.open(seeded_q4)
    for devices, argument in ((("CUDA0", "CUDA1"), "CUDA0,CUDA1"), ((), "none")):
        choice = EngineChoice(devices=devices, no_profile=True)
        arguments = choice.arguments()
        assert arguments[arguments.index("--device") + 1] == argument
        assert choice.options(bundle).decoder.devices == devices
    assert "--device" not in EngineChoice().arguments()


def test_without_offload_nothing_may_be_computed_elsewhere(seeded_q4):
    """llama.cpp's defaults move large batches and the KV cache to a GPU whatever is on it."""
    language = Bundle.open(seeded_q4).manifest.language
    for options in (DecoderOptions(n_gpu_layers=0), DecoderOptions(devices=())):
        params = context_params(language, options, on_cpu=True)
        assert (params.op_offload, params.offload_kqv) == (False, False)
        assert ctypes.c_void_p.from_address(model_params(options, (), {}).devices).value is None
    params = context_params(language, DecoderOptions(), on_cpu=True)
    assert (params.op_offload, params.offload_kqv) == (True, True)
    elsewhere = GgmlDevice("Vulkan0", "", "Vulkan", "gpu", 0, 0)
    assert model_params(DecoderOptions(), (elsewhere,), {}).devices is None  # llama.cpp's own choice


@pytest.mark.parametrize(
    "wrong", [{"n_gpu_layers": -2}, {"n_gpu_layers": 0, "devices": ("A",)}, {"n_gpu_layers": 3, "devices": ()}]
)
def test_options_that_contradict(wrong):
    with pytest.raises(ValueError, match="n_gpu_layers"):
        DecoderOptions(**wrong)


def test_inspect_says_what_is_expected(run, seeded_q4):
    assert "runs on    language cpu, vision cpu" in run("inspect", seeded_q4).out.splitlines()
    facts = json.loads(run("inspect", seeded_q4, "--json").out)
    assert (facts["vision_on"], facts["language_on"]) == ("cpu", "cpu")


def test_caption_says_where_it_computes(run, seeded_q4, photo, tmp_path):
    captioned = run("caption", photo, "-o", tmp_path / "out.jsonl", "-m", seeded_q4, "-n", 1)
    assert captioned.code == 0
    assert "runs on: language cpu, vision cpu" in captioned.err.splitlines()


def test_what_was_asked_for_is_expected(tmp_path, monkeypatch):
    assert [expected_provider(wanted) for wanted in ("cuda", "cpu", "auto")] == ["cuda", "cpu", "cpu"]
    (tmp_path / "onnxruntime_gpu-1.31.1.dist-info").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert expected_provider("auto") == "cuda, or else cpu"


@pytest.fixture
def judged(monkeypatch):
    """The options of the engines that `verify` compared."""
    seen = []

    class Recorded(BundleEngines):
        def __init__(self, bundle, options):
            seen.append(options)
            super().__init__(bundle, options)

    monkeypatch.setattr(verifying, "BundleEngines", Recorded)
    return seen


def test_verify_judges_what_chat_runs(run, seeded_q4, judged):
    manifest = Bundle.open(seeded_q4).manifest
    digests = (manifest.files[role].sha256 for role in ("language", "vision"))
    settings = DeviceSettings(1, False, 1, False, 96, None, "auto")
    save_profile(Profile(settings, "total", this_device(), *digests, {}), manifest)
    for arguments in ((), ("--no-profile", "-t", 1), ("--gpu-layers", 0, "--provider", "cpu")):
        assert run("verify", seeded_q4, *arguments).code == 0
    tuned, plain, placed = judged
    assert (tuned.decoder.n_batch, tuned.decoder.repack, tuned.vision_spinning) == (96, False, False)
    assert (plain.decoder.n_batch, plain.decoder.repack, plain.decoder.n_threads) == (512, None, 1)
    assert (placed.decoder.n_gpu_layers, placed.vision_provider, placed.decoder.n_batch) == (0, "cpu", 96)


def test_a_provider_that_is_not_there_is_refused_without_an_image(run, seeded_q4):
    result = run("chat", "-m", seeded_q4, *ASKED, "--provider", "cuda")
    assert (result.code, result.out) == (BackendError.exit_code, "")
    assert "the installed ONNX Runtime has no CUDA" in result.err


def test_verify_on_a_provider_that_is_not_there(run, seeded_q4):
    result = run("verify", seeded_q4, "--provider", "directml")
    assert result.code == BackendError.exit_code
    assert "the installed ONNX Runtime has no DirectML" in result.err


def test_a_bundle_that_fails_as_tuned_is_not_blamed_at_once(run, seeded_q4, monkeypatch):
    manifest = Bundle.open(seeded_q4).manifest
    digests = (manifest.files[role].sha256 for role in ("language", "vision"))
    save_profile(
        Profile(DeviceSettings(1, True, 1, True, 96, None, "auto"), "total", this_device(), *digests, {}), manifest
    )
    monkeypatch.setattr(verifying, "_COSINE_SLACK", -1.0)
    assert "Try --no-profile" in run("verify", seeded_q4).err
    assert "Copy it again" in run("verify", seeded_q4, "--no-profile").err


@pytest.mark.parametrize(
    ("options", "tie", "slack"),
    [
        (EngineOptions(DecoderOptions(repack=False, n_threads=3)), 0.02, 1e-3),
        (EngineOptions(), 0.02 + 0.25 * 0.2, 0.5 * 0.04),
        (EngineOptions(DecoderOptions(repack=False, kv_type="q8_0")), 0.02 + 0.25 * 0.2, 0.5 * 0.04),
    ],
)
def test_other_kernels_may_cost_a_part_of_what_quantization_did(seeded_q4, options, tie, slack):
    """Repacked weights round elsewhere: for random weights, tokens that are 0.04 sigma apart change places."""
    bundle = Bundle.open(seeded_q4)
    parity = {**bundle.manifest.parity, "language": StageParity(cosine_mean=0.98, cosine_min=0.96)}
    bundle = replace(bundle, manifest=replace(bundle.manifest, parity=parity))
    assert verifying._near_tie(bundle, BundleEngines(bundle, options)) == pytest.approx(tie)
    assert verifying._slack("language", bundle, options) == pytest.approx(slack)
    assert verifying._slack("projector", bundle, options) == 1e-3


def test_a_warning_about_the_tower_is_a_note_while_a_command_runs(run, seeded_q4, photo, tmp_path, monkeypatch, capfd):
    """A program that calls the command line goes on with its own logging."""
    (tmp_path / "onnxruntime_gpu-1.31.1.dist-info").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    onnx_runtime._warn_once.cache_clear()
    result = run("embed", photo, "-m", seeded_q4, "-o", tmp_path / "e.safetensors")
    assert result.err.count("edge-llava: onnxruntime and onnxruntime-gpu are both installed") == 1
    onnx_runtime._warn_once("later")
    assert capfd.readouterr() == ("", "")

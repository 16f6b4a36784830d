from __future__ import annotations

import dataclasses
import json
import os

import onnxruntime
import pytest

from edge_llava.bundle.manifest import Manifest
from edge_llava.device.facts import DeviceFacts, this_device
from edge_llava.device.profile import DeviceSettings, Profile, find_profile, save_profile
from edge_llava.errors import BackendError, BundleError
from edge_llava.ggml.devices import GgmlDevice
from edge_llava.runtime.options import EngineOptions, device_facts

DEVICE = DeviceFacts("Some CPU", "x86_64", 8, "0.3.36", "1.32.0", "ab" * 32, "cpu", "cpu")
SETTINGS = DeviceSettings(4, False, 6, False, 256, None, "q8_0")


@pytest.fixture
def manifest(manifest_data):
    return Manifest.from_json(json.dumps(manifest_data), "manifest.json")


@pytest.fixture
def profile(manifest):
    files = manifest.files
    measured = {"decode_tps": 12.5, "peak_rss_bytes": None}
    return Profile(SETTINGS, "ttft", DEVICE, files["language"].sha256, files["vision"].sha256, measured)


def find(manifest, device=DEVICE):
    warnings = []
    return find_profile(manifest, device, warn=warnings.append), warnings


def test_round_trip(profile, manifest, home):
    assert find(manifest) == (None, [])
    path = save_profile(profile, manifest)
    assert path.parent == home / "profiles"
    assert find(manifest) == (profile, [])
    again = dataclasses.replace(
        profile, parallel=4, settings=dataclasses.replace(SETTINGS, kv_type="auto", flash_attention=False)
    )
    assert save_profile(again, manifest) == path
    assert find(manifest) == (again, [])
    assert os.listdir(path.parent) == [path.name]


def test_an_older_profile_has_one_answer_at_a_time(profile, manifest):
    path = save_profile(dataclasses.replace(profile, parallel=4), manifest)
    data = json.loads(path.read_text())
    del data["parallel"]
    path.write_text(json.dumps(data))
    assert find(manifest) == (profile, [])


@pytest.mark.parametrize(
    "changed",
    [
        *({"cpu": "Another"}, {"machine": "aarch64"}, {"n_cpus": 4}, {"llama_cpp": "0.3.37"}, {"onnxruntime": ""}),
        *({"llama_cpp_build": "ba" * 32}, {"language_on": "-1 on CUDA0 (gpu, A GPU)"}, {"vision_on": "cuda"}),
    ],
)
def test_another_device_has_another_profile(profile, manifest, changed):
    save_profile(profile, manifest)
    assert find(manifest, dataclasses.replace(DEVICE, **changed)) == (None, [])


@pytest.mark.parametrize("role", ["language", "vision"])
def test_another_file_has_another_profile(profile, manifest, role):
    save_profile(profile, manifest)
    entry = dataclasses.replace(manifest.files[role], sha256="f" * 64)
    other = dataclasses.replace(manifest, files={**manifest.files, role: entry})
    assert find(other) == (None, [])


def change(*path, to):
    def apply(data):
        inner = data
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = to
        return json.dumps(data)

    return apply


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: json.dumps(data)[:-20], "line 1"),
        (lambda data: "[]", "not a JSON object"),
        (lambda data: "[" * 100000, "recursion"),
        (change("format_version", to=3), "format_version is 3"),
        (change("settings", "n_threads", to=0), "settings.n_threads is 0"),
        (change("settings", "n_threads", to=10**6), "settings.n_threads is 1000000"),
        (change("settings", "n_batch", to=True), "settings.n_batch is true"),
        (change("settings", "repack", to="yes"), "settings.repack"),
        (change("settings", "kv_type", to="q4_0"), "settings.kv_type"),
        (change("settings", "flash_attention", to="off"), "needs flash attention"),
        (change("settings", to=None), "settings is null"),
        (change("measured", "decode_tps", to="fast"), "measured.decode_tps"),
        (change("parallel", to=0), "parallel is 0"),
        (change("parallel", to="many"), "parallel"),
        (change("goal", to="fame"), "goal"),
        (change("language_sha256", to="0" * 64), "language_sha256 is another one's"),
        (change("device", "cpu", to="Another"), "device is another one"),
    ],
)
def test_a_damaged_profile_is_ignored_with_a_warning(profile, manifest, damage, says):
    path = save_profile(profile, manifest)
    path.write_text(damage(json.loads(path.read_text())))
    found, warnings = find(manifest)
    assert found is None
    (warning,) = warnings
    assert str(path) in warning
    assert says in warning


def test_all_faults_are_reported_at_once(profile, manifest):
    path = save_profile(profile, manifest)
    data = json.loads(path.read_text())
    del data["settings"]["repack"], data["settings"]["n_batch"]
    path.write_text(json.dumps(data))
    (warning,) = find(manifest)[1]
    assert "settings.repack is missing" in warning
    assert "settings.n_batch is missing" in warning


def test_a_file_that_is_not_text_is_ignored(profile, manifest):
    path = save_profile(profile, manifest)
    path.write_bytes(b"\xff\xfe\x00")
    assert len(find(manifest)[1]) == 1
    path.unlink()
    path.mkdir()
    assert len(find(manifest)[1]) == 1


def test_a_home_that_cannot_be_written(profile, manifest, home):
    (home / "profiles").write_text("in the way")
    with pytest.raises(BundleError, match="EDGE_LLAVA_HOME"):
        save_profile(profile, manifest)
    assert find(manifest)[0] is None


def test_this_device():
    facts = this_device()
    assert facts == this_device()
    assert facts.cpu
    assert 1 <= facts.n_cpus <= os.cpu_count()
    assert facts.llama_cpp.startswith("0.3.")
    assert facts.onnxruntime == onnxruntime.__version__
    assert len(bytes.fromhex(facts.llama_cpp_build)) == 32
    assert this_device(n_gpu_layers=0).language_on == this_device(devices=()).language_on == "cpu"
    assert this_device(vision_provider="openvino").vision_on == "openvino"


def test_facts_name_the_gpus_that_are_used(monkeypatch, tmp_path):
    """In a build whose libraries' names say that it may see GPUs, its devices are looked at."""
    gpus = [GgmlDevice(f"CUDA{n}", "A GPU", "CUDA", "gpu", n, n) for n in range(2)]
    monkeypatch.setattr("edge_llava.ggml.devices.list_devices", lambda: gpus)
    assert this_device().language_on == "cpu"
    (tmp_path / "libggml-cpu.so").touch()
    (tmp_path / "libggml-cuda.so").touch()
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    assert this_device().language_on == "-1 on CUDA0 (gpu, A GPU), CUDA1 (gpu, A GPU)"
    assert this_device(20, ("cuda1",)).language_on == "20 on CUDA1 (gpu, A GPU)"
    assert this_device(0).language_on == "cpu"
    with pytest.raises(BackendError, match="no device CUDA2"):
        this_device(-1, ("CUDA2",))


def test_a_profile_is_of_where_the_engines_run(manifest, home):
    base = EngineOptions(vision_provider="openvino")
    files, device = manifest.files, device_facts(base)
    digests = files["language"].sha256, files["vision"].sha256
    save_profile(Profile(SETTINGS, "ttft", device, *digests, {}), manifest)
    assert find_profile(manifest) is None
    assert find_profile(manifest, device_facts(base)) is not None

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.device.cpu_name import read_cpu_name
from edge_llava.device.tree import Tree
from edge_llava.doctor.bundle_findings import find_about_bundle
from edge_llava.doctor.children import Outcome
from edge_llava.doctor.device_findings import find_about_device
from edge_llava.doctor.examination import find_about_answer
from edge_llava.doctor.llama_findings import find_about_llama, is_wrong_gcc
from edge_llava.doctor.onnx_findings import find_about_onnx
from edge_llava.doctor.surroundings import find_about_directory, find_about_encoding
from edge_llava.doctor.system import read_system
from edge_llava.home.installation import install_command

CPU = {"name": "CPU", "description": "A", "backend": "CPU", "kind": "cpu", "free_bytes": 1, "total_bytes": 1}
VULKAN = {**CPU, "name": "Vulkan0", "kind": "igpu", "backend": "Vulkan", "description": "Iris", "total_bytes": 9e9}
NO_DRIVER = Outcome({})


def llama(*features, devices=(CPU,), gcc="14.2", amx_works=False, failure=""):
    facts = {"version": "0.3.36", "features": [*features, "OPENMP"], "devices": devices, "gcc": gcc}
    return Outcome(facts | {"amx_works": amx_works}, failure)


def onnx(providers, cuda="", failure="", trying=""):
    facts = {"version": "1.31.1", "cuda_version": cuda, "providers": providers, "trying": trying}
    return Outcome(facts, failure)


def by_topic(findings):
    """{topic: [(level, text and advice)]}"""
    found: dict[str, list[tuple[str, str]]] = {}
    for one in findings:
        found.setdefault(one.topic, []).append((one.level, f"{one.text} -> {one.advice}"))
    return found


@pytest.fixture
def system(tree):
    """system(files, ...) -> what is read of them, with one package of ONNX Runtime."""

    def read(files, packages=None, **programs):
        return replace(
            read_system(tree(files), **programs), onnx_packages=packages or {"onnxruntime": "1.32.0"}, nvcc=""
        )

    return read


def test_about_a_laptop(system, laptop):
    found = by_topic(find_about_device(replace(system(laptop), n_threads=8)))
    assert found["threads"] == [("ok", "8 by default -> ")]
    assert found["memory"] == [("ok", "16.4 GB in all, 9.2 GB free -> ")]
    assert found["heat"][0][0] == "hint"
    assert [text.partition(" -> ")[0] for _, text in found["power"]] == [
        "its profile is low-power",
        "it runs on its battery",
    ]


def test_about_a_jetson(system, jetson):
    found = by_topic(find_about_device(system(jetson, nvpmodel="NV Power Mode: 15W\n0")))
    assert found["power"] == [
        ("hint", "its power mode is 15W -> For full speed: sudo nvpmodel -m 0 && sudo jetson_clocks")
    ]
    ((level, text),) = found["memory"]
    assert (level, "8.0 GB in all, 1.5 GB free, shared with the GPU" in text) == ("hint", True)
    fast = by_topic(find_about_device(system(jetson, nvpmodel="NV Power Mode: MAXN_SUPER")))
    assert fast["power"] == [("ok", "MAXN_SUPER, schedutil -> ")]


def test_a_build_of_another_processor(system, pi):
    """As of a container that was copied from a Raspberry Pi 5 to a 4."""
    older = pi | {"proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd"}
    found = by_topic(find_about_llama(system(older), llama("NEON", "DOTPROD")))
    level, text = found["llama.cpp"][1]
    assert level == "problem"
    assert text.startswith(
        "it was built with DOTPROD, which this processor lacks, and will be ended by SIGILL -> Build"
    )
    assert "see above" in find_about_answer(Outcome({}, "ended by SIGILL")).advice
    assert len(by_topic(find_about_llama(system(pi), llama("NEON", "DOTPROD")))["llama.cpp"]) < 3
    # macOS does not name all that it has
    mac = read_system(Tree(Path("/nowhere")), sysctl="hw.optional.arm.FEAT_DotProd: 1")
    assert all(
        level != "problem" for level, _ in by_topic(find_about_llama(mac, llama("NEON", "DOTPROD")))["llama.cpp"]
    )


def test_a_missing_llama_cpp_is_installed_with_what_it_needs(system, pi):
    ((_, text),) = by_topic(find_about_llama(system(pi), Outcome({}, "ModuleNotFoundError: llama_cpp")))["llama.cpp"]
    assert text.endswith(f"-> Install it: {install_command()}, which compiles llama-cpp-python and takes some minutes.")


def test_little_cores_do_not_speak_for_big_ones(system):
    policy = "sys/devices/system/cpu/cpufreq/policy{}/{}"
    clocks = {0: ("schedutil", 1_800_000, 1_800_000), 4: ("powersave", 1_000_000, 2_400_000)}
    files = {
        policy.format(first, name): value
        for first, values in clocks.items()
        for name, value in zip(("scaling_governor", "scaling_max_freq", "cpuinfo_max_freq"), values, strict=True)
    }
    found = by_topic(find_about_device(system(files)))
    assert [text.partition(" -> ")[0] for _, text in found["power"]] == [
        "its clocks are governed by powersave",
        "its clock is capped at 42%",
    ]


@pytest.mark.parametrize("place", ["soc/soc:firmware", "soc@107c000000/soc@107c000000:firmware"])
def test_a_pis_flags_wherever_its_firmware_is(system, pi, place):
    files = {name: value for name, value in pi.items() if "get_throttled" not in name}
    found = by_topic(find_about_device(system(files | {f"sys/devices/platform/{place}/get_throttled": "4"})))
    assert "it is throttled now" in found["heat"][0][1]


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"proc/cpuinfo": "Hardware\t: BCM2835\nModel\t: Raspberry Pi 4"}, "Raspberry Pi 4"),
        ({"proc/cpuinfo": "Hardware\t: BCM2835", "proc/device-tree/model": "Pi 3\0"}, "Pi 3"),
        ({"proc/cpuinfo": "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd40"}, "Arm 0x41/0xd40"),
        ({"proc/cpuinfo": "model name\t: Intel(R) N100"}, "Intel(R) N100"),
        ({}, ""),
    ],
)
def test_what_a_processor_is_called(tree, files, name):
    assert read_cpu_name(tree(files)) == name


def test_clocks_that_are_kept_low(system):
    place = "sys/devices/system/cpu/cpu0/cpufreq"
    files = {"scaling_governor": "powersave", "scaling_max_freq": 1_500_000, "cpuinfo_max_freq": 3_000_000}
    found = by_topic(find_about_device(system({f"{place}/{name}": value for name, value in files.items()})))
    assert [text.partition(" -> ")[0] for _, text in found["power"]] == [
        "its clocks are governed by powersave",
        "its clock is capped at 50%",
    ]


def test_about_a_small_container(system):
    files = {
        "proc/self/cgroup": "0::/",
        "proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 9000000 kB",
        "sys/fs/cgroup/memory.max": 1_500_000_000,
        "sys/fs/cgroup/cpu.max": "100000 100000",
    }
    found = by_topic(find_about_device(replace(system(files), n_threads=1)))
    assert found["threads"] == [("ok", "1 by default; this container has 1 CPUs' worth of time -> ")]
    ((level, memory),) = found["memory"]
    assert (level, "may use 1.5 GB, of which 1.5 GB are free" in memory) == ("hint", True)


def test_a_build_for_an_older_processor(system, laptop):
    found = by_topic(find_about_llama(system(laptop), llama("AVX", "AVX2", "FMA", "F16C", "BMI2", devices=[VULKAN])))
    (_, lacking) = found["llama.cpp"]
    assert lacking[0] == "hint"
    assert lacking[1].startswith("this processor has AVX_VNNI, which llama.cpp was built without -> Build it")
    assert "--no-binary llama-cpp-python llama-cpp-python==0.3.36" in lacking[1]
    assert found["GPU"] == [("ok", "Vulkan0: Iris, 0.0 of 9.0 GB free, by Vulkan -> ")]


def test_amx_that_was_compiled_wrongly(system):
    files = {"proc/cpuinfo": "flags : avx amx_int8"}
    (_, hint) = find_about_llama(system(files), llama("AVX"))
    assert ("AMX_INT8, which llama.cpp was built without" in hint.text, "-fno-dse" in hint.advice) == (True, True)
    (_, hint) = find_about_llama(system(files), llama("AVX", "AMX_INT8", gcc="12.2", amx_works=False))
    assert (hint.level, "bug 114098" in hint.text, "-fno-dse" in hint.advice) == ("hint", True, True)
    (_, hint) = find_about_llama(system(files), llama("AVX", "AMX_INT8", gcc="12.4", amx_works=False))
    assert (hint.level, "fail here" in hint.text, hint.advice) == ("hint", True, "")
    for gcc in ("12.2", "12.4"):  # GCC 12.2 compiles it rightly with -fno-dse
        assert len(list(find_about_llama(system(files), llama("AVX", "AMX_INT8", gcc=gcc, amx_works=True)))) == 1
    versions = ["", "11.4", "12.3", "12.4", "13.2", "13.3", "14.1"]
    assert [is_wrong_gcc(version) for version in versions] == [False, True, True, False, True, False, False]


def test_a_build_without_openmp(system):
    (_, hint) = find_about_llama(system({}), Outcome({"version": "0.3.36", "features": ["AVX"], "gcc": "14.2"}))
    assert (hint.level, "without OpenMP" in hint.text, "-DGGML_OPENMP=on" in hint.advice) == ("hint", True, True)
    (_,) = find_about_llama(system({}), Outcome({"version": "0.3.36", "features": ["NEON"], "gcc": ""}))  # a Mac's


def test_one_command_does_not_undo_another(system):
    facts = {"version": "0.3.36", "features": ["AVX", "AMX_INT8"], "gcc": "12.2", "amx_works": False}
    cuda = {**CPU, "name": "CUDA0", "kind": "gpu", "backend": "CUDA"}
    files = {"proc/cpuinfo": "flags : avx avx2 amx_int8"}
    hints = [
        one for one in find_about_llama(system(files), Outcome(facts | {"devices": [cuda]})) if one.level == "hint"
    ]
    commands = {hint.advice[hint.advice.index("CMAKE_ARGS") :] for hint in hints}
    (command,) = commands
    assert len(hints) == 3
    assert all(setting in command for setting in ("-fno-dse", "-DGGML_OPENMP=on", "-DGGML_CUDA=on"))


def test_gpus_that_the_build_cannot_use(system, laptop, jetson, mac):
    nvidia, intel = by_topic(find_about_llama(system(laptop), llama()))["GPU"]
    assert nvidia[1].startswith("NVIDIA GeForce RTX 4050, driver 550.54.14 is not used: ")
    assert 'CMAKE_ARGS="-DGGML_CUDA=on" pip install' in nvidia[1]
    assert "It needs CUDA's toolkit." in nvidia[1]
    assert 'CMAKE_ARGS="-DGGML_VULKAN=on" pip install' in intel[1]
    ((_, metal),) = by_topic(find_about_llama(system({}, sysctl=mac), llama("DOTPROD", "MATMUL_INT8")))["GPU"]
    assert 'CMAKE_ARGS="-DGGML_METAL=on" pip install' in metal


def test_a_jetson_whose_compiler_is_not_on_the_path(system, jetson):
    there = replace(system(jetson), nvcc="/usr/local/cuda/bin/nvcc")
    ((_, text),) = by_topic(find_about_llama(there, llama("NEON", "DOTPROD", "FP16_VA")))["GPU"]
    command = 'CUDACXX=/usr/local/cuda/bin/nvcc CMAKE_ARGS="-DGGML_CUDA=on -DCMAKE_CUDA_ARCHITECTURES=87" pip install'
    assert command in text
    assert "It needs" not in text


def test_a_card_without_a_driver(system, laptop):
    del laptop["proc/driver/nvidia/version"]
    found = by_topic(find_about_llama(system(laptop), llama()))["GPU"]
    assert ("hint", "NVIDIA 0xa7a0 has no driver -> Install NVIDIA's driver, 580 or newer for CUDA 13.") in found


def test_a_library_that_ends_the_process(system):
    (only,) = find_about_llama(system({}), Outcome({}, "ended by SIGILL"))
    assert (only.level, only.text) == ("problem", "ended by SIGILL")
    assert only.advice.startswith("Build it for this processor: pip install")


NO_LIBRARY = "libcublasLt.so.13: cannot open shared object file"
OLD = "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version"


@pytest.mark.parametrize(
    ("reason", "driver", "advice"),
    [
        (NO_LIBRARY, "13.0", f"Its libraries are missing: `{install_command('cuda')}` brings them along."),
        (OLD, "12.8", "The driver runs CUDA 12.8 at most. Update it, to 580 or newer for CUDA 13, or: "),
        ("CUDA failure 209: no kernel image is available", "13.0", "The package has no kernels for this GPU"),
    ],
)
def test_why_cuda_does_not_start(system, laptop, reason, driver, advice):
    gpu = system(laptop, {"onnxruntime-gpu": "1.31.1"})
    works, fails = find_about_onnx(gpu, onnx({"cpu": "", "cuda": reason}, "13.0"), Outcome({"cuda": driver}))
    assert (works.level, works.text) == ("ok", "version 1.31.1, runs on CPU")
    assert fails.level == "problem"
    assert fails.text == f"it was built for CUDA 13.0, which does not run here: {reason}"
    assert fails.advice.startswith(advice)


def test_cuda_where_no_nvidia_gpu_is_or_a_jetson(system, jetson):
    outcome = onnx({"cpu": "", "cuda": NO_LIBRARY}, "13.0")
    _, hint = find_about_onnx(system({}, {"onnxruntime-gpu": "1.31.1"}), outcome, NO_DRIVER)
    assert (hint.level, hint.advice) == (
        "hint",
        f"There is no NVIDIA GPU: `pip uninstall -y onnxruntime-gpu`, then `{install_command('cpu')}`.",
    )
    _, problem = find_about_onnx(system(jetson), outcome, NO_DRIVER)
    assert (problem.level, "no kernels for a Jetson" in problem.advice) == ("problem", True)
    *_, fine = find_about_onnx(system(jetson), onnx({"cpu": ""}), NO_DRIVER)
    assert fine.level == "ok"


def test_a_plugin_without_a_device(system):
    _, hint = find_about_onnx(system({}), onnx({"cpu": "", "openvino": "it finds no device of Intel's"}), NO_DRIVER)
    assert (hint.level, hint.text) == ("hint", "OpenVINO does not run here: it finds no device of Intel's")


def test_an_nvidia_gpu_and_the_cpus_package(system, laptop):
    _, hint = find_about_onnx(system(laptop), onnx({"cpu": ""}), NO_DRIVER)
    assert (hint.level, hint.advice) == (
        "hint",
        f"For CUDA: `pip uninstall -y onnxruntime`, then `{install_command('cuda')}`.",
    )


def test_two_packages_and_a_provider_that_crashes(system):
    both = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}
    outcome = onnx({"cpu": ""}, "13.0", "ended by SIGSEGV", trying="cuda")
    found = list(find_about_onnx(system({}, both), outcome, NO_DRIVER))
    assert [one.level for one in found] == ["problem", "problem", "ok"]
    assert found[0].text == "onnxruntime and onnxruntime-gpu are both installed, and overwrite each other"
    assert (found[1].text, found[1].advice) == ("CUDA: ended by SIGSEGV", "Use --provider cpu.")


@pytest.mark.parametrize(
    ("facts", "failure", "level"),
    [
        ({"is_right": True, "language_on": "cpu", "vision_on": "cpu"}, "", "ok"),
        ({"is_right": False, "language_on": "Vulkan0 3/3", "vision_on": "cpu"}, "", "problem"),
        ({}, "took longer than 60 s", "problem"),
    ],
)
def test_the_known_answer(facts, failure, level):
    assert find_about_answer(Outcome(facts, failure)).level == level


def test_a_bundle_that_fits_with_less(seeded_q4):
    bundle, facts = Bundle.open(seeded_q4), {"takes": 2_000_000_000, "free": 1_500_000_000, "checks": []}
    short = Outcome(facts | {"verdict": "too much", "settings": ["-c 2048", "-c 1024"]})
    hint, _ = find_about_bundle(bundle, short)
    assert (hint.level, hint.text) == ("hint", f"{bundle.name} takes 2.00 GB; 1.50 GB are free")
    assert hint.advice == f"What fits: -c 2048. See: edge-llava fit {bundle.name}"
    hint, _ = find_about_bundle(bundle, Outcome(facts | {"verdict": "too much", "settings": []}))
    assert "--quant" in hint.advice
    fine, _ = find_about_bundle(bundle, Outcome(facts | {"free": None, "verdict": "fits", "settings": []}))
    assert (fine.level, fine.text) == ("ok", f"{bundle.name} takes 2.00 GB")


def test_a_bundle_that_does_not_compute_what_it_should(seeded_q4):
    bundle = Bundle.open(seeded_q4)
    checks = [{"name": "files", "ok": True, "detail": ""}, {"name": "vision", "ok": False, "detail": "cosine -1"}]
    (wrong,) = find_about_bundle(bundle, Outcome({"checks": checks}))
    assert (wrong.level, wrong.text) == ("problem", "does not compute here what it should: vision: cosine -1")
    (right,) = find_about_bundle(bundle, Outcome({"checks": checks[:1]}))
    assert (right.level, right.text) == ("ok", "files match its record")


def test_encodings():
    assert find_about_encoding("UTF-8", "utf-8").level == find_about_encoding("utf8", "").level == "ok"
    assert find_about_encoding("cp1252", "utf-8").text == "cp1252 and utf-8 cannot show every answer"


def test_a_directory_for_what_is_kept(tmp_path):
    assert find_about_directory(tmp_path / "not" / "yet").level == "ok"
    (tmp_path / "file").touch()
    assert find_about_directory(tmp_path / "file" / "below").level == "problem"

"""What the extras of ONNX Runtime install on which device: exactly one package that contains it."""

from __future__ import annotations

from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib")
requirements = pytest.importorskip("packaging.requirements")

EXTRAS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]
LINUX, WINDOWS = ("linux", "x86_64"), ("win32", "AMD64")
OTHERS = (("linux", "aarch64"), ("win32", "ARM64"), ("darwin", "arm64"), ("darwin", "x86_64"))
OWNERS = {"onnxruntime", "onnxruntime-gpu", "onnxruntime-directml"}


def installed(extra, system, python="3.12"):
    """{name: requirement} of an extra on a device."""
    platform, machine = system
    device = {"sys_platform": platform, "platform_machine": machine, "python_version": python}
    wanted = map(requirements.Requirement, EXTRAS[extra])
    return {one.name: one for one in wanted if one.marker is None or one.marker.evaluate(device)}


@pytest.mark.parametrize("system", [LINUX, WINDOWS, *OTHERS])
@pytest.mark.parametrize("python", ["3.10", "3.12"])
@pytest.mark.parametrize("extra", ["cpu", "cuda", "cuda12", "directml", "openvino"])
def test_one_onnx_runtime_whatever_the_device(extra, system, python):
    assert len(OWNERS & installed(extra, system, python).keys()) == 1


@pytest.mark.parametrize("system", OTHERS)
@pytest.mark.parametrize("extra", ["cuda", "cuda12", "directml", "openvino"])
def test_the_cpus_build_where_there_is_no_other(extra, system):
    assert installed(extra, system).keys() == {"onnxruntime"}


@pytest.mark.parametrize("system", [LINUX, WINDOWS])
def test_cuda_comes_with_its_libraries_and_by_its_version(system):
    """1.27 is the first on PyPI for CUDA 13, and 1.23.2 the last for Python 3.10."""
    for extra, python, taken, refused in (
        ("cuda", "3.12", ["1.27.0", "1.31.1"], ["1.26.0"]),
        ("cuda", "3.10", ["1.23.2"], ["1.22.0"]),
        ("cuda12", "3.12", ["1.23.2", "1.26.0"], ["1.22.0", "1.27.0"]),
    ):
        wanted = installed(extra, system, python)["onnxruntime-gpu"]
        assert wanted.extras == {"cuda", "cudnn"}
        assert [wanted.specifier.contains(version) for version in taken] == [True] * len(taken)
        assert [wanted.specifier.contains(version) for version in refused] == [False] * len(refused)


def test_directml_and_openvino():
    assert installed("directml", WINDOWS).keys() == {"onnxruntime-directml"}
    assert installed("directml", LINUX).keys() == {"onnxruntime"}
    assert installed("openvino", LINUX).keys() == {"onnxruntime", "onnxruntime-ep-openvino"}

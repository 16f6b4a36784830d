from __future__ import annotations

import sys

import onnxruntime
import pytest

from edge_llava.device.onnx_packages import onnx_packages, onnxruntime_version, repair
from edge_llava.home.installation import install_command


def test_packages_are_found_by_what_pip_wrote(tmp_path):
    for directory, names in {
        "a": ("onnxruntime-1.32.0.dist-info", "onnxruntime_gpu-1.31.1.dist-info", "onnxruntime", "numpy-2.0.dist-info"),
        "b": ("onnxruntime-1.23.0.dist-info", "onnxruntime_extensions-0.15.dist-info", "onnxruntime_ep_x-1.dist-info"),
    }.items():
        for name in names:
            (tmp_path / directory / name).mkdir(parents=True)
    (tmp_path / "library.zip").touch()
    places = [tmp_path / "none", tmp_path / "a", tmp_path / "library.zip", tmp_path / "b"]
    assert onnx_packages(places) == {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}
    assert len(onnx_packages()) >= 1, "the tests need one"


@pytest.mark.parametrize(
    ("packages", "extra", "says"),
    [
        ({}, "", f"`{install_command('cpu')}`"),
        ({"onnxruntime": "1.32.0"}, "cuda", f"`pip uninstall -y onnxruntime`, then `{install_command('cuda')}`"),
        (
            {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.27.0"},
            "",
            f"`pip uninstall -y onnxruntime onnxruntime-gpu`, then `{install_command('cuda')}`",
        ),
        (
            {"onnxruntime-gpu": "1.26.0"},
            "",
            f"`pip uninstall -y onnxruntime-gpu`, then `{install_command('cuda12')}`",
        ),
        (
            {"onnxruntime": "1.2", "onnxruntime-cann": "1.2"},
            "",
            "`pip uninstall -y onnxruntime onnxruntime-cann`, then `pip install onnxruntime-cann`",
        ),
    ],
)
def test_one_package_is_left_after_the_repair(packages, extra, says):
    assert repair(packages, extra) == says


def test_the_version_is_that_of_the_module(tmp_path, monkeypatch):
    """After two packages were installed, one's metadata says what the other's files are not."""
    assert onnxruntime_version() == onnxruntime.__version__
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime-1.40.0.dist-info").mkdir()
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "onnxruntime/__init__.py").write_text('"""A module."""\n__version__ = "1.39.2"\nraise ImportError\n')
    assert onnxruntime_version() == "1.39.2"

"""Backends that are found beside the installed llama.cpp."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_llava.ggml.library import library_digest, may_see_gpus
from edge_llava.ggml.plugins import plugin_libraries


@pytest.fixture(autouse=True)
def without_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_llava.ggml.plugins._PACKAGES", ())
    monkeypatch.delenv("EDGE_LLAVA_BACKENDS", raising=False)


def test_directories_that_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name in (("a", "libggml-vulkan.so"), ("a", "README"), ("b", "ggml-cuda.dll")):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / name).write_bytes(b"library")
    before = library_digest.__wrapped__()
    monkeypatch.setenv("EDGE_LLAVA_BACKENDS", os.pathsep.join(str(tmp_path / place) for place in ("a", "b", "none")))
    assert [path.name for path in plugin_libraries()] == ["libggml-vulkan.so", "ggml-cuda.dll"]
    assert may_see_gpus()
    assert library_digest.__wrapped__() != before


def test_a_package_that_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edge_llava_vulkan").mkdir()
    (tmp_path / "edge_llava_vulkan" / "__init__.py").touch()
    (tmp_path / "edge_llava_vulkan" / "libggml-vulkan.so").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("edge_llava.ggml.plugins._PACKAGES", ("edge_llava_vulkan", "edge_llava_none"))
    assert [path.name for path in plugin_libraries()] == ["libggml-vulkan.so"]


def test_there_are_none_otherwise() -> None:
    assert plugin_libraries() == []

"""Paths that no file system takes give the error of the thing they name, wherever a command takes one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_llava.selftest import BUNDLE

NAME, PATH = "x" * 300, "/".join(["y" * 200] * 30)  # longer than a name may be, and than a path may be


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    shutil.copytree(BUNDLE, tmp_path / "b")
    Image.fromarray(np.zeros((9, 16, 3), np.uint8)).save(tmp_path / "a.png")
    return {"BUNDLE": tmp_path / "b", "IMAGE": tmp_path / "a.png", "OUT": tmp_path / "out"}


@pytest.mark.parametrize("long", [NAME, PATH], ids=["name", "path"])
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("inspect LONG", 6),
        ("verify LONG", 6),
        ("chat -m LONG -p x", 6),
        ("tune -m LONG", 6),
        ("serve -m LONG", 6),
        ("models rm LONG --yes", 6),
        ("models default LONG", 6),
        ("chat -m BUNDLE LONG -p x", 7),
        ("chat -m BUNDLE --embedding LONG -p x", 7),
        ("embed LONG -m BUNDLE -o OUT", 7),
        ("embed IMAGE -m BUNDLE -o LONG", 7),
        ("chat -m BUNDLE IMAGE -p x --show-input LONG", 2),
        pytest.param("convert LONG -o OUT", 4, marks=pytest.mark.convert),
        pytest.param("convert demo -o LONG", 5, marks=pytest.mark.convert),
        pytest.param("convert demo -o OUT --calibrate LONG", 7, marks=pytest.mark.convert),
    ],
)
def test_code_of_a_long_path(
    run: Callable[..., Any], files: dict[str, Path], command: str, code: int, long: str
) -> None:
    result = run(*((files | {"LONG": long}).get(word, word) for word in command.split()))
    assert result.code == code, result.err
    assert "internal error" not in result.err


@pytest.mark.parametrize("long", [NAME, PATH], ids=["name", "path"])
@pytest.mark.parametrize("variable", ["EDGE_LLAVA_HOME", "EDGE_LLAVA_CACHE"])
def test_long_path_in_the_environment(
    run: Callable[..., Any], files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, variable: str, long: str
) -> None:
    monkeypatch.setenv(variable, long)
    assert run("chat", "-m", files["BUNDLE"], files["IMAGE"], "-p", "x", "-t", 1).code == 0
    assert run("models", "list").code == 0
    assert run("cache", "info").code == 0
    assert run("cache", "clear", "--yes").code == 0
    assert run("inspect").code == 6

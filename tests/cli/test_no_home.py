"""A user id without an entry and without HOME, as in many containers: nothing is kept, and everything else works."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from edge_llava.bundle.bundle import Bundle
from edge_llava.errors import BundleError, EdgeLlavaError
from edge_llava.home.directories import (
    cache_directory,
    check_home,
    has_cache,
    has_home,
    home_directory,
    set_default_bundle,
)

PROGRAM = """
import pwd, sys
def no_entry(user):
    raise KeyError(f"getpwuid(): uid not found: {user}")
pwd.getpwuid = no_entry
from edge_llava.cli import main
main(sys.argv[1:])
"""


@pytest.fixture
def homeless(tmp_path):
    """homeless(*arguments, **environment) -> the finished process of the command, in an empty directory."""

    def run(*arguments, **environment):
        kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "EDGE_LLAVA_HOME")}
        kept = {name: value for name, value in kept.items() if not name.startswith("XDG_")}
        command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
        return subprocess.run(
            command, env=kept | environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
        )

    return run


@pytest.fixture
def without_home(monkeypatch):
    """This process as such a user."""
    pwd = pytest.importorskip("pwd")

    def no_entry(user):
        raise KeyError(user)

    for name in [name for name in os.environ if name in ("HOME", "EDGE_LLAVA_HOME") or name.startswith("XDG_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)


@pytest.mark.convert
def test_commands_that_need_no_home(homeless, seeded_q4, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    Image.fromarray(image).save(tmp_path / "images" / "a.png")
    before = set(tmp_path.rglob("*"))
    for arguments in (
        ("chat", "images/a.png", "-m", seeded_q4, "-p", "What?", "-n", 3),
        ("inspect", seeded_q4),
        ("verify", seeded_q4),
        ("models", "list"),
        ("cache", "info"),
        ("cache", "clear"),
    ):
        done = homeless(*arguments)
        assert done.returncode == 0, (arguments, done.stderr)
    assert set(tmp_path.rglob("*")) == before
    for arguments in (
        ("embed", "images/a.png", "-m", seeded_q4, "-o", "a.safetensors"),
        ("caption", "images", "-m", seeded_q4, "-o", "captions.jsonl", "-n", 3),
    ):
        done = homeless(*arguments)
        assert done.returncode == 0, (arguments, done.stderr)
    assert len(set(tmp_path.rglob("*")) - before) == 2


def test_commands_that_need_one_say_what_to_do(homeless):
    says = "there is no data directory, because this user has no home directory. Set EDGE_LLAVA_HOME to a directory"
    for arguments in (("convert", "demo"), ("convert",)):
        done = homeless(*arguments)
        assert (done.returncode, done.stdout) == (6, "")
        assert done.stderr == f"edge-llava: {says} of yours, or name the bundle's directory with -o.\n"
    done = homeless("tune", "-m", "any")  # before it measures for minutes
    assert (done.returncode, done.stderr) == (6, f"edge-llava: {says} of yours.\n")
    done = homeless("chat", "-p", "What?")
    assert done.returncode == 6
    assert done.stderr.startswith("edge-llava: no bundle was named and there is no default.")
    assert json.loads(homeless("models", "list", "--json").stdout) == {"bundles": [], "directory": None}
    assert json.loads(homeless("cache", "info", "--json").stdout)["directory"] is None


@pytest.mark.convert
def test_what_asks_for_a_home(without_home, seeded_q4):
    assert (has_home(), has_cache()) == (False, False)
    for action in (check_home, lambda: set_default_bundle(str(seeded_q4))):
        with pytest.raises(BundleError, match="there is no data directory"):
            action()
    Bundle.open(seeded_q4).verify_digests(trust_earlier=True)
    assert not home_directory().exists()


@pytest.mark.parametrize("variable", ["EDGE_LLAVA_HOME", "EDGE_LLAVA_CACHE"])
def test_the_home_of_a_user_who_does_not_exist(monkeypatch, variable):
    monkeypatch.setenv(variable, "~no-such-user/data")
    with pytest.raises(EdgeLlavaError, match=f"^{variable} is '~no-such-user/data': there is no such home directory"):
        cache_directory()


def test_a_tilde_without_a_home(without_home, monkeypatch):
    monkeypatch.setenv("EDGE_LLAVA_CACHE", "~/cache")
    with pytest.raises(EdgeLlavaError, match=r"^EDGE_LLAVA_CACHE is '~/cache'"):
        cache_directory()

"""Wherever the last steps of a conversion are killed, the older bundle or the new one opens, and nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from edge_llava.converters.exchange import exchange
from edge_llava.home.directories import bundles_directory, list_bundles, remove_bundle
from edge_llava.home.leftovers import MARKER, mark, mend, restore
from edge_llava.selftest.tiny_bundle import write_tiny_bundle

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked to be killed")
SCRIPT = Path(__file__).with_name("kill_points.py")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the bundles `old` and `new`, which say so as created_by."""
    directory = tmp_path_factory.mktemp("bundles")
    for name in ("old", "new"):
        (directory / name).mkdir()
        write_tiny_bundle(directory / name)
        manifest = json.loads((directory / name / "manifest.json").read_text())
        (directory / name / "manifest.json").write_text(json.dumps(manifest | {"created_by": name}))
    return directory


def kill_everywhere(bundles: Path, target: str, steps: str) -> list[tuple[str, str, list[str]]]:
    command = [sys.executable, "-W", "error", str(SCRIPT), str(bundles), target, steps]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    return [(killed, mended, left) for killed, mended, left in json.loads(result.stdout)]


@pytest.mark.parametrize("steps", ["at-once", "two-steps"])
@pytest.mark.parametrize("target", ["fresh", "replace"])
def test_every_kill_leaves_a_bundle(bundles: Path, target: str, steps: str) -> None:
    outcomes = kill_everywhere(bundles, target, steps)
    before = "old b" if target == "replace" else "none"
    assert set(Counter(killed for killed, _, _ in outcomes)) == {before, "new b"}
    assert [killed == "new b" for killed, _, _ in outcomes] == sorted(killed == "new b" for killed, _, _ in outcomes)
    assert {mended for _, mended, _ in outcomes} == {"new b"}
    files = sorted(["b", *(f"b/{path.name}" for path in (bundles / "new").iterdir())])
    assert [left for _, _, left in outcomes] == [files] * len(outcomes)
    assert len(outcomes) > 25, "too few calls were seen"


def test_directories_exchange_their_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot")
    assert [(tmp_path / "a" / "b").exists(), (tmp_path / "b" / "a").exists()] == [True, True]
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "none")


def test_bundle_whose_removal_was_killed_goes_with_the_next(bundles: Path) -> None:
    home = bundles_directory()
    shutil.copytree(bundles / "old", home / "a")
    shutil.copytree(bundles / "old", home / "b.0123abcd.partial")
    shutil.copytree(bundles / "old", home / "c.0123abcd.partial")
    (home / "b.0123abcd.partial" / MARKER).write_text(str(2**22 + 1))  # no such process can be
    assert [path.name for path in list_bundles()] == ["a"]
    remove_bundle("a")
    assert [path.name for path in home.iterdir()] == ["c.0123abcd.partial"], "what bears no marker is not ours"


def test_what_another_process_works_on_is_left_alone(bundles: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    shutil.copytree(bundles / "old", tmp_path / "b.old.partial")
    (tmp_path / "b.old.partial" / MARKER).write_text(str(os.getppid()))
    restore(out)
    mend(out)
    assert [path.name for path in tmp_path.iterdir()] == ["b.old.partial"]
    mark(tmp_path / "b.old.partial")
    restore(out)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert not (out / MARKER).exists()


def test_root_is_no_bundle() -> None:
    mend(Path("/"))
    restore(Path("/"))

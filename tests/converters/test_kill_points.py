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

from edge_llava.selftest import BUNDLE

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked to be killed")
SCRIPT = Path(__file__).with_name("kill_points.py")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the bundles `old` and `new`, which have these names as created_by."""
    directory = tmp_path_factory.mktemp("bundles")
    for name in ("old", "new"):
        shutil.copytree(BUNDLE, directory / name)
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

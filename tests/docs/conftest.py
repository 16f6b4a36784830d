"""What the documents' commands and blocks find: images, bundles under the names that the documents use, a server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_llava import demo

BUNDLES = ("my-llava-q4_k_m", "my-bundle")
SCHEMA = {"type": "object", "properties": {"count": {"type": "integer", "maximum": 9}}, "required": ["count"]}
_PLACES = ("img.jpg", "a.jpg", "b.jpg", "photo.jpg", "photos/a.jpg", "photos/b.jpg", "holiday/c.jpg", "receipts/d.jpg")


@pytest.fixture
def workplace(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: images, a schema, and the demo as ./my-bundle.

    The home has the demo under the names that the documents use; the first of them is the default.
    """
    for number, place in enumerate(_PLACES):
        path = tmp_path / place
        path.parent.mkdir(exist_ok=True)
        shutil.copy(demo.PICTURES / f"shapes-{number % 4 + 1}.jpg", path)
    (tmp_path / "receipt.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "my-bundle").symlink_to(demo.BUNDLE)
    (home / "bundles").mkdir()
    for name in BUNDLES:
        (home / "bundles" / name).symlink_to(demo.BUNDLE)
    (home / "default").write_text(BUNDLES[0] + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `edge-llava serve` with the demo, in a process of its own."""
    pytest.importorskip("uvicorn")
    code = "from edge_llava.cli import main; main()"
    options = ["-m", "demo", "-t", "1", "--port", "0", "--announce", "json", "--exit-with-stdin", "-q"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"EDGE_LLAVA_HOME": str(tmp_path_factory.mktemp("server-home"))},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    yield json.loads(process.stdout.readline())["url"]
    process.stdin.close()
    assert process.wait(60) == 0
    process.stdout.close()

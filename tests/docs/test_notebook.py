"""The notebook's cells, one after another in a new process, as Jupyter runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "first-steps.ipynb"


def test_the_cells_run_and_are_right(home, tmp_path) -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    command = [sys.executable, "-W", "error", "-c", "\n".join(code)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    for answer in ("Blue.", "Three.", "Is there a star? Yes."):
        assert answer in ran.stdout
    assert not any(cell.get("outputs") for cell in cells), "clear the outputs: they are not checked"


@pytest.mark.slow
def test_jupyter_runs_it(home) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=120).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert "Blue.Three." in "".join(output.get("text", "") for output in outputs)

"""The table in docs/checkpoints.md lists what the tests prove: its rows are their marks.

UPDATE_DOCS=1 pytest tests/converters/test_family_table.py rewrites it.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs" / "checkpoints.md"
BEGIN, END = "<!-- proven families: written by tests/converters/test_family_table.py -->\n", "<!-- end -->\n"
ORDER = (
    "LLaVA-1.5", "LLaVA-1.6", "LLaVA-OneVision", "JoyCaption", "LLaVA-Llama-3", "LLaVA-Phi-3", "llava-interleave",
    "nanoLLaVA", "Bunny", "CLIP with Qwen", "v0", "Mistral", "Original", "Delta", "LoRA", "Projector",
)  # fmt: skip


def rows() -> Iterator[tuple[str, str, str, str]]:
    for path in sorted(HERE.glob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for mark in getattr(node, "decorator_list", []):
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.family":
                    name, read, proven = (ast.literal_eval(argument) for argument in mark.args)
                    yield name, read, proven, f"{path.stem}.{node.name}"  # type: ignore[attr-defined]


def table() -> str:
    found = sorted(rows(), key=lambda row: next(i for i, start in enumerate(ORDER) if row[0].startswith(start)))
    lines = ["| family | what is read | what is proven | by |", "|---|---|---|---|"]
    escaped = ([cell.replace("<", "\\<") for cell in row] for row in found)
    return "".join(f"{line}\n" for line in [*lines, *(f"| {' | '.join(row)} |" for row in escaped)])


def test_docs_say_what_tests_prove() -> None:
    text = DOCS.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = f"{before}{BEGIN}\n{table()}\n{END}{after}"
    if os.environ.get("UPDATE_DOCS"):
        DOCS.write_text(wanted, encoding="utf-8")
    assert text == wanted

"""What judges are told: our own wording, which is a part of each benchmark, or the user's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from edge_llava.errors import DataError
from edge_llava.evaluation.benchmarks.judged import PREFIX, Judged
from edge_llava.evaluation.benchmarks.mm_vet import WORDING
from edge_llava.home.json_files import read_json, read_text

OWN = "our wording"


def read_wording(benchmark: Judged, path: Path | None) -> Mapping[str, str] | None:
    """Reads the user's wording; None: ours.

    Args:
        benchmark: What is judged.
        path: LLaVA's rule.json, {"conv": {"role": "Assistant", "prompt": ".."}, ..}, for LLaVA-Bench; the instructions
            and examples as text, for MM-Vet.

    Raises:
        DataError: If it cannot be read, or lacks a category.
    """
    if path is None:
        return None
    if benchmark.name != "llava-bench":
        return {WORDING: read_text(path)}
    data, found = read_json(path), {}
    for name, entry in data.items() if isinstance(data, dict) else ():
        if isinstance(entry, dict) and isinstance(entry.get("prompt"), str):
            found[name] = entry["prompt"]
    categories = {item.groups["category"] for item in benchmark.items}
    missing = [name for name in sorted(categories) if name not in found and f"{PREFIX}{name}" not in found]
    if missing:
        raise DataError(f"{path} has no rules with a prompt for {', '.join(missing)}.")
    return found


def name_wording(path: Path | None, wording: Mapping[str, str] | None) -> str:
    """What is told and kept of a wording: "rule.json (3f9a01c2)"."""
    if path is None or wording is None:
        return OWN
    digest = hashlib.sha256(json.dumps(dict(wording), sort_keys=True).encode()).hexdigest()
    return f"{path.name} ({digest[:8]})"

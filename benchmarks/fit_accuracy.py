"""Compares what `edge-llava fit` predicts with the peak of a process that answers about an image. Linux only.

python benchmarks/fit_accuracy.py IMAGE BUNDLE [BUNDLE ...]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from processes import run_cold

_SETTINGS = ("", "-c 1024", "--repack", "--low-memory", "-c 1024 --low-memory")
_EDGE_LLAVA = (sys.executable, "-m", "edge_llava.cli")
_SAME = ("--no-profile", "--gpu-layers", "0")


def predict(bundle: Path, words: list[str]) -> int:
    """Bytes of main memory, before the KV cache has grown."""
    command = [*_EDGE_LLAVA, "fit", str(bundle), "--json", *_SAME, *words]
    facts = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    return int(facts["first_main_bytes"])


def measure(bundle: Path, image: Path, words: list[str]) -> int:
    """The largest resident size, in bytes."""
    command = [*_EDGE_LLAVA, "chat", str(image), "-m", str(bundle), "-p", "What is this?", "-n", "4", "--no-cache"]
    return int(run_cold([*command, *_SAME, *words, "--force"], {}).peak_bytes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--settings", nargs="+", default=_SETTINGS, help="options of chat, each in quotes")
    given = parser.parse_args()
    print("| bundle | options | predicted, GB | measured, GB | ratio |\n|---|---|---|---|---|")
    for bundle in given.bundles:
        for setting in given.settings:
            predicted, measured = predict(bundle, setting.split()), measure(bundle, given.image, setting.split())
            figures = f"{predicted / 1e9:.3f} | {measured / 1e9:.3f} | {predicted / measured:.2f}"
            print(f"| {bundle.name} | {setting} | {figures} |", flush=True)

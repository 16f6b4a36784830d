"""Long runs of real processes: memory stays flat, and what was killed ten times ends with the same scores."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

_ASKS = """
import re, sys
from pathlib import Path
from edge_llava.evaluation import AskOptions, answer, read_benchmark
from edge_llava.runtime.options import DecoderOptions, EngineOptions

def note(event):
    if event.stage.startswith("asking") and event.done % 50 == 0:
        print(re.search(r"VmRSS:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

data, bundle, out = sys.argv[1:]
answer(
    read_benchmark("pope", [data]), bundle, Path(out), options=AskOptions(max_tokens=4),
    engine=EngineOptions(DecoderOptions(n_threads=1), n_vision_threads=1), progress=note,
)
"""


def write_pope(directory: Path, n: int) -> Path:
    """So many questions, 18 about each image, as POPE has them."""
    pixels = np.random.default_rng(0)
    for number in range(-(-n // 18)):
        Image.fromarray(pixels.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(directory / f"{number}.png")
    lines = [
        {"question_id": k + 1, "image": f"{k // 18}.png", "text": f"Is it {k}?", "label": "yes" if k % 2 else "no"}
        for k in range(n)
    ]
    path = directory / "coco_pope_popular.json"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_flat_over_ten_thousand_questions(seeded_q4, home, tmp_path):
    data = write_pope(tmp_path, 10_000)
    command = [sys.executable, "-c", _ASKS, str(data), str(seeded_q4), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    sizes = [int(line) for line in done.stdout.split()]
    assert len(sizes) == 200
    early, late = statistics.median(sizes[20:40]), statistics.median(sizes[-20:])
    assert late < 1.03 * early


def test_a_run_that_is_killed_ten_times_ends_with_the_same_scores(seeded_q4, home, tmp_path):
    data, chance = write_pope(tmp_path, 1500), random.Random(3)

    def command(out: str) -> list[str]:
        where = ["-m", str(seeded_q4), "-o", str(tmp_path / out), "--max-tokens", "4", "-t", "1"]
        return [sys.executable, "-m", "edge_llava.cli", "eval", "pope", str(data), *where]

    subprocess.run(command("whole"), check=True, capture_output=True)
    answers, counts = tmp_path / "torn" / "answers.jsonl", []
    for _ in range(10):
        n_before = answers.stat().st_size if answers.exists() else 0
        with subprocess.Popen(command("torn"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and (not answers.exists() or answers.stat().st_size == n_before):
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.3))
            process.kill()
        counts.append(len(answers.read_bytes().splitlines()))
    assert counts == sorted(counts)
    assert counts[-1] < 1500
    subprocess.run(command("torn"), check=True, capture_output=True)
    for name in ("scores.json", "wrong.jsonl"):
        assert (tmp_path / "torn" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

"""Ratios against peers on the same weights, in one run: help time, vision, decode.

    python benchmarks/compare.py BUNDLE IMAGE --llama-bench PATH/TO/llama-bench

Vision is compared with a bare onnxruntime session on the same file, decode with llama-bench on the same GGUF, threads
and context depth. The two sides take turns; medians are printed with their spread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime

import edge_llava
from edge_llava.bundle import Bundle
from edge_llava.runtime.picture import open_picture
from edge_llava.runtime.preprocess import pixel_values
from edge_llava.runtime.threads import count_cores
from edge_llava.runtime.vision import VisionEncoder


def _clock(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _report(name: str, ours: list[float], theirs: list[float], unit: str) -> None:
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    spans = [f"{statistics.median(x):.4g} ({min(x):.4g} to {max(x):.4g}) {unit}" for x in (ours, theirs)]
    print(f"{name}: ours {spans[0]}, peer {spans[1]}, ratio {ratio:.3f}")


def compare_help(n_runs: int) -> None:
    """Seconds of `edge-llava --help` in a fresh process."""
    command = [str(Path(sys.executable).with_name("edge-llava")), "--help"]
    seconds = [_clock(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)) for _ in range(n_runs)]
    print(f"--help: {statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f}) s")


def compare_vision(bundle: Bundle, image: Path, n_runs: int) -> None:
    """Seconds per picture: our encoder, and a bare session with the same threads."""
    pixels = pixel_values(open_picture(image), bundle.manifest.vision)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = count_cores()
    bare = onnxruntime.InferenceSession(str(bundle.file("vision")), options, providers=["CPUExecutionProvider"])
    ours, theirs = [], []
    encoder = VisionEncoder(bundle.file("vision"), bundle.manifest.vision, count_cores(), "cpu")
    for run in range(n_runs + 1):
        a, b = _clock(lambda: encoder(pixels)), _clock(lambda: bare.run(None, {"pixel_values": pixels}))
        if run:  # the first of each warms up
            ours.append(a)
            theirs.append(b)
    _report("vision, s per picture", ours, theirs, "s")


def compare_decode(bundle: Bundle, image: Path, llama_bench: Path, n_tokens: int, n_runs: int) -> None:
    """Tokens per second after a picture, and llama-bench's at the same depth of context."""
    ours, theirs = [], []
    options = edge_llava.SamplingOptions(temperature=0, max_new_tokens=n_tokens)
    for run in range(n_runs + 1):
        with edge_llava.load(bundle.path) as model:
            chat = model.session(options)
            list(chat.ask("Describe the picture in detail.", image=image))
            timings = chat.timings
        assert timings is not None
        depth = timings.prefill_tokens
        rate = (timings.decode_tokens - 1) / timings.decode_s
        command = [
            llama_bench, "-m", bundle.file("language"), "-p", "0", "-n", str(n_tokens - 1), "-d", str(depth),
            "-t", str(count_cores()), "-r", "1", "-o", "json",
        ]  # fmt: skip
        result = json.loads(subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout)
        if run:
            ours.append(rate)
            theirs.append(result[0]["avg_ts"])
    _report(f"decode, tokens/s at depth {depth}", ours, theirs, "tokens/s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--llama-bench", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    opened = Bundle.open(arguments.bundle)
    compare_help(arguments.runs)
    compare_vision(opened, arguments.image, arguments.runs)
    if arguments.llama_bench:
        compare_decode(opened, arguments.image, arguments.llama_bench, arguments.tokens, arguments.runs)

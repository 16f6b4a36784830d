"""Measures how close the engines come to the limits of the device: bytes read and int8 multiply-adds per second.

    python benchmarks/limits.py BUNDLE IMAGE --llama-bench build/bin/llama-bench --rounds 5

Decode reads every weight once per token, so its limit is how fast the same threads read memory. The tower and prefill
multiply, so theirs is the rate of multiply-adds of one large int8 MatMul in ONNX Runtime with the same threads. Limits
and engines take turns, and shares are medians over the rounds. Needs the [convert] extra (onnx, gguf).
"""

from __future__ import annotations

import argparse
import ctypes
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from gguf import GGUFReader
from llama_bench import run_llama_bench
from onnx import TensorProto, helper, numpy_helper
from processes import PeerProcess

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.language_spec import LanguageSpec
from edge_llava.bundle.vision_spec import VisionSpec
from edge_llava.home.image_files.opening import open_image
from edge_llava.measuring.benchmark import mark_image
from edge_llava.measuring.spread import summarize

_READ_BYTES, _N_READS = 1 << 29, 8  # each thread's, far beyond any cache
_ROWS, _WIDTH = 1024, 4096  # of the large MatMul: the shape at which it is quickest
_N_PRODUCTS = 10
_N_TOKENS = 64
_KV_BYTES = {"auto": 2.0, "f16": 2.0, "f32": 4.0, "q8_0": 34 / 32}


@dataclass(frozen=True)
class LanguageWork:
    """The work of the language model.

    Attributes:
        weight_bytes: Bytes of weights that are read for every decoded token.
        prefill_macs: Multiply-adds with weights for every prefilled position except the last.
        kv_bytes: Bytes of KV cache that are read for every decoded token and every position before it.
    """

    weight_bytes: int
    prefill_macs: int
    kv_bytes: float


def language_work(path: Path, spec: LanguageSpec, kv_type: str) -> LanguageWork:
    """Counts the work in a LLaMA GGUF. Only one row of the token embedding is read."""
    tensors = [tensor for tensor in GGUFReader(path).tensors if tensor.name != "token_embd.weight"]
    kv_width = spec.n_embd // spec.n_head * spec.n_head_kv
    return LanguageWork(
        sum(int(tensor.n_bytes) for tensor in tensors),
        sum(int(tensor.n_elements) for tensor in tensors if tensor.name.startswith("blk.") and len(tensor.shape) > 1),
        2 * spec.n_layer * kv_width * _KV_BYTES[kv_type],
    )


def tower_macs(path: Path, spec: VisionSpec) -> int:
    """Counts the multiply-adds for one square: those with weights, and those of attention, which stay in float."""
    graph = onnx.load(path, load_external_data=False).graph
    shapes = {weight.name: list(weight.dims) for weight in graph.initializer}
    n_patches = (spec.image_size // spec.patch_size) ** 2
    n_rows = n_patches + 1  # and the class token
    macs = 0
    for node in graph.node:
        weights = [shapes[name] for name in node.input if len(shapes.get(name, ())) > 1]
        sizes = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "Conv":
            macs += n_patches * int(np.prod(weights[0]))
        elif node.op_type == "MatMulNBits":
            macs += n_rows * sizes["K"] * sizes["N"]
        elif "MatMul" in node.op_type:
            macs += n_rows * int(np.prod(weights[0])) if weights else n_rows**2 * spec.hidden_size
    return macs


def reader(n_threads: int) -> Callable[[], float]:
    """Makes a function that measures the bytes per second that all threads read together, by memchr."""
    find = ctypes.CDLL(None).memchr
    find.argtypes, find.restype = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t), ctypes.c_void_p
    memory = np.ones((n_threads, _READ_BYTES), np.uint8)
    pool = ThreadPoolExecutor(n_threads)

    def read() -> float:
        started = time.perf_counter()
        for _ in range(_N_READS):
            found = list(pool.map(lambda part: find(part.ctypes.data, 0, _READ_BYTES), memory))
            assert not any(found)
        return _N_READS * memory.nbytes / (time.perf_counter() - started)

    return read


def multiplier(n_threads: int) -> Callable[[], float]:
    """Makes a function that measures the multiply-adds per second of a dynamic int8 MatMul, larger than the tower's."""
    weights = np.random.default_rng(0).integers(-63, 64, (_WIDTH, _WIDTH), dtype=np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["integers", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["integers", "weights", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "scale"], ["y"]),
    ]
    shape = [_ROWS, _WIDTH]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)

    def multiply() -> float:
        seconds = []
        for _ in range(_N_PRODUCTS):
            started = time.perf_counter()
            session.run(None, {"x": x})
            seconds.append(time.perf_counter() - started)
        return _ROWS * _WIDTH * _WIDTH / min(seconds)

    return multiply


class Rounds:
    """Measures the rates reached and their limits, in turns.

    Attributes:
        shares: (reached, limit) of every round, by name of the rate.
    """

    def __init__(self, bundle: Bundle, ours: PeerProcess, llama_bench: Path | None) -> None:
        settings = ours.facts
        self.language = language_work(bundle.file("language"), bundle.manifest.language, settings["kv_type"])
        self.tower_macs = tower_macs(bundle.file("vision"), bundle.manifest.vision)
        self.shares: dict[str, list[tuple[float, float]]] = {}
        self._file, self._ours, self._llama_bench, self._settings = bundle.file("language"), ours, llama_bench, settings
        self._read, self._multiply = reader(settings["n_threads"]), multiplier(settings["n_vision_threads"])

    def take(self, image: Path) -> None:
        """Measures one round with a new image."""
        bandwidth, rate = self._read(), self._multiply()
        answer = self._ours.ask(image, "Describe the picture.", _N_TOKENS)
        figures, macs = answer.figures, self.language.prefill_macs
        token_bytes = self.token_bytes(figures["prompt_tokens"])
        decode_tps = (_N_TOKENS - 1) / (answer.total_s - answer.first_s)
        self._add("vision tower, GMAC/s", self.tower_macs / figures["vision_s"], rate)
        self._add("prefill, GMAC/s", macs * figures["prefill_tokens"] / figures["prefill_s"], rate)
        self._add("decode, GB/s read", token_bytes * decode_tps, bandwidth)
        if self._llama_bench is not None:
            depth = int(figures["prompt_tokens"])
            tps = run_llama_bench(self._llama_bench, self._file, self._settings, n_prompt=depth)
            self._add("llama-bench: prefill, GMAC/s", macs * tps, rate)
            tps = run_llama_bench(self._llama_bench, self._file, self._settings, n_tokens=_N_TOKENS - 1, depth=depth)
            self._add("llama-bench: decode, GB/s read", token_bytes * tps, bandwidth)

    def token_bytes(self, depth: float) -> float:
        """Bytes that are read for one token after `depth` positions."""
        return self.language.weight_bytes + self.language.kv_bytes * depth

    def _add(self, what: str, reached: float, limit: float) -> None:
        self.shares.setdefault(what, []).append((reached / 1e9, limit / 1e9))


def measure(given: argparse.Namespace) -> None:
    """Measures, and prints a Markdown table."""
    bundle, source = Bundle.open(given.bundle.resolve()), open_image(given.image)
    command = [sys.executable, "-m", "peers.edge_llava_peer", str(bundle.path), *shlex.split(given.options)]
    with tempfile.TemporaryDirectory() as directory, PeerProcess(command, Path(directory) / "log") as ours:
        rounds = Rounds(bundle, ours, given.llama_bench)
        for number in range(given.rounds + 1):
            path = Path(directory) / f"{number}.jpg"
            mark_image(source, number).save(path, quality=95)
            rounds.take(path)
            if number == 0:  # the warm-up round
                rounds.shares.clear()
            print(f"round {number} of {given.rounds}", file=sys.stderr)
    print("| what | reached | the device's limit | share |\n|---|---|---|---|")
    for what, pairs in rounds.shares.items():
        reached, limit = zip(*pairs, strict=True)
        print(f"| {what} | {_span(reached)} | {_span(limit)} | {_span([a / b for a, b in pairs])} |")
    language, threads = rounds.language, ours.facts["n_threads"]
    print(
        f"\nThe tower: {rounds.tower_macs / 1e9:.4g} GMAC per image. Prefill: {language.prefill_macs / 1e9:.4g} GMAC "
        f"per position. Decode: {language.weight_bytes / 1e9:.4g} GB of weights per token, and "
        f"{language.kv_bytes / 1e3:.3g} kB of KV cache for each position before it. {given.rounds} rounds, "
        f"{threads} threads."
    )


def _span(values: Sequence[float]) -> str:
    spread = summarize(values)
    return f"{spread.median:.3g} ({spread.min:.3g} to {spread.max:.3g})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--options", default="", help="of `edge-llava chat`")
    parser.add_argument("--llama-bench", type=Path, metavar="PROGRAM")
    parser.add_argument("--rounds", type=int, default=5)
    measure(parser.parse_args())

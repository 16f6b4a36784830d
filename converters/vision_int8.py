"""Quantizes the tower to 8 bits as far as a measured budget allows: smooth, quantize, measure, restore what harms."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edge_llava.bundle.row_cosines import row_cosines
from edge_llava.bundle.vision_spec import VisionQuantization
from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.smoothing import Smoother
from edge_llava.converters.vision_matmuls import SWITCHES, ExportedTower
from edge_llava.converters.vision_onnx import WEIGHTS_NAME, write_vision
from edge_llava.converters.weights_file import MIN_EXTERNAL_BYTES
from edge_llava.device.memory import return_freed_memory
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent

BUDGET_MEAN, BUDGET_MIN = 0.999, 0.99  # cosine of a patch's features to float32
_Squares = NDArray[np.float32]


@dataclass(frozen=True)
class Fidelity:
    """Cosine similarity to float32 over all patches of all images: mean, worst, and the worst patch's image."""

    cosine_mean: float
    cosine_min: float
    worst_image: int

    @property
    def spent(self) -> float:
        """Share of the budget that is spent."""
        return max((1 - self.cosine_mean) / (1 - BUDGET_MEAN), (1 - self.cosine_min) / (1 - BUDGET_MIN))

    @property
    def holds(self) -> bool:
        """Whether it is within the budget."""
        return self.cosine_mean >= BUDGET_MEAN and self.cosine_min >= BUDGET_MIN


@dataclass(frozen=True, eq=False)
class Calibration:
    """Images to measure with.

    Attributes:
        pixels: Squares (T, 3, S, S) of each image.
        features: What the tower computes from them in float32, (T, P, D) each.
        n_threads: CPU threads.
    """

    pixels: tuple[_Squares, ...]
    features: tuple[NDArray[np.float32], ...]
    n_threads: int

    def open(self, path: Path) -> Any:
        """Opens a graph on the CPU."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.n_threads
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def measure(self, path: Path) -> Fidelity:
        """Measures how close a graph is to float32."""
        session = self.open(path)
        cosines = [
            row_cosines(_encode(session, {"pixel_values": pixels}), features)
            for pixels, features in zip(self.pixels, self.features, strict=True)
        ]
        return _summarize(cosines)


def write_int8(
    checkpoint: Checkpoint,
    path: Path,
    calibration: Calibration,
    smoother: Smoother,
    progress: ProgressCallback = silent,
) -> VisionQuantization:
    """Exports the tower with as many int8 MatMuls as the budget allows.

    Args:
        checkpoint: Its tower's weights are loaded one at a time.
        path: Target, vision.onnx; the weights go to vision.onnx.data in the same directory.
        calibration: Images to measure with.
        smoother: Has watched the tower on images.
        progress: Receives the number of graphs tried.

    Returns:
        What was chosen, with its measurements. They are always within the budget: at worst everything stays in float.
    """
    with tempfile.TemporaryDirectory(prefix="int8-", dir=path.parent) as directory:
        exact = Path(directory) / "vision.onnx"
        write_vision(checkpoint, exact, "fp32", smoother)
        return_freed_memory()
        exported = ExportedTower(exact)
        kinds, fidelity = choose_kinds(exported, calibration, progress)
        save_optimized(exported.write("chosen.onnx", kinds), path)
    return VisionQuantization(
        matmuls=kinds,
        cosine_mean=fidelity.cosine_mean,
        cosine_min=fidelity.cosine_min,
        budget_mean=BUDGET_MEAN,
        budget_min=BUDGET_MIN,
        n_pictures=len(calibration.pixels),
    )


def save_optimized(source: Path, path: Path) -> None:
    """Writes a graph as ONNX Runtime's optimizer transforms it, so that it need not be optimized when opened.

    Only optimizations that are valid on every CPU are applied; layouts for one processor are left to the device. The
    nodes would be wrong for CUDA, so towers in float stay as they were exported.

    Args:
        source: The graph.
        path: Target, vision.onnx; the weights go to vision.onnx.data in the same directory.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    entries = {
        "session.optimized_model_external_initializers_file_name": WEIGHTS_NAME,
        "session.optimized_model_external_initializers_min_size_in_bytes": str(MIN_EXTERNAL_BYTES),
        "session.disable_prepacking": "1",  # nothing is computed here
    }
    for name, value in entries.items():
        options.add_session_config_entry(name, value)
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def is_worthwhile(quantization: VisionQuantization) -> bool:
    """Whether at least half of the MatMuls are int8; fewer save little time."""
    return 2 * quantization.count("int8") >= len(quantization.matmuls)


def has_cuda() -> bool:
    """Whether the installed ONNX Runtime computes on CUDA, where int8 is not faster."""
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def choose_kinds(
    exported: ExportedTower, calibration: Calibration, progress: ProgressCallback = silent
) -> tuple[dict[str, str], Fidelity]:
    """Chooses the kind of every MatMul: int8, except for as few as the budget requires.

    The most harmful ones are restored first, to 8 bits blockwise and from there to float: one step, two, four, until
    the result is within the budget; a binary search then finds the fewest steps that suffice.
    """

    def attempt(changes: Sequence[tuple[str, str]]) -> tuple[dict[str, str], Fidelity]:
        kinds = dict.fromkeys((matmul.name for matmul in exported.matmuls), "int8") | dict(changes)
        return kinds, calibration.measure(exported.write("attempt.onnx", kinds))

    kinds, fidelity = attempt([])
    if fidelity.holds:
        return kinds, fidelity
    steps = _Steps(exported, calibration, fidelity.worst_image, progress)
    too_few, enough = 0, 1
    while not (chosen := attempt(steps.first(enough)))[1].holds and enough < steps.n_most:
        too_few, enough = enough, min(2 * enough, steps.n_most)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        candidate = attempt(steps.first(middle))
        if candidate[1].holds:
            chosen, enough = candidate, middle
        else:
            too_few = middle
    return chosen


class _Steps:
    """Which MatMul is restored next, and to which kind; measured only as far as needed.

    A MatMul's damage is the share of the budget that quantizing it alone spends on the worst image.
    """

    def __init__(
        self, exported: ExportedTower, calibration: Calibration, image: int, progress: ProgressCallback
    ) -> None:
        self._exported, self._calibration, self._image, self._progress = exported, calibration, image, progress
        self._taken: list[tuple[str, str]] = []
        self._damage: dict[str, float] = {}
        self._measures: dict[str, Callable[[int], float]] = {}
        self.n_most = 2 * len(exported.matmuls)

    def first(self, n_steps: int) -> list[tuple[str, str]]:
        """Returns the first steps: names of MatMuls with their new kinds; a later step overrides an earlier one."""
        if not self._taken:
            self._measure_all()
        while len(self._taken) < n_steps and self._damage:
            self._take()
        return self._taken[:n_steps]

    def _measure_all(self) -> None:
        for index, matmul in enumerate(self._exported.matmuls):
            self._damage[matmul.name] = self._measure("int8", index)
            n_all = len(self._exported.matmuls)
            self._progress(ProgressEvent("finding the MatMuls that int8 harms", index + 1, n_all, "items"))

    def _take(self) -> None:
        name = max(self._damage, key=self._damage.__getitem__)
        damage = self._damage.pop(name)
        if (name, "blockwise8") not in self._taken:
            index = [matmul.name for matmul in self._exported.matmuls].index(name)
            blockwise = self._measure("blockwise8", index)
            if blockwise < damage / 2:  # it also costs time, so it must be a real gain
                self._damage[name] = blockwise
                self._taken.append((name, "blockwise8"))
                return
        self._taken.append((name, "float"))

    def _measure(self, kind: str, index: int) -> float:
        if kind not in self._measures:
            self._measures[kind] = self._open(kind)
        return self._measures[kind](index)

    def _open(self, kind: str) -> Callable[[int], float]:
        session = self._calibration.open(self._exported.write_switched(f"{kind}.onnx", kind))
        pixels, features = (values[self._image] for values in (self._calibration.pixels, self._calibration.features))

        def measure(index: int) -> float:
            switches = np.zeros(len(self._exported.matmuls), np.float32)
            switches[index] = 1
            ours = _encode(session, {"pixel_values": pixels, SWITCHES: switches})
            return _summarize([row_cosines(ours, features)]).spent

        return measure


def _encode(session: Any, feeds: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Runs a session, on a thread of its own, for the sake of what llama.cpp may compute on the caller's.

    Both set up the AMX unit of the thread, and llama.cpp does not notice that another did.
    """
    with ThreadPoolExecutor(1) as thread:
        (features,) = thread.submit(session.run, ["patch_features"], feeds).result()
    return np.asarray(features)


def _summarize(cosines: Sequence[NDArray[np.float64]]) -> Fidelity:
    worst = [float(values.min()) for values in cosines]
    return Fidelity(float(np.concatenate(cosines).mean()), min(worst), worst.index(min(worst)))

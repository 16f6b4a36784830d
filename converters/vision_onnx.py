"""Exports the trimmed tower to vision.onnx by optimum; the weights go to a second file, so that they can be mapped."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from optimum.exporters.onnx import export
from optimum.exporters.onnx.config import VisionOnnxConfig
from optimum.utils import NormalizedVisionConfig

from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.smoothing import Smoother
from edge_llava.converters.tower import TrimmedTower, build_skeleton, load_weight
from edge_llava.converters.weights_file import MIN_EXTERNAL_BYTES, WeightsFile
from edge_llava.device.memory import trim_heap
from edge_llava.errors import ConversionError

_OPSET = 17
WEIGHTS_NAME = "vision.onnx.data"
_PIXELS = "pixel_values"


class _TowerOnnxConfig(VisionOnnxConfig):
    """Describes the tower's only input and its outputs to optimum."""

    NORMALIZED_CONFIG_CLASS = NormalizedVisionConfig
    DEFAULT_ONNX_OPSET = _OPSET
    names: tuple[str, ...] = ()

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        return {_PIXELS: {0: "batch_size"}}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        return {name: {0: "batch_size"} for name in self.names}


def write_vision(
    checkpoint: Checkpoint, path: Path, precision: Literal["fp32", "fp16"], smoother: Smoother | None = None
) -> None:
    """Exports the tower: the graph from a tower without weights, then one weight after another.

    Args:
        checkpoint: Its tower's weights are loaded one at a time.
        path: Target, vision.onnx; the weights go to vision.onnx.data in the same directory. Older files are replaced.
        precision: "fp16" stores the weights in half precision and computes in float32: half the disk, and exact for
            checkpoints that were saved in half precision.
        smoother: Rescales the weights.

    Raises:
        ConversionError: If a weight does not fit in half precision.
    """
    skeleton = build_skeleton(checkpoint)
    layers = {f"{name}.weight" for name, part in skeleton.named_modules() if isinstance(part, torch.nn.Linear)}
    model = _export_graph(skeleton, path.parent)
    graph = model.graph
    with WeightsFile(path.with_name(WEIGHTS_NAME)) as file:
        for name in _take_weights(graph):
            weight = load_weight(checkpoint, name)
            weight = weight if smoother is None else smoother.apply(name, weight)
            values = weight.numpy().T if name in layers else weight.numpy()
            if precision == "fp16" and values.nbytes >= MIN_EXTERNAL_BYTES:
                graph.initializer.append(file.add(f"{name}.half", _halve(name, values)))
                # ONNX Runtime folds it when it opens the file
                cast = helper.make_node("Cast", [f"{name}.half"], [name], f"{name}.cast", to=TensorProto.FLOAT)
                graph.node.insert(0, cast)
            else:
                graph.initializer.append(file.add(name, values))
            trim_heap()
    onnx.save_model(model, path)


def _export_graph(skeleton: TrimmedTower, directory: Path) -> onnx.ModelProto:
    """The tower's graph by optimum. The weights are inputs of it, as the tower's state dict names them."""
    config = _TowerOnnxConfig(skeleton.config, task="feature-extraction")
    config.names = tuple(_output_shapes(skeleton))
    with tempfile.TemporaryDirectory(prefix="onnx-", dir=directory) as place:
        exported = Path(place) / "exported.onnx"
        with _quiet_exporters(), _without_weights():
            # nothing may be computed from a skeleton's weights, neither constants nor shapes
            export(skeleton, config, exported, opset=_OPSET, do_constant_folding=False, disable_dynamic_axes_fix=True)
        model = onnx.load(exported)
    _fix_shapes(model, skeleton)
    return model


def _take_weights(graph: onnx.GraphProto) -> list[str]:
    """Removes the weights from a graph's inputs; returns their names."""
    names = [value.name for value in graph.input if value.name != _PIXELS]
    pixels = [value for value in graph.input if value.name == _PIXELS]
    del graph.input[:]
    graph.input.extend(pixels)
    return names


def _output_shapes(tower: TrimmedTower) -> dict[str, tuple[int, ...]]:
    """Returns the tower's outputs in order, without their batch axis."""
    config, n_rows = tower.config, tower.n_features
    shapes: dict[str, tuple[int, ...]] = {"patch_features": (n_rows, config.hidden_size)}
    if not tower.has_ranking:
        return shapes
    return shapes | {
        "cls_attention": (n_rows,),
        "patch_keys": (n_rows, config.hidden_size // config.num_attention_heads),
    }


def _fix_shapes(model: onnx.ModelProto, tower: TrimmedTower) -> None:
    """Writes the full output shapes into the graph, since shape inference left them open."""
    shapes = _output_shapes(tower)
    for output in model.graph.output:
        dims = output.type.tensor_type.shape.dim[1:]
        for dim, size in zip(dims, shapes[output.name], strict=True):
            dim.Clear()
            dim.dim_value = size


def _halve(name: str, values: NDArray[np.float32]) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise ConversionError(f"the tower's {name} does not fit in half precision. Use --vision fp32.")
    return half


@contextmanager
def _without_weights() -> Iterator[None]:
    """Lets torch export graphs without their weights, for which optimum has no option."""
    original = torch.onnx.export
    torch.onnx.export = partial(original, export_params=False)
    try:
        yield
    finally:
        torch.onnx.export = original


@contextmanager
def _quiet_exporters() -> Iterator[None]:
    """Suppresses the warnings of torch and optimum about their own internals, which do not concern the user."""
    loggers = [logging.getLogger(name) for name in ("optimum", "torch.onnx", "transformers")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

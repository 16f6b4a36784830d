"""Exports the trimmed tower to vision.onnx by optimum; the weights go to a second file, so that they can be mapped."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from optimum.exporters.onnx import export
from optimum.exporters.onnx.config import VisionOnnxConfig
from optimum.utils import NormalizedVisionConfig

from edge_llava.converters.tower import TrimmedTower
from edge_llava.errors import ConversionError

_OPSET = 17
WEIGHTS_NAME = "vision.onnx.data"
MIN_EXTERNAL_BYTES = 1024


class _TowerOnnxConfig(VisionOnnxConfig):
    """Describes the tower's only input and its outputs to optimum."""

    NORMALIZED_CONFIG_CLASS = NormalizedVisionConfig
    DEFAULT_ONNX_OPSET = _OPSET
    names: tuple[str, ...] = ()

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        return {"pixel_values": {0: "batch_size"}}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        return {name: {0: "batch_size"} for name in self.names}


def write_vision(tower: TrimmedTower, path: Path, precision: Literal["fp32", "fp16"]) -> None:
    """Exports the tower.

    Args:
        tower: The tower in float32.
        path: Target, vision.onnx; the weights go to vision.onnx.data in the same directory.
        precision: "fp16" stores the weights in half precision and computes in float32: half the disk, and exact for
            checkpoints that were saved in half precision.

    Raises:
        ConversionError: If a weight does not fit in half precision.
    """
    with tempfile.TemporaryDirectory(prefix="onnx-", dir=path.parent) as directory:
        exported = Path(directory) / "exported.onnx"
        config = _TowerOnnxConfig(tower.config, task="feature-extraction")
        config.names = tuple(_output_shapes(tower))
        with _quiet_exporters():
            export(tower, config, exported, opset=_OPSET)
        model = onnx.load(exported)
    _fix_shapes(model, tower)
    if precision == "fp16":
        _store_in_half(model)
    save_graph(model, path)


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Writes a complete graph to vision.onnx and its weights to vision.onnx.data; older files are replaced."""
    path.with_name(WEIGHTS_NAME).unlink(missing_ok=True)  # onnx would add to it
    onnx.save_model(
        model,
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=WEIGHTS_NAME,
        size_threshold=MIN_EXTERNAL_BYTES,
    )


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


def _store_in_half(model: onnx.ModelProto) -> None:
    """Replaces float32 weights by float16 ones followed by a Cast, which ONNX Runtime folds when it opens the file."""
    graph, casts = model.graph, []
    for weight in graph.initializer:
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) * 4 < MIN_EXTERNAL_BYTES:
            continue
        with np.errstate(over="ignore"):
            half = numpy_helper.to_array(weight).astype(np.float16)
        if not np.isfinite(half).all():
            raise ConversionError(f"the tower's {weight.name} does not fit in half precision. Use --vision fp32.")
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


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

"""What each type would cost each matrix of the language model, measured on real conversations.

Two shares tell how much a matrix suffers from an encoding: that of its own result which is lost, and that of its
block's result, which also knows what the block makes of it. Neither sees what later blocks do. Their geometric mean
predicts the loss of the whole model better than either.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from gguf import GGMLQuantizationType as GgmlType
from gguf import dequantize
from numpy.typing import NDArray

from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.dialogue_rows import DialogueRows
from edge_llava.converters.importance import READERS, Importance, ImportanceMeter
from edge_llava.converters.language_recipe import Losses
from edge_llava.converters.quant_types import fit_type
from edge_llava.converters.quantize import Encoder
from edge_llava.converters.reference_language import BlockRun, run_blocks
from edge_llava.converters.reference_model import ReferenceModel
from edge_llava.converters.tensor_names import gguf_name
from edge_llava.converters.type_mix import TYPES
from edge_llava.home.progress import ProgressCallback, silent

_ROWS_ENCODED = 128  # of a matrix, evenly spaced
_POSITIONS_MOVED = 1024  # that a block computes again for each of its matrices
_NOISE = 0.1  # of a matrix's own size


class LossMeter:
    """Measures the matrices of one block after another; `watch` is for `run_blocks`.

    Attributes:
        losses: Of all blocks that ran.
    """

    def __init__(self, mean_squares: Mapping[str, NDArray[np.float32]], encoder: Encoder) -> None:
        """
        Args:
            mean_squares: Of what the matrices read; that of a block is there once the block has run.
            encoder: Encodes samples.
        """
        self._mean_squares, self._encoder = mean_squares, encoder
        self._random = torch.Generator().manual_seed(1)
        self.losses: dict[str, dict[GgmlType, float]] = {}

    @contextmanager
    def watch(self, run: BlockRun) -> Iterator[None]:
        """Measures a block once it has run."""
        yield
        for layer in (layer for readers in READERS.values() for layer in readers):
            name = gguf_name(f"language.layers.{run.index}.{layer}.weight")
            weight = run.block.get_parameter(f"{layer}.weight").detach()
            columns = torch.from_numpy(self._mean_squares[name])
            result = float((weight.square() @ columns).sum())  # the power of what the matrix computes
            moved = self._move(run, layer, columns)
            errors = self._encode(name, weight)
            self.losses[name] = {
                type_: math.sqrt(error / max(result, 1e-30) * error * moved) for type_, error in errors.items()
            }

    def _move(self, run: BlockRun, layer: str, columns: torch.Tensor) -> float:
        """By which share of its power the block's result moves for each unit of error in one matrix."""
        module, weight = run.block.get_submodule(layer), run.block.get_parameter(f"{layer}.weight")
        noise = torch.randn(weight.shape, generator=self._random) * (_NOISE * float(weight.square().mean().sqrt()))
        module.weight = torch.nn.Parameter(weight + noise, requires_grad=False)
        moved, power, n_positions = 0.0, 0.0, 0
        for rows, output in zip(run.inputs, run.outputs, strict=True):
            moved += float((run.compute(rows) - output).square().sum())
            power += float(output.square().sum())
            n_positions += rows.shape[1]
            if n_positions >= _POSITIONS_MOVED:
                break
        module.weight = weight
        return moved / max(power, 1e-30) / max(float((noise.square() @ columns).sum()), 1e-30)

    def _encode(self, name: str, weight: torch.Tensor) -> dict[GgmlType, float]:
        """The power of the error that each type adds to what a matrix computes, from a sample of its rows."""
        chosen = np.unique(np.linspace(0, len(weight) - 1, min(len(weight), _ROWS_ENCODED)).astype(int))
        sample = np.ascontiguousarray(weight[torch.from_numpy(chosen)].numpy())
        columns = self._mean_squares[name]
        found = {}
        for type_ in dict.fromkeys(fit_type(type_, sample.shape[1]) for type_ in TYPES):
            encoded = self._encoder.encode(name, sample, type_, columns).reshape(len(sample), -1)
            difference = dequantize(encoded, type_).astype(np.float32) - sample
            found[type_] = float((difference**2 @ columns).sum(dtype=np.float64)) * len(weight) / len(sample)
        return found


@torch.inference_mode()
def measure_losses(
    checkpoint: Checkpoint, sequences: Sequence[DialogueRows], encoder: Encoder, progress: ProgressCallback = silent
) -> tuple[Importance, Losses]:
    """Measures what matters as `measure_importance` does, and what each type would cost each matrix of the blocks."""
    model, meter = ReferenceModel(checkpoint), ImportanceMeter(sequences)
    losses = LossMeter(meter.mean_squares, encoder)

    @contextmanager
    def watch(run: BlockRun) -> Iterator[None]:
        with losses.watch(run), meter.watch(run):  # left in the other order
            yield

    rows = [sequence.rows for sequence in sequences]
    run_blocks(model, model.load, rows, "measuring what each matrix loses", progress, watch)
    return meter.result(), losses.losses

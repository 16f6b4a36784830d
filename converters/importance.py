"""How much each input of the language model's matrices matters: mean squares over real conversations, images included.

An error in a column of a matrix reaches the result multiplied by that column's input. Encoders that know how large the
inputs are spend their precision where it counts. An image has several times as many rows as its question and answer,
yet it is from the rows of text that an answer is computed: these count for nine tenths.

Source: imatrix.cpp of llama.cpp, whose figures these are for the same tokens; llama.cpp's own tool reads text alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.dialogue_rows import DialogueRows
from edge_llava.converters.reference_language import BlockRun, run_blocks
from edge_llava.converters.reference_model import ReferenceModel
from edge_llava.converters.tensor_names import gguf_name
from edge_llava.errors import ConversionError
from edge_llava.home.progress import ProgressCallback, silent

# Measured on the demo with shares from 0 to 1 at 2 to 4 bits a weight: the least is lost between 0.75 and 1.
_TEXT_SHARE = 0.9
# A layer whose input is watched, and all layers that read the same.
READERS: Mapping[str, tuple[str, ...]] = {
    "self_attn.q_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.o_proj": ("self_attn.o_proj",),
    "mlp.gate_proj": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down_proj": ("mlp.down_proj",),
}


@dataclass(frozen=True, eq=False)
class Importance:
    """Mean squares of what the matrices of the blocks read.

    Attributes:
        mean_squares: By GGUF name, such as "blk.3.ffn_down.weight": float32 (K,), one for each column.
        n_dialogues: Sequences that were read.
        n_positions: Rows of tokens and images in them.
    """

    mean_squares: Mapping[str, NDArray[np.float32]]
    n_dialogues: int
    n_positions: int


class ImportanceMeter:
    """Adds up what the matrices of one block after another read; `watch` is for `run_blocks`."""

    def __init__(self, sequences: Sequence[DialogueRows]) -> None:
        """The sequences that are run, in their order."""
        self._weights = _row_weights(sequences)
        self._n_positions = sum(len(sequence.rows) for sequence in sequences)
        self.mean_squares: dict[str, NDArray[np.float32]] = {}

    @contextmanager
    def watch(self, run: BlockRun) -> Iterator[None]:
        """Watches a block.

        Raises:
            ConversionError: If an input is infinite or undefined.
        """
        sums: dict[str, torch.Tensor] = {}
        with ExitStack() as stack:
            for layer in READERS:
                stack.callback(self._add_squares(run.block, layer, sums).remove)
            yield
        for layer, readers in READERS.items():
            mean = sums[layer].float().numpy()
            if not np.isfinite(mean).all():
                raise ConversionError(
                    f"block {run.index} computes infinite or undefined numbers: the checkpoint is damaged."
                )
            names = (gguf_name(f"language.layers.{run.index}.{reader}.weight") for reader in readers)
            self.mean_squares.update(dict.fromkeys(names, mean))

    def result(self) -> Importance:
        """What was measured of all blocks that ran."""
        return Importance(self.mean_squares, len(self._weights), self._n_positions)

    def _add_squares(
        self, block: nn.Module, layer: str, sums: dict[str, torch.Tensor]
    ) -> torch.utils.hooks.RemovableHandle:
        """Adds up the weighted squares (K,) of all rows that a layer reads, in float64, by the layer's name."""
        weights = iter(self._weights)

        def add(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            squares = next(weights) @ inputs[0][0].double().square()
            sums[layer] = sums[layer] + squares if layer in sums else squares

        return block.get_submodule(layer).register_forward_pre_hook(add)


@torch.inference_mode()
def measure_importance(
    checkpoint: Checkpoint,
    sequences: Sequence[DialogueRows],
    progress: ProgressCallback = silent,
) -> Importance:
    """Runs sequences through the blocks in float32, one block at a time.

    Args:
        checkpoint: Read block by block; a 7B model needs about 2 GB.
        sequences: What is read.
        progress: Receives the number of finished blocks.

    Raises:
        ConversionError: If an input is infinite or undefined.
    """
    model, meter = ReferenceModel(checkpoint), ImportanceMeter(sequences)
    rows = [sequence.rows for sequence in sequences]
    run_blocks(model, model.load, rows, "measuring what matters", progress, meter.watch)
    return meter.result()


def _row_weights(sequences: Sequence[DialogueRows]) -> list[torch.Tensor]:
    """How much each row (T,) of each sequence counts; 1 together."""
    n_image = sum(sequence.n_image for sequence in sequences)
    n_text = sum(len(sequence.rows) for sequence in sequences) - n_image
    of_text = 1.0 if n_image == 0 else _TEXT_SHARE
    weights = []
    for sequence in sequences:
        weight = torch.full((len(sequence.rows),), of_text / n_text, dtype=torch.float64)
        weight[sequence.image] = (1 - of_text) / max(1, n_image)
        weights.append(weight)
    return weights

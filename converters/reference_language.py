"""The language model as transformers computes it in float32, one block at a time, for sequences of any kind of rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.reference_config import build_rotary
from edge_llava.converters.reference_model import ReferenceModel
from edge_llava.device.memory import trim_heap
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent

_HEAD_ROWS = 8192  # rows of the head multiplied at a time

# load(our name of a tensor) -> its values in float32
Load = Callable[[str], torch.Tensor]


@dataclass(eq=False)
class BlockRun:
    """One block of the language model with its weights, and what it reads.

    Attributes:
        index: Of the block.
        block: transformers' module in float32.
        inputs: (1, T, E) of each sequence.
        outputs: What it gives, (1, T, E) each; [] before it has run.
        rotary: transformers' rotary embedding.
    """

    index: int
    block: nn.Module
    inputs: list[torch.Tensor]
    rotary: nn.Module
    outputs: list[torch.Tensor] = field(default_factory=list)

    def compute(self, rows: torch.Tensor) -> torch.Tensor:
        """Runs one sequence (1, T, E), each position seeing those before it."""
        n = rows.shape[1]
        positions = torch.arange(n)[None]
        mask = torch.full((n, n), float("-inf")).triu(1)[None, None]
        embedded = self.rotary(rows, positions)
        output = self.block(rows, attention_mask=mask, position_ids=positions, position_embeddings=embedded)
        result: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return result


# watch(a block that is about to run) -> entered while it runs, and left before its weights are freed
Watch = Callable[[BlockRun], AbstractContextManager[None]]


def _unwatched(run: BlockRun) -> AbstractContextManager[None]:
    return nullcontext()


@torch.inference_mode()
def reference_logits(
    checkpoint: Checkpoint,
    before: Sequence[int],
    image_rows: NDArray[np.float32],
    after: Sequence[int],
    n_last: int,
    progress: ProgressCallback = silent,
) -> NDArray[np.float32]:
    """Computes the logits of a sequence's last positions by the blocks of transformers' own model in float32.

    All weights of the language model are compared with those that the converters load.

    Args:
        checkpoint: Read block by block; a 7B model needs about 2 GB.
        before, after: Token ids on each side of the image, BOS included.
        image_rows: float32 (R, E).
        n_last: Number of positions.
        progress: Receives the number of finished blocks.

    Returns:
        float32 (n_last, V); V counts the deployed tokens.

    Raises:
        CheckpointError, ConversionError: If the converters read another model, as in `check_reading`.
    """
    model = ReferenceModel(checkpoint)
    table = model.load_compared("language.embed_tokens.weight")
    rows = torch.cat([table[list(before)], torch.from_numpy(image_rows), table[list(after)]])
    del table
    (hidden,) = run_blocks(model, model.load_compared, [rows], "checking against the checkpoint", progress)
    norm = _load_part(model, model.load_compared, "norm")
    return _head(model, len(checkpoint.vocabulary), norm(hidden[len(hidden) - n_last :]))


@torch.inference_mode()
def run_blocks(
    model: ReferenceModel,
    load: Load,
    sequences: Sequence[torch.Tensor],
    stage: str,
    progress: ProgressCallback = silent,
    watch: Watch = _unwatched,
) -> list[torch.Tensor]:
    """Runs sequences through all blocks: a block sees all of them before the next block's weights are loaded.

    Args:
        model: Without weights.
        load: Loads a weight, such as `model.load_compared`.
        sequences: Input rows float32 (T, E) each, of tokens and images.
        stage: Name for progress events.
        progress: Receives the number of finished blocks.
        watch: Entered around the sequences of each block.

    Returns:
        What the last block gives, (T, E) each, not normalized.
    """
    hidden = [rows[None] for rows in sequences]
    rotary = build_rotary(model.configs.language)
    n_layer = model.configs.language.num_hidden_layers
    for index in range(n_layer):
        run = BlockRun(index, _load_part(model, load, f"layers.{index}"), hidden, rotary)
        with watch(run):
            run.outputs = [run.compute(rows) for rows in hidden]
        hidden = run.outputs
        del run  # before the next one is loaded
        trim_heap()
        progress(ProgressEvent(stage, index + 1, n_layer, "items"))
    return [rows[0] for rows in hidden]


def _load_part(model: ReferenceModel, load: Load, path: str) -> nn.Module:
    """A block or norm of transformers' language model with its weights."""
    part = copy.deepcopy(model.language.get_submodule(path))
    part.load_state_dict({name: load(f"language.{path}.{name}") for name in part.state_dict()}, assign=True)
    return part.eval()


def _head(model: ReferenceModel, n_vocab: int, hidden: torch.Tensor) -> NDArray[np.float32]:
    head = model.load_compared(model.head_name)
    chunks = [
        torch.nn.functional.linear(hidden, head[start : min(start + _HEAD_ROWS, n_vocab)])
        for start in range(0, n_vocab, _HEAD_ROWS)
    ]
    logits: NDArray[np.float32] = torch.cat(chunks, -1).numpy()
    return logits

"""Measures a language model on conversations about images, as far as its quantization asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_llava.bundle.parity_record import N_SAMPLED_ROWS, make_reference_images
from edge_llava.bundle.template_spec import TemplateSpec
from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.dialogue import Dialogue, choose_evenly
from edge_llava.converters.dialogue_rows import DialogueRows, dialogue_rows
from edge_llava.converters.disk_space import count_tower_weights
from edge_llava.converters.importance import measure_importance
from edge_llava.converters.language_gguf import plan_language
from edge_llava.converters.language_recipe import LanguageRecipe
from edge_llava.converters.options import ConvertOptions
from edge_llava.converters.projector_gguf import plan_projector
from edge_llava.converters.quant_types import encoded_bytes
from edge_llava.converters.quantize import Encoder
from edge_llava.converters.sensitivity import measure_losses
from edge_llava.converters.type_mix import check_room, choose_mix
from edge_llava.device.threads import usable_threads
from edge_llava.home.progress import ProgressCallback

# Rows of tokens and images that are read, about: for a 7B model twenty minutes on two cores.
_POSITIONS, _USUAL_TEXT = 12_288, 128
_MAX_POSITIONS = 2 * _POSITIONS  # where texts are longer
# Of a bundle, besides its weights and the texts of its tokens: the manifest, headers, and images of the comparison.
_SMALL_FILES = 400_000


def read_dialogues(
    checkpoint: Checkpoint,
    template: TemplateSpec,
    dialogues: Sequence[Dialogue],
    features: Sequence[NDArray[np.float32]],
) -> list[DialogueRows]:
    """Reads dialogues, or of many an evenly spaced choice, about images of these features (S, P, D).

    Long ones are cut: to the context that the model was trained for, and so that together they stay within a limit.
    """
    n_rows = max(values.shape[0] * values.shape[1] for values in features)
    chosen = choose_evenly(dialogues, max(1, _POSITIONS // (n_rows + _USUAL_TEXT)))
    most = min(checkpoint.config.language.n_ctx_train, max(n_rows + _USUAL_TEXT, _MAX_POSITIONS // len(chosen)))
    return dialogue_rows(checkpoint, template, chosen, features, most)


def measure_language(
    checkpoint: Checkpoint,
    sequences: Sequence[DialogueRows],
    options: ConvertOptions,
    directory: Path,
    progress: ProgressCallback,
) -> LanguageRecipe:
    """Measures what matters in the language model, and chooses the types of a mix.

    Args:
        checkpoint: Read block by block.
        sequences: What the model reads while it is measured.
        options: What is made.
        directory: Of the unfinished bundle, with its tower.
        progress: Receives the number of finished blocks.

    Raises:
        ConversionError: If nothing fits into the size, or the checkpoint is damaged.
    """
    if options.size_bytes is None:
        return LanguageRecipe(measure_importance(checkpoint, sequences, progress))
    written = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    shapes, left = _room_of_blocks(checkpoint, options.quant, options.size_bytes - written)
    check_room(shapes, left)
    encoder = Encoder(usable_threads(options.n_threads))
    try:
        importance, losses = measure_losses(checkpoint, sequences, encoder, progress)
    finally:
        encoder.close()
    return LanguageRecipe(importance, choose_mix(losses, shapes, left), losses)


def check_size(checkpoint: Checkpoint, options: ConvertOptions) -> None:
    """Looks before any slow work whether a bundle can be as small as asked for.

    Raises:
        ConversionError: If it cannot.
    """
    if options.size_bytes is not None:
        tower = (1 if options.tries_int8 else 2 if options.vision == "fp16" else 4) * count_tower_weights(checkpoint)
        check_room(*_room_of_blocks(checkpoint, options.quant, options.size_bytes - tower))


def _room_of_blocks(checkpoint: Checkpoint, quant: str, n_bytes: int) -> tuple[dict[str, tuple[int, ...]], int]:
    """The shapes of the matrices of the blocks, and the bytes that they may have of those that are left by a tower."""
    plan = plan_language(checkpoint, quant)
    shapes = {tensor.name: tensor.shape for tensor in plan if tensor.name.startswith("blk.") and len(tensor.shape) > 1}
    others = sum(encoded_bytes(tensor.type, tensor.shape) for tensor in plan if tensor.name not in shapes)
    others += sum(encoded_bytes(tensor.type, tensor.shape) for tensor in plan_projector(checkpoint, quant))
    vocabulary, n_embd = checkpoint.vocabulary, checkpoint.config.language.n_embd
    n_rows = len(make_reference_images()) * N_SAMPLED_ROWS
    record = 4 * (len(vocabulary) + n_rows * (n_embd + checkpoint.tower.hidden_size))
    texts = sum(len(text.encode("utf-8", "replace")) + 16 for text in (*vocabulary.tokens, *vocabulary.merges))
    return shapes, n_bytes - others - texts - record - _SMALL_FILES

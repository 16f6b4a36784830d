"""Writes projector.gguf: the tensors mm.0 and, for an MLP, mm.2, their biases, and LLaVA-1.6's image_newline."""

from __future__ import annotations

from pathlib import Path

from gguf import GGMLQuantizationType as GgmlType
from gguf import GGUFWriter

from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.expected_tensors import NEWLINE
from edge_llava.converters.gguf_file import PlannedTensor, write_tensors
from edge_llava.converters.quant_types import fit_type, projector_type
from edge_llava.converters.quantize import Encoder
from edge_llava.home.progress import ProgressCallback


def plan_projector(checkpoint: Checkpoint, quant: str) -> list[PlannedTensor]:
    """Lists the tensors of projector.gguf with their types, without reading weights."""
    type_, plan = projector_type(quant), []
    for name in _names(checkpoint):
        shape = checkpoint.shape(name)
        encoding = fit_type(type_, shape[-1]) if len(shape) > 1 else GgmlType.F32
        plan.append(PlannedTensor(_target(name), shape, encoding))
    return plan


def write_projector(
    checkpoint: Checkpoint, path: Path, quant: str, encoder: Encoder, progress: ProgressCallback
) -> GgmlType:
    """Writes projector.gguf.

    Args:
        checkpoint: The source.
        path: Target file.
        quant: The language model's quantization; the projector uses the same, but at least 6 bits.
        encoder: Encodes the tensors.
        progress: Receives the number of bytes written.

    Returns:
        The type of the matrices, before any fallback for rows that do not divide into its blocks.

    Raises:
        ConversionError: If weights are not finite or do not fit the type.
    """
    type_, plan = projector_type(quant), plan_projector(checkpoint, quant)
    writer = GGUFWriter(None, "clip")
    writer.add_type("mmproj")
    writer.add_name(f"{checkpoint.name} projector")
    writer.add_string("edge_llava.projector.kind", checkpoint.config.projector_kind)
    values = map(checkpoint.load, _names(checkpoint))
    write_tensors(writer, path, plan, values, encoder, f"projector, {type_.name}", progress)
    return type_


def _names(checkpoint: Checkpoint) -> list[str]:
    return [*checkpoint.projector_names(), *([NEWLINE] if checkpoint.config.has_newline else [])]


def _target(name: str) -> str:
    part = name.removeprefix("projector.")
    return part if name == NEWLINE else f"mm.{part}"

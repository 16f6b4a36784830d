"""What a checkpoint would take as a bundle, in each quantization, before anything is converted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.manifest import FORMAT_VERSION, FileEntry, Manifest, SourceInfo
from edge_llava.bundle.template_spec import describe_template
from edge_llava.bundle.templates import TEMPLATES
from edge_llava.converters.bundle_specs import describe_language, describe_projector, describe_vision
from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.disk_space import count_tower_weights
from edge_llava.converters.language_gguf import plan_language
from edge_llava.converters.options import ConvertOptions
from edge_llava.converters.quant_types import encoded_bytes, projector_type
from edge_llava.fitting.bundle_needs import estimate_needs
from edge_llava.fitting.needs import MemoryNeeds
from edge_llava.fitting.room import Room
from edge_llava.fitting.settings import shortest_context
from edge_llava.ggml.gguf_header import GgufTensor
from edge_llava.runtime.options import DecoderOptions, EngineOptions

# From the most exact to the smallest that are worth choosing among.
LADDER = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
USUAL = "Q4_K_M"
_ANY_TEMPLATE = describe_template(TEMPLATES["vicuna_v1"], {})
_LEAST_CONTEXT = 2048


@dataclass(frozen=True)
class QuantNeeds:
    """A checkpoint in one quantization.

    Attributes:
        quant: One of `language_spec.QUANTS`.
        bundle_bytes: Of the bundle on disk.
        needs: In memory, on the CPU.
    """

    quant: str
    bundle_bytes: int
    needs: MemoryNeeds


def list_needs(
    checkpoint: Checkpoint, options: EngineOptions, converting: ConvertOptions, quants: Iterable[str] = LADDER
) -> list[QuantNeeds]:
    """What an opened checkpoint would take, from shapes alone.

    Args:
        checkpoint: Opened.
        options: How the bundle would be loaded.
        converting: How it would be made; its quantization does not count.
        quants: The quantizations.
    """
    found = []
    for quant in quants:
        bundle = _planned_bundle(checkpoint, replace(converting, quant=quant, imatrix=None))
        tensors = {
            # GGUF lists the fastest axis first
            tensor.name: GgufTensor(tuple(reversed(tensor.shape)), tensor.type, 0)
            for tensor in plan_language(checkpoint, quant)
        }
        found.append(QuantNeeds(quant, bundle.n_bytes, estimate_needs(bundle, options, tensors)))
    return found


def propose_quant(checkpoint: Checkpoint, room: Room, converting: ConvertOptions, *, most_exact: bool) -> str | None:
    """What to convert a checkpoint to, so that it runs in so much memory with 2,048 positions, or more for its images.

    Args:
        checkpoint: Opened.
        room: What is free.
        converting: How it would be made; its quantization does not count.
        most_exact: Take the most exact of `LADDER` that fits; otherwise `USUAL` where it fits, which is quicker.

    Returns:
        The quantization; None: nothing fits.
    """
    least = max(_LEAST_CONTEXT, shortest_context(_planned_bundle(checkpoint, converting), EngineOptions()))
    options = EngineOptions(DecoderOptions(n_ctx=least, repack=False))
    rungs = LADDER if most_exact else LADDER[LADDER.index(USUAL) :]
    all_needs = list_needs(checkpoint, options, converting, rungs)
    return next((each.quant for each in all_needs if room.judge(each.needs) == "fits"), None)


def _planned_bundle(checkpoint: Checkpoint, options: ConvertOptions) -> Bundle:
    """A bundle that does not exist: its sections and the sizes of its files."""
    precision = "int8" if options.tries_int8 else "fp16" if options.vision == "fp16" else "fp32"
    config = checkpoint.config
    matrix = (config.language.n_embd, checkpoint.tower.hidden_size + config.language.n_embd)
    sizes = {
        "language": sum(encoded_bytes(t.type, t.shape) for t in plan_language(checkpoint, options.quant)),
        "projector": encoded_bytes(projector_type(options.quant), matrix),
        "vision": {"int8": 1, "fp16": 2, "fp32": 4}[precision] * count_tower_weights(checkpoint),
    }
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        created_by=f"edge-llava {version('edge-llava')}",
        source=SourceInfo(checkpoint.name, checkpoint.revision, config.layout, ()),
        vision=describe_vision(checkpoint, precision, options.aspect or config.aspect, max_tiles=options.max_tiles),
        projector=describe_projector(checkpoint, options.quant),
        language=describe_language(checkpoint, options.quant, _ANY_TEMPLATE),  # it takes no memory
        files={role: FileEntry(f"{role}.planned", size, "") for role, size in sizes.items()},
        parity={},
    )
    return Bundle(checkpoint.directory, manifest)

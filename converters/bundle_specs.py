"""What a manifest says of a checkpoint's three parts: numbers from its config and tensors, and what was chosen."""

from __future__ import annotations

from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.quantize import projector_type
from edge_llava.errors import CheckpointError, list_faults
from edge_llava.manifest import (
    FORMAT_VERSION,
    REQUIRED_ROLES,
    FileEntry,
    LanguageSpec,
    Manifest,
    ProjectorSpec,
    SourceInfo,
)
from edge_llava.vision_spec import VisionQuantization, VisionSpec


def describe_vision(
    checkpoint: Checkpoint, precision: str, aspect: str, quantization: VisionQuantization | None = None
) -> VisionSpec:
    """The tower as deployed."""
    config, tower = checkpoint.config, checkpoint.tower
    return VisionSpec(
        image_size=tower.image_size,
        patch_size=tower.patch_size,
        hidden_size=tower.hidden_size,
        feature_layer=config.feature_layer,
        drop_cls=config.drop_cls,
        image_mean=config.image_mean,
        image_std=config.image_std,
        aspect=aspect,
        grid_pinpoints=config.grid_pinpoints if aspect == "anyres" else (),
        merge=config.merge if aspect == "anyres" else "flat",
        has_newline=config.has_newline and aspect == "anyres",
        precision=precision,
        quantization=quantization,
        has_ranking=config.drop_cls,
    )


def describe_projector(checkpoint: Checkpoint, quant: str) -> ProjectorSpec:
    """The projector as deployed beside a language model of this quantization."""
    n_embd = checkpoint.config.language.n_embd
    return ProjectorSpec(
        checkpoint.config.projector_kind, checkpoint.tower.hidden_size, n_embd, projector_type(quant).name
    )


def describe_language(checkpoint: Checkpoint, quant: str, template: str) -> LanguageSpec:
    """The language model as deployed."""
    language, vocabulary = checkpoint.config.language, checkpoint.vocabulary
    return LanguageSpec(
        n_embd=language.n_embd,
        n_layer=language.n_layer,
        n_head=language.n_head,
        n_head_kv=language.n_head_kv,
        n_vocab=len(vocabulary),
        n_ctx_train=language.n_ctx_train,
        quant=quant,
        template=template,
        image_marks=checkpoint.config.image_marks,
        bos=vocabulary.bos,
        eos=vocabulary.eos,
    )


def check_specs(checkpoint: Checkpoint, quant: str, aspect: str, template: str) -> None:
    """Finds before the work what no reader of the finished manifest would accept.

    Raises:
        CheckpointError: If a number of the checkpoint is outside of what the runtime computes with; all faults at once.
    """
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        created_by="edge-llava",
        source=SourceInfo(checkpoint.name, checkpoint.revision, checkpoint.config.layout, ()),
        vision=describe_vision(checkpoint, "fp32", aspect),
        projector=describe_projector(checkpoint, quant),
        language=describe_language(checkpoint, quant, template),
        files={role: FileEntry(role, 1, "0" * 64) for role in REQUIRED_ROLES},
        parity={},
    )
    faults = manifest.find_faults()
    if faults:
        raise CheckpointError(list_faults(f"{checkpoint.directory} cannot be described by a bundle:", faults))

"""The manifest's sections about a checkpoint's three parts, from its config, its tensors and the options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_llava.bundle.language_spec import ImportanceSpec, LanguageSpec, MixedTensor
from edge_llava.bundle.manifest import ProjectorSpec, find_section_faults
from edge_llava.bundle.template_spec import TemplateSpec, describe_template
from edge_llava.bundle.templates import TEMPLATES
from edge_llava.bundle.vision_spec import VisionQuantization, VisionSpec
from edge_llava.converters.language_recipe import PLAIN, LanguageRecipe
from edge_llava.converters.quant_types import projector_type

if TYPE_CHECKING:
    from edge_llava.converters.checkpoint import Checkpoint  # which looks for faults here when it is opened


def describe_vision(
    checkpoint: Checkpoint,
    precision: str,
    aspect: str,
    quantization: VisionQuantization | None = None,
    max_tiles: int | None = None,
) -> VisionSpec:
    """Describes the tower as deployed, for images of at most `max_tiles` squares."""
    config, tower, is_tiled = checkpoint.config, checkpoint.tower, aspect == "anyres"
    return VisionSpec(
        image_size=tower.image_size,
        patch_size=tower.patch_size,
        hidden_size=tower.hidden_size,
        n_blocks=checkpoint.n_blocks,
        has_class_row=tower.kind.has_class_row,
        n_dropped_rows=checkpoint.tap.n_dropped_rows,
        image_mean=config.image_mean,
        image_std=config.image_std,
        aspect=aspect,
        grid_pinpoints=config.grid_pinpoints if is_tiled else (),
        merge=config.merge if is_tiled else "flat",
        has_newline=config.has_newline and is_tiled,
        precision=precision,
        merge_limit=config.merge_limit if is_tiled else None,
        several_images=config.family.several_images if is_tiled and config.has_newline else "as_one",
        max_tiles=max_tiles,
        quantization=quantization,
        ranking=tower.kind.choose_ranking(checkpoint.tap.n_dropped_rows),
    )


def describe_projector(checkpoint: Checkpoint, quant: str) -> ProjectorSpec:
    """Describes the projector as deployed with a language model of this quantization."""
    n_embd = checkpoint.config.language.n_embd
    return ProjectorSpec(
        checkpoint.config.projector_kind, checkpoint.tower.hidden_size, n_embd, projector_type(quant).name
    )


def describe_language(
    checkpoint: Checkpoint, quant: str, template: TemplateSpec, recipe: LanguageRecipe = PLAIN
) -> LanguageSpec:
    """Describes the language model as deployed."""
    language, vocabulary, importance = checkpoint.config.language, checkpoint.vocabulary, recipe.importance
    return LanguageSpec(
        architecture=language.dialect.architecture,
        n_embd=language.n_embd,
        n_layer=language.n_layer,
        n_head=language.n_head,
        n_head_kv=language.n_head_kv,
        n_vocab=len(vocabulary),
        n_ctx_train=language.n_ctx_train,
        quant=quant,
        template=template,
        bos=vocabulary.bos,
        eos=vocabulary.eos,
        end_ids=vocabulary.end_ids,
        tokenizer=vocabulary.spec,
        importance=None if importance is None else ImportanceSpec(importance.n_dialogues, importance.n_positions),
        mix={name: MixedTensor(type_.name, recipe.losses[name][type_]) for name, type_ in recipe.mix.items()},
    )


def find_limit_faults(checkpoint: Checkpoint) -> list[str]:
    """Lists the faults for which the manifest of this checkpoint's bundle would be refused."""
    config = checkpoint.config
    return find_section_faults(
        describe_vision(checkpoint, "fp32", config.aspect),
        describe_projector(checkpoint, "F32"),
        describe_language(checkpoint, "F32", describe_template(TEMPLATES["llava_v1"], {})),
    )

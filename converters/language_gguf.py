"""Converts a language model to language.gguf, which any llama.cpp loads.

Source: llama.cpp's conversion of LlamaForCausalLM (metadata keys, the permutation of q and k, and the divisors of
frequencies) and of Qwen2ForCausalLM.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from gguf import GGMLQuantizationType as GgmlType
from gguf import GGUFWriter, RopeScalingType

from edge_llava.bundle.language_spec import MIXED
from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.gguf_file import PlannedTensor, write_tensors
from edge_llava.converters.language_recipe import PLAIN, LanguageRecipe
from edge_llava.converters.quant_types import FILE_TYPES, QuantRules, choose_type
from edge_llava.converters.quantize import Encoder
from edge_llava.converters.tensor_names import gguf_name
from edge_llava.converters.tokenizers.gguf_vocabulary import add_vocabulary, neutral_name
from edge_llava.home.progress import ProgressCallback

_QUANTIZATION_VERSION = 2


def plan_language(
    checkpoint: Checkpoint,
    quant: str,
    recipe: LanguageRecipe = PLAIN,
) -> list[PlannedTensor]:
    """Lists the tensors of language.gguf with their types, without reading weights.

    Args:
        checkpoint: The source.
        quant: One of `quant_types.FILE_TYPES`, or MIXED.
        recipe: What was measured.
    """
    config = checkpoint.config.language
    names = checkpoint.language_tensors()
    tied = "language.lm_head.weight" not in names
    n_gqa = config.n_head // config.n_head_kv
    rules = QuantRules(quant, config.n_layer, n_gqa, tied, config.dialect.architecture, recipe.importance is not None)
    plan, columns = [], {} if recipe.importance is None else recipe.importance.mean_squares
    for name in names:
        shape, target = checkpoint.shape(name), gguf_name(name)
        if target in ("token_embd.weight", "output.weight"):
            shape = (len(checkpoint.vocabulary), shape[1])
        type_ = recipe.mix.get(target) or choose_type(rules, target, shape)
        plan.append(PlannedTensor(target, shape, type_, columns.get(target)))
    if config.rope_llama3 is not None:
        plan.append(PlannedTensor("rope_freqs.weight", (config.head_dim // 2,), GgmlType.F32))
    return plan


def write_language(
    checkpoint: Checkpoint,
    path: Path,
    quant: str,
    encoder: Encoder,
    progress: ProgressCallback,
    recipe: LanguageRecipe = PLAIN,
) -> None:
    """Writes language.gguf, one tensor in memory at a time.

    Args:
        checkpoint: The source.
        path: Target file.
        quant: One of `quant_types.FILE_TYPES`, or MIXED.
        encoder: Encodes the tensors.
        progress: Receives the number of bytes written.
        recipe: What was measured of its matrices.

    Raises:
        ConversionError: If weights are not finite or do not fit the type.
    """
    writer = GGUFWriter(None, checkpoint.config.language.dialect.architecture)
    _add_metadata(writer, checkpoint, quant)
    add_vocabulary(writer, checkpoint.vocabulary)
    plan = plan_language(checkpoint, quant, recipe)
    write_tensors(writer, path, plan, _values(checkpoint), encoder, f"language model, {quant}", progress)


def permute_rows(weight: torch.Tensor, n_head: int) -> torch.Tensor:
    """Reorders rows of q or k (rows, columns) from halves to pairs: transformers rotates halves, arch llama pairs."""
    rows, columns = weight.shape
    return weight.reshape(n_head, 2, rows // n_head // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _values(checkpoint: Checkpoint) -> Iterator[torch.Tensor]:
    config = checkpoint.config.language
    permutes = config.dialect.permutes_qk
    for name in checkpoint.language_tensors():
        tensor = checkpoint.load(name)
        if permutes and name.endswith("q_proj.weight"):
            tensor = permute_rows(tensor, config.n_head)
        elif permutes and name.endswith("k_proj.weight"):
            tensor = permute_rows(tensor, config.n_head_kv)
        elif name in ("language.embed_tokens.weight", "language.lm_head.weight"):
            tensor = tensor[: len(checkpoint.vocabulary)]
        yield tensor
    if config.rope_llama3 is not None:
        yield torch.from_numpy(config.rope_llama3.divisors(config.rope_theta, config.head_dim))


def _add_metadata(writer: GGUFWriter, checkpoint: Checkpoint, quant: str) -> None:
    config = checkpoint.config.language
    writer.add_type("model")
    writer.add_name(neutral_name(checkpoint.name))
    if quant != MIXED:  # llama.cpp has no file type for it
        writer.add_file_type(FILE_TYPES[quant])
    writer.add_quantization_version(_QUANTIZATION_VERSION)
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_ctx_train)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_ff)
    writer.add_head_count(config.n_head)
    writer.add_head_count_kv(config.n_head_kv)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(len(checkpoint.vocabulary))
    if config.rope_factor is not None:
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_factor)

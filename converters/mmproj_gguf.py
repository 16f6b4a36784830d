"""Writes CLIP and projector to one GGUF for llama.cpp's own tools, so that its graph comes close to the checkpoint.

How llama.cpp's graph (tools/mtmd/models/llava.cpp, as shipped with llama-cpp-python 0.3.36) differs from CLIP:

- It appends the class token after the patches and outputs all rows except the first. The position table is therefore
  written in the graph's order. Every patch is then computed correctly, but the first is lost and the class token's row
  comes last: row k of llama.cpp is patch k + 1.
- Without a list of feature layers it stops one block early, so the list is written.
- The projector always has a GELU, in the tanh approximation. A linear projector W x + b is written as
  [I -I] gelu([W -W] x + [b -b]): gelu(z) - gelu(-z) equals z in either form.

Source: llama.cpp's clip-impl.h for the names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from gguf import GGMLQuantizationType as GgmlType
from gguf import GGUFWriter

from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.gguf_file import PlannedTensor, write_tensors
from edge_llava.converters.quantize import Encoder
from edge_llava.errors import ConversionError
from edge_llava.home.progress import ProgressCallback

_BLOCK_PARTS = {
    "layer_norm1": "ln1",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "layer_norm2": "ln2",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
_ACTIVATIONS = {"quick_gelu": False, "gelu": True}  # use_gelu


def check_mmproj(checkpoint: Checkpoint) -> None:
    """
    Raises:
        ConversionError: If llama.cpp's graph cannot compute this checkpoint's vision part.
    """
    config, kind = checkpoint.config, checkpoint.tower.kind
    faults = [kind.mmproj_fault] if kind.mmproj_fault else []
    if checkpoint.tower.hidden_act not in _ACTIVATIONS:
        faults.append(f"the tower's activation is {checkpoint.tower.hidden_act!r}")
    if checkpoint.tap.n_dropped_rows < kind.n_class_rows:
        faults.append("the class token's row is used")
    if config.aspect == "anyres":
        faults.append("its images are cut into tiles, which llama.cpp joins in another order (LLaVA-1.6)")
    if faults:
        raise ConversionError(
            f"llama.cpp's tools cannot run this model's vision: {'; '.join(faults)}. Leave --mmproj out."
        )


def write_mmproj(checkpoint: Checkpoint, path: Path, quant: str, encoder: Encoder, progress: ProgressCallback) -> None:
    """Writes the file; matrices in float16, or in float32 with an F32 language model.

    Raises:
        ConversionError: If weights are not finite or do not fit the type.
    """
    matrix_type = GgmlType.F32 if quant == "F32" else GgmlType.F16
    parts = _vision_parts(checkpoint) + _projector_parts(checkpoint)
    plan = [PlannedTensor(part.target, part.shape, matrix_type if part.is_matrix else GgmlType.F32) for part in parts]
    writer = GGUFWriter(None, "clip")
    _add_metadata(writer, checkpoint)
    stage = f"mmproj for llama.cpp, {matrix_type.name}"
    write_tensors(writer, path, plan, (part.load() for part in parts), encoder, stage, progress)


@dataclass(frozen=True)
class _MmprojTensor:
    target: str
    shape: tuple[int, ...]
    load: Callable[[], torch.Tensor]
    is_matrix: bool


def _vision_parts(checkpoint: Checkpoint) -> list[_MmprojTensor]:
    names = {
        "v.class_embd": "embeddings.class_embedding",
        "v.patch_embd.weight": "embeddings.patch_embedding.weight",
        "v.pre_ln.weight": "pre_layrnorm.weight",
        "v.pre_ln.bias": "pre_layrnorm.bias",
    }
    for block in range(checkpoint.n_blocks):
        for part, target in _BLOCK_PARTS.items():
            for kind in ("weight", "bias"):
                names[f"v.blk.{block}.{target}.{kind}"] = f"encoder.layers.{block}.{part}.{kind}"
    parts = [_plain(checkpoint, target, f"vision.{name}") for target, name in names.items()]
    table = "vision.embeddings.position_embedding.weight"
    in_graph_order = partial(_class_last, checkpoint, table)
    # llama.cpp looks rows up and needs float32 for that
    return [*parts, _MmprojTensor("v.position_embd.weight", checkpoint.shape(table), in_graph_order, is_matrix=False)]


def _projector_parts(checkpoint: Checkpoint) -> list[_MmprojTensor]:
    names = {f"mm.{name.removeprefix('projector.')}": name for name in checkpoint.projector_names()}
    if checkpoint.config.projector_kind != "linear":
        return [_plain(checkpoint, target, name) for target, name in names.items()]
    (n_out, n_in), weight, bias = checkpoint.shape("projector.0.weight"), *names.values()
    unit = torch.eye(n_out)
    return [
        _MmprojTensor("mm.0.weight", (2 * n_out, n_in), partial(_with_negative, checkpoint, weight), is_matrix=True),
        _MmprojTensor("mm.0.bias", (2 * n_out,), partial(_with_negative, checkpoint, bias), is_matrix=False),
        _MmprojTensor("mm.2.weight", (n_out, 2 * n_out), lambda: torch.cat([unit, -unit], dim=1), is_matrix=True),
        _MmprojTensor("mm.2.bias", (n_out,), lambda: torch.zeros(n_out), is_matrix=False),
    ]


def _plain(checkpoint: Checkpoint, target: str, name: str) -> _MmprojTensor:
    shape = checkpoint.shape(name)
    return _MmprojTensor(target, shape, partial(checkpoint.load, name), is_matrix=len(shape) > 1)


def _class_last(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    return checkpoint.load(name).roll(-1, dims=0)


def _with_negative(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    values = checkpoint.load(name)
    return torch.cat([values, -values])


def _add_metadata(writer: GGUFWriter, checkpoint: Checkpoint) -> None:
    tower, config = checkpoint.tower, checkpoint.config
    writer.add_type("mmproj")
    writer.add_name(f"{checkpoint.name} mmproj")
    writer.add_clip_has_vision_encoder(True)
    writer.add_bool("clip.has_text_encoder", False)
    writer.add_bool("clip.has_llava_projector", True)
    writer.add_clip_projector_type("mlp")
    writer.add_bool("clip.use_gelu", _ACTIVATIONS[tower.hidden_act])
    writer.add_bool("clip.use_silu", False)
    writer.add_vision_image_size(tower.image_size)
    writer.add_vision_patch_size(tower.patch_size)
    writer.add_vision_embedding_length(tower.hidden_size)
    writer.add_vision_feed_forward_length(tower.intermediate_size)
    writer.add_vision_projection_dim(config.language.n_embd)
    writer.add_vision_block_count(checkpoint.n_blocks)
    writer.add_vision_head_count(tower.n_heads)
    writer.add_vision_attention_layernorm_eps(tower.layer_norm_eps)
    writer.add_vision_image_mean(list(config.image_mean))
    writer.add_vision_image_std(list(config.image_std))
    writer.add_array("clip.vision.feature_layer", [checkpoint.n_blocks])

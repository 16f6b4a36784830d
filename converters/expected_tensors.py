"""The tensors that a checkpoint must contain, by our names (see `tensor_names`), and their shapes."""

from __future__ import annotations

from collections.abc import Mapping

from edge_llava.converters.model_configs import LanguageConfig, TowerConfig
from edge_llava.converters.towers import TOWER_KINDS
from edge_llava.errors import CheckpointError

PATCHES = "vision.embeddings.patch_embedding.weight"
NEWLINE = "projector.image_newline"
_CLASS_ROW = "vision.embeddings.class_embedding"


def expected_vision_shapes(tower: TowerConfig, n_blocks: int) -> dict[str, tuple[int, ...]]:
    """Returns our names and the shapes of the tower's deployed tensors."""
    d, f, p = tower.hidden_size, tower.intermediate_size, tower.patch_size
    kind, n_rows = tower.kind, tower.grid_side**2 + tower.kind.n_class_rows
    shapes: dict[str, tuple[int, ...]] = {_CLASS_ROW: (d,)} if kind.has_class_row else {}
    shapes[PATCHES] = (d, 3, p, p)
    if kind.has_patch_bias:
        shapes["vision.embeddings.patch_embedding.bias"] = (d,)
    shapes["vision.embeddings.position_embedding.weight"] = (n_rows, d)
    norms = ["vision.pre_layrnorm"] if kind.has_first_norm else []
    linears: dict[str, tuple[int, ...]] = {}
    for block in range(n_blocks):
        prefix = f"vision.encoder.layers.{block}"
        norms += [f"{prefix}.layer_norm1", f"{prefix}.layer_norm2"]
        linears |= {f"{prefix}.self_attn.{part}_proj": (d, d) for part in ("q", "k", "v", "out")}
        linears |= {f"{prefix}.mlp.fc1": (f, d), f"{prefix}.mlp.fc2": (d, f)}
    for norm in norms:
        shapes |= {f"{norm}.weight": (d,), f"{norm}.bias": (d,)}
    for linear, shape in linears.items():
        shapes |= {f"{linear}.weight": shape, f"{linear}.bias": shape[:1]}
    return shapes


def expected_projector_shapes(tower: TowerConfig, language: LanguageConfig, kind: str) -> dict[str, tuple[int, ...]]:
    """Returns our names and the shapes of a projector, layer by layer; `kind` as in the checkpoint's config."""
    d, e = tower.hidden_size, language.n_embd
    first = {"projector.0.weight": (e, d), "projector.0.bias": (e,)}
    second = {"projector.2.weight": (e, e), "projector.2.bias": (e,)}
    return first if kind == "linear" else first | second


def expected_language_shapes(language: LanguageConfig) -> dict[str, tuple[int, ...]]:
    """Returns our names and the shapes of the language model's tensors, in file order."""
    e, f = language.n_embd, language.n_ff
    q, kv = language.n_head * language.head_dim, language.n_head_kv * language.head_dim
    shapes: dict[str, tuple[int, ...]] = {"language.embed_tokens.weight": (language.n_rows, e)}
    biases: Mapping[str, tuple[int, ...]] = {
        "self_attn.q_proj.bias": (q,),
        "self_attn.k_proj.bias": (kv,),
        "self_attn.v_proj.bias": (kv,),
    }
    block: Mapping[str, tuple[int, ...]] = {
        "input_layernorm.weight": (e,),
        "self_attn.q_proj.weight": (q, e),
        "self_attn.k_proj.weight": (kv, e),
        "self_attn.v_proj.weight": (kv, e),
        "self_attn.o_proj.weight": (e, q),
        "post_attention_layernorm.weight": (e,),
        "mlp.gate_proj.weight": (f, e),
        "mlp.up_proj.weight": (f, e),
        "mlp.down_proj.weight": (e, f),
        **(biases if language.dialect.has_qkv_bias else {}),
    }
    for layer in range(language.n_layer):
        shapes |= {f"language.layers.{layer}.{part}": shape for part, shape in block.items()}
    return shapes | {"language.norm.weight": (e,), "language.lm_head.weight": (language.n_rows, e)}


def infer_tower(shapes: Mapping[str, tuple[int, ...]]) -> TowerConfig:
    """Infers the config of a tower that a checkpoint contains without one; the rest is as its kind was published.

    Args:
        shapes: Shapes of all tensors, by our names.

    Raises:
        CheckpointError: If a tensor that decides the config is missing or has an unexpected shape.
    """
    try:
        width, _, patch, _ = shapes[PATCHES]
        n_positions, _ = shapes["vision.embeddings.position_embedding.weight"]
        ff, _ = shapes["vision.encoder.layers.0.mlp.fc1.weight"]
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"the vision tower inside the checkpoint is incomplete: {error}.") from error
    n_layers = len({name.split(".")[3] for name in shapes if name.startswith("vision.encoder.layers.")})
    kind = next(kind for kind in TOWER_KINDS if kind.has_class_row == (_CLASS_ROW in shapes))
    side = round(max(0, n_positions - kind.n_class_rows) ** 0.5)
    if side**2 + kind.n_class_rows != n_positions or width % kind.head_width:
        sizes = f"{n_positions} positions of {width}"
        raise CheckpointError(f"the vision tower inside the checkpoint is not a {kind.name}: {sizes}.")
    image_size = kind.infer_image_size(patch, side)
    n_heads = width // kind.head_width
    return TowerConfig(width, ff, n_layers, n_heads, image_size, patch, kind.layer_norm_eps, kind.hidden_act, kind)

"""The kinds of vision towers: one row each, read by configs, tensors, export, reference and manifest alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TowerKind:
    """What towers of one kind have in common.

    Attributes:
        name: For people.
        model_types: `model_type` in a config: of the tower, and of the whole model whose other half reads texts.
        has_class_row: Whether a row of its own precedes the patches.
        has_first_norm: Whether a LayerNorm precedes the blocks.
        has_patch_bias: Whether the convolution that makes patches adds a bias.
        sizes: Defaults of a sparse section, by transformers' keys.
        hidden_act, layer_norm_eps: Defaults, too.
        image_mean, image_std: Normalization where no image processor states another.
        own_aspect: How its own image processor fits an image: "crop" or "squash".
        is_padded: Whether LLaVAs in Hugging Face layout were trained on padded images, whatever their processor does.
        ranking: What its patches can be ranked by, see `vision_spec.RANKINGS`.
        original_tap: How LLaVA's own code chooses the block, one of `taps.TAP_RULES`.
        head_width: Of an attention head, for a tower without a config.
        image_sizes: Its input in pixels by (patch_size, patches along a side), for such a tower, where pixels remain.
        unused: Beginnings of our names of tensors that no LLaVA uses.
        mmproj_fault: Why llama.cpp's own tools cannot run it; "" if they can.
    """

    name: str
    model_types: tuple[str, str]
    has_class_row: bool
    has_first_norm: bool
    has_patch_bias: bool
    sizes: Mapping[str, int] = field(hash=False)
    hidden_act: str
    layer_norm_eps: float
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    own_aspect: str
    is_padded: bool
    ranking: str
    original_tap: str
    head_width: int
    image_sizes: Mapping[tuple[int, int], int] = field(hash=False)
    unused: tuple[str, ...]
    mmproj_fault: str

    @property
    def n_class_rows(self) -> int:
        """Rows before the patches: 0 or 1."""
        return int(self.has_class_row)

    def choose_ranking(self, n_dropped_rows: int) -> str:
        """What patches are ranked by if so many rows are dropped: "none" unless the rest is exactly the patches."""
        return self.ranking if n_dropped_rows == self.n_class_rows else "none"

    def infer_image_size(self, patch_size: int, side: int) -> int:
        """The input's side in pixels, for a tower of so many patches along a side."""
        return self.image_sizes.get((patch_size, side), patch_size * side)


# Source: transformers' CLIPVisionConfig and OpenAI's CLIP, whose heads are all 64 wide.
CLIP = TowerKind(
    name="CLIP",
    model_types=("clip_vision_model", "clip"),
    has_class_row=True,
    has_first_norm=True,
    has_patch_bias=False,
    sizes={
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 224, "patch_size": 32,
    },
    hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
    image_mean=(0.48145466, 0.4578275, 0.40821073),
    image_std=(0.26862954, 0.26130258, 0.27577711),
    own_aspect="crop",
    is_padded=True,
    ranking="class_attention",
    original_tap="index",
    head_width=64,
    image_sizes={},
    unused=("vision.post_layernorm.",),
    mmproj_fault="",
)  # fmt: skip
# Source: transformers' SiglipVisionConfig; LLaVA-NeXT's siglip_encoder.py; google/siglip-so400m-patch14-384, whose
# heads are 72 wide and which does not see the last 6 of 384 pixels.
SIGLIP = TowerKind(
    name="SigLIP",
    model_types=("siglip_vision_model", "siglip"),
    has_class_row=False,
    has_first_norm=False,
    has_patch_bias=True,
    sizes={
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 224, "patch_size": 16,
    },
    hidden_act="gelu_pytorch_tanh",
    layer_norm_eps=1e-6,
    image_mean=(0.5, 0.5, 0.5),
    image_std=(0.5, 0.5, 0.5),
    own_aspect="squash",
    is_padded=False,
    ranking="received_attention",
    original_tap="without_last",
    head_width=72,
    image_sizes={(14, 27): 384},
    unused=("vision.post_layernorm.", "vision.head."),
    mmproj_fault="its tower is a SigLIP, before which they would pad images instead of squashing them",
)  # fmt: skip
TOWER_KINDS = (CLIP, SIGLIP)


def find_kind(model_type: object, *, is_tower: bool = False) -> TowerKind | None:
    """The kind whose configs have this `model_type`; None if there is none.

    Args:
        model_type: Any value of a config.
        is_tower: Whether the tower's own model type counts only, as in a LLaVA's `vision_config`.
    """
    return next((kind for kind in TOWER_KINDS if model_type in kind.model_types[: 1 if is_tower else 2]), None)

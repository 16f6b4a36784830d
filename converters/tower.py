"""The vision tower in torch: transformers' own, cut after the block that feeds the projector."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn
from transformers import PreTrainedModel

from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.taps import FeatureTap
from edge_llava.converters.tower_classes import VisionConfig, find_classes
from edge_llava.converters.towers import TowerKind
from edge_llava.errors import CheckpointError

# One function under two names: ONNX Runtime recognizes this form of it, and computes it in one pass instead of nine.
_EXPORTED_AS = {"gelu_pytorch_tanh": "gelu_new"}


class TrimmedTower(PreTrainedModel):
    """pixel_values (B, 3, S, S) float32 -> patch_features (B, P, D) float32.

    Runs the tap's blocks without post_layernorm and pooling, and drops its rows.

    If exactly the patches remain, the last block also returns what they can be ranked and merged by, each averaged over
    its heads: cls_attention (B, P), the attention that every patch receives, and patch_keys (B, P, D / heads). The
    attention is the class row's or, in a tower without one, the mean of all patches'.

    Source: VisionZip, arXiv 2412.04467, which takes both from the block of the selected layer.

    Attributes:
        n_features: P.
    """

    main_input_name = "pixel_values"
    _supports_sdpa = True

    def __init__(self, config: VisionConfig, kind: TowerKind, tap: FeatureTap) -> None:
        super().__init__(config)
        self.vision_model = find_classes(kind).transformer(config)
        self.vision_model.post_layernorm = nn.Identity()
        self._first_row = tap.n_dropped_rows
        self._ranking = kind.choose_ranking(tap.n_dropped_rows)
        self.n_features = (config.image_size // config.patch_size) ** 2 + kind.n_class_rows - tap.n_dropped_rows
        last = self.vision_model.encoder.layers[-1].self_attn
        self._queries, self._keys = _Output(last.q_proj), _Output(last.k_proj)

    @property
    def has_ranking(self) -> bool:
        """Whether cls_attention and patch_keys are among the outputs."""
        return self._ranking != "none"

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """See the class."""
        hidden = self.vision_model(pixel_values=pixel_values).last_hidden_state
        features = {"patch_features": self.select(hidden)}
        return features | self._rank() if self.has_ranking else features

    def select(self, hidden: torch.Tensor) -> torch.Tensor:
        """The rows (B, P, D) of a last state (B, R, D) that are features."""
        return hidden[:, self._first_row :]

    def _rank(self) -> dict[str, torch.Tensor]:
        """Uses what the last block has just computed, so that no product with weights is computed twice."""
        n_heads = self.config.num_attention_heads
        attention, keys = _RANKINGS[self._ranking](self._queries.value, self._keys.value, n_heads)
        return {"cls_attention": attention, "patch_keys": keys}


def _rank_by_class_row(queries: torch.Tensor, keys: torch.Tensor, n_heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of the class row to each patch (B, P) and the patches' keys (B, P, D / heads), means over heads."""
    queries, keys = _split(queries[:, :1], n_heads), _split(keys, n_heads)
    attention = _attend(queries, keys)[:, :, 0, 1:]
    return attention.mean(1), keys[:, :, 1:].mean(1)


def _rank_by_patches(queries: torch.Tensor, keys: torch.Tensor, n_heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention that each patch receives (B, P), mean over heads and all patches, and keys as above."""
    queries, keys = _split(queries, n_heads), _split(keys, n_heads)
    return _attend(queries, keys).mean((1, 2)), keys.mean(1)


_RANKINGS: Mapping[str, Callable[[torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]] = {
    "class_attention": _rank_by_class_row,
    "received_attention": _rank_by_patches,
}


def _attend(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Attention (B, heads, queries, keys)."""
    scores = queries @ keys.transpose(-1, -2) * keys.shape[-1] ** -0.5
    return torch.softmax(scores, -1)


def _split(rows: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Splits rows (B, R, D) into heads: (B, heads, R, D / heads)."""
    return rows.reshape(*rows.shape[:2], n_heads, -1).transpose(1, 2)


class _Output:
    """The last output of a layer.

    Attributes:
        value: (B, R, D), the rows of a class row and of all patches.
    """

    value: torch.Tensor

    def __init__(self, layer: nn.Linear) -> None:
        layer.register_forward_hook(self._note)

    def _note(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        self.value = output


def build_tower(checkpoint: Checkpoint) -> TrimmedTower:
    """Builds the trimmed tower without weights: its parameters are on the meta device.

    Raises:
        CheckpointError: If the tower's activation is unknown.
    """
    tower = checkpoint.tower
    config = find_classes(tower.kind).config(
        hidden_size=tower.hidden_size,
        intermediate_size=tower.intermediate_size,
        num_hidden_layers=checkpoint.n_blocks,
        num_attention_heads=tower.n_heads,
        image_size=tower.image_size,
        patch_size=tower.patch_size,
        layer_norm_eps=tower.layer_norm_eps,
        hidden_act=_EXPORTED_AS.get(tower.hidden_act, tower.hidden_act),
        attn_implementation="sdpa",
        vision_use_head=False,  # SigLIP's pooling
    )
    with torch.device("meta"):
        try:
            model = TrimmedTower(config, tower.kind, checkpoint.tap)
        except KeyError as error:
            raise CheckpointError(f"the tower's activation {tower.hidden_act!r} is unknown.") from error
    # a buffer that is not in the state dict and was made on the meta device
    n_positions = checkpoint.shape("vision.embeddings.position_embedding.weight")[0]
    model.vision_model.embeddings.position_ids = torch.arange(n_positions).expand((1, -1))
    model.eval()
    return model


class _MatMul(nn.Linear):
    """A layer whose weight is (K, N), as ONNX's MatMul reads it: torch's exporter computes transposes of weights."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.bias + input @ self.weight


def build_skeleton(checkpoint: Checkpoint) -> TrimmedTower:
    """Builds the trimmed tower to be traced: each weight is one number in memory, repeated; those of layers are (K, N).

    The numbers differ, because torch's exporter merges weights that are equal.

    Raises:
        CheckpointError: As `build_tower`.
    """
    tower = build_tower(checkpoint)
    for layer in tower.modules():
        if isinstance(layer, nn.Linear):
            layer.__class__, layer.weight = _MatMul, nn.Parameter(layer.weight.T)
    weights = tower.state_dict()
    numbers = torch.linspace(0.01, 0.02, len(weights))
    skeleton = {name: numbers[index].clone().expand(weights[name].shape) for index, name in enumerate(weights)}
    tower.load_state_dict(skeleton, assign=True)
    return tower


def load_weight(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    """Loads one of the tower's weights, float32 in its own memory, by its name in the tower's state dict."""
    return checkpoint.load(own_name(name)).to(torch.float32)


def own_name(name: str) -> str:
    """Our name (see `tensor_names`) of a weight in the tower's state dict."""
    return name.replace("vision_model.", "vision.", 1)

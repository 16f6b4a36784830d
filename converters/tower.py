"""The vision tower in torch: transformers' CLIP, cut after the block that feeds the projector."""

from __future__ import annotations

import torch
from transformers import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPPreTrainedModel

from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.errors import CheckpointError, list_faults

try:
    from transformers.models.clip.modeling_clip import CLIPVisionTransformer
except ImportError:  # transformers 5.6 made one class of the two
    from transformers import CLIPVisionModel as CLIPVisionTransformer


class TrimmedTower(CLIPPreTrainedModel):
    """pixel_values (B, 3, S, S) float32 -> patch_features (B, P, D) float32.

    Runs `n_blocks` blocks without post_layernorm and pooling; drops the class row if the checkpoint's config says so.

    If it is dropped, the last block also returns what patches can be ranked and merged by, each averaged over its
    heads: cls_attention (B, P), the class token's attention to every patch, and patch_keys (B, P, D / heads).

    Source: VisionZip, arXiv 2412.04467, which takes both from the block of the selected layer.
    """

    config_class = CLIPVisionConfig
    main_input_name = "pixel_values"

    def __init__(self, config: CLIPVisionConfig, *, drop_cls: bool) -> None:
        super().__init__(config)
        self.vision_model = CLIPVisionTransformer(config)
        self.vision_model.post_layernorm = torch.nn.Identity()
        self._first_row = 1 if drop_cls else 0
        last = self.vision_model.encoder.layers[-1].self_attn
        self._queries, self._keys = _Output(last.q_proj), _Output(last.k_proj)

    @property
    def has_ranking(self) -> bool:
        """Whether cls_attention and patch_keys are among the outputs."""
        return self._first_row == 1

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """See the class."""
        hidden = self.vision_model(pixel_values=pixel_values).last_hidden_state
        features = {"patch_features": hidden[:, self._first_row :]}
        return features | self._rank() if self.has_ranking else features

    def _rank(self) -> dict[str, torch.Tensor]:
        """Uses what the last block has just computed, so that no product with weights is computed twice."""
        queries, keys = self._split(self._queries.value[:, :1]), self._split(self._keys.value)
        scores = queries @ keys.transpose(-1, -2) * keys.shape[-1] ** -0.5
        attention = torch.softmax(scores, -1)[:, :, 0, 1:]
        return {"cls_attention": attention.mean(1), "patch_keys": keys[:, :, 1:].mean(1)}

    def _split(self, rows: torch.Tensor) -> torch.Tensor:
        """Splits rows (B, R, D) into heads: (B, heads, R, D / heads)."""
        return rows.reshape(*rows.shape[:2], self.config.num_attention_heads, -1).transpose(1, 2)


class _Output:
    """The last output of a layer.

    Attributes:
        value: (B, 1 + P, D).
    """

    value: torch.Tensor

    def __init__(self, layer: torch.nn.Linear) -> None:
        layer.register_forward_hook(self._note)

    def _note(self, layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        self.value = output


def build_tower(checkpoint: Checkpoint) -> TrimmedTower:
    """Builds the trimmed tower with the checkpoint's weights in float32.

    Raises:
        CheckpointError: If the tower's activation is unknown, or weights are not finite.
    """
    tower = checkpoint.tower
    config = CLIPVisionConfig(
        hidden_size=tower.hidden_size,
        intermediate_size=tower.intermediate_size,
        num_hidden_layers=checkpoint.n_blocks,
        num_attention_heads=tower.n_heads,
        image_size=tower.image_size,
        patch_size=tower.patch_size,
        layer_norm_eps=tower.layer_norm_eps,
        hidden_act=tower.hidden_act,
        attn_implementation="sdpa",
    )
    with torch.device("meta"):
        try:
            model = TrimmedTower(config, drop_cls=checkpoint.config.drop_cls)
        except KeyError as error:
            raise CheckpointError(f"the tower's activation {tower.hidden_act!r} is unknown.") from error
    weights, faults = {}, []
    for name in model.state_dict():
        own = name.replace("vision_model.", "vision.", 1)
        weights[name] = checkpoint.load(own).to(torch.float32)
        if not torch.isfinite(weights[name]).all():
            faults.append(f"{own} contains infinite or undefined numbers")
    if faults:
        raise CheckpointError(list_faults("the vision tower is damaged:", faults))
    model.load_state_dict(weights, assign=True)
    # a buffer that is not in the state dict and was made on the meta device
    n_positions = checkpoint.shape("vision.embeddings.position_embedding.weight")[0]
    model.vision_model.embeddings.position_ids = torch.arange(n_positions).expand((1, -1))
    model.eval()
    return model

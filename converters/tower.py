"""The vision tower in torch: transformers' CLIP, cut after the block that feeds the projector."""

from __future__ import annotations

import torch
from transformers import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPPreTrainedModel, CLIPVisionTransformer

from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.errors import CheckpointError, list_faults


class TrimmedTower(CLIPPreTrainedModel):
    """pixel_values (B, 3, S, S) float32 -> patch_features (B, P, D) float32.

    Runs `n_blocks` blocks; no post_layernorm, no pooling; the class row is dropped where the checkpoint says so.
    """

    config_class = CLIPVisionConfig
    main_input_name = "pixel_values"

    def __init__(self, config: CLIPVisionConfig, *, drop_cls: bool) -> None:
        super().__init__(config)
        self.vision_model = CLIPVisionTransformer(config)
        self.vision_model.post_layernorm = torch.nn.Identity()
        self._first_row = 1 if drop_cls else 0

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """See the class."""
        hidden = self.vision_model(pixel_values=pixel_values).last_hidden_state
        return {"patch_features": hidden[:, self._first_row :]}


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
            faults.append(f"{own} holds infinite or undefined numbers")
    if faults:
        raise CheckpointError(list_faults("the vision tower is damaged:", faults))
    model.load_state_dict(weights, assign=True)
    # a buffer that is not in the state dict and was made on no device
    n_positions = checkpoint.shape("vision.embeddings.position_embedding.weight")[0]
    model.vision_model.embeddings.position_ids = torch.arange(n_positions).expand((1, -1))
    model.eval()
    return model

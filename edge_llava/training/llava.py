"""The model to be trained: transformers' LLaVA with a frozen tower, and a projector that is an MLP or one matrix.

Source: LLaVA-1.5's llava_arch.py and builder.py (mlp2x_gelu); LLaVA-1's projector (linear).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase

from edge_llava.training.samples import IGNORED, SpecialTokens

ProjectorKind = Literal["mlp2x_gelu", "linear"]


@dataclass(frozen=True)
class Preprocessing:
    """How an image is prepared for the tower.

    Attributes:
        size: Side in pixels.
        mean, std: Normalization per channel.
        aspect: "pad" to a square with the mean colour, or "crop" the middle.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    aspect: str

    def to_config(self) -> dict[str, Any]:
        """Returns the contents of preprocessor_config.json."""
        config: dict[str, Any] = {
            "image_processor_type": "LlavaImageProcessor" if self.aspect == "pad" else "CLIPImageProcessor",
            "size": {"shortest_edge": self.size},
            "crop_size": {"height": self.size, "width": self.size},
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "do_pad": self.aspect == "pad",
        }
        return config


@dataclass(frozen=True)
class Llava:
    """A LLaVA in memory, in float32, with its tokenizer and preprocessing.

    Attributes:
        model: Tower, projector and language model.
        tokenizer: The language model's tokenizer; LLaMA's slow one if there is a tokenizer.model.
        special: Its special ids.
        preprocessing: How images are prepared.
    """

    model: LlavaForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    special: SpecialTokens
    preprocessing: Preprocessing

    @property
    def projector_kind(self) -> ProjectorKind:
        """Kind of the projector."""
        is_linear = isinstance(self.model.model.multi_modal_projector, LinearProjector)
        return "linear" if is_linear else "mlp2x_gelu"


class LinearProjector(torch.nn.Module):
    """LLaVA-1's projector: one matrix and a bias, no activation."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(n_in, n_out)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (..., E)."""
        rows: torch.Tensor = self.linear(features)
        return rows


class LlavaLoss(torch.nn.Module):
    """Computes the loss of a batch. The tower has no gradients in either stage."""

    def __init__(self, llava: Llava, *, train_language: bool) -> None:
        """
        Args:
            llava: The model to train; its parameters are marked as trained or not.
            train_language: Projector and language model (stage 2), or the projector alone (stage 1).
        """
        super().__init__()
        self.llava = llava.model
        self._image_token = llava.special.image
        self.llava.requires_grad_(False)
        self.llava.model.multi_modal_projector.requires_grad_(True)
        if train_language:
            self.llava.model.language_model.requires_grad_(True)
            self.llava.lm_head.requires_grad_(True)

    def train(self, mode: bool = True) -> LlavaLoss:
        """Puts everything into training mode except the tower, which stays as it will be deployed."""
        super().train(mode)
        self.llava.model.vision_tower.eval()
        return self

    def forward(self, ids: torch.Tensor, labels: torch.Tensor, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Computes the mean cross entropy of the labelled tokens.

        Args:
            ids: int64 (B, T), with the image token at the position of each patch; rows are padded at their ends.
            labels: int64 (B, T), IGNORED where nothing is learned.
            images: Images of all rows in order: pixel values (N, 3, S, S) or patch features (N, P, D).
        """
        core = self.llava.model
        is_patch = ids == self._image_token
        embeddings = core.get_input_embeddings()(ids.masked_fill(is_patch, 0))
        rows = core.multi_modal_projector(self._features(images).to(embeddings.dtype)).flatten(0, 1)
        if len(images):
            embeddings = embeddings.masked_scatter(is_patch[..., None], rows.to(embeddings.dtype))
        else:  # every batch must use the projector, since other devices wait for its gradients
            embeddings = embeddings + 0.0 * rows.sum()
        # no mask is needed: padding comes after a row's text, which does not attend to it
        hidden = core.language_model(inputs_embeds=embeddings).last_hidden_state
        learned = labels[:, 1:] != IGNORED
        logits = self.llava.lm_head(hidden[:, :-1][learned])
        return {"loss": F.cross_entropy(logits.float(), labels[:, 1:][learned])}

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        if not len(images):
            return images.new_zeros(1, 1, self.llava.config.vision_config.hidden_size)
        return images if images.ndim == 3 else patch_features(self.llava, images)


@torch.no_grad()
def patch_features(llava: LlavaForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """Returns the projector's input: (N, P, D) for pixel values (N, 3, S, S)."""
    states = llava.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    features: torch.Tensor = states[llava.config.vision_feature_layer]
    return features[:, 1:] if llava.config.vision_feature_select_strategy == "default" else features

"""transformers' classes for each kind of tower, for export and reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from edge_llava.converters.towers import CLIP, SIGLIP, TowerKind

try:
    from transformers.models.clip.modeling_clip import CLIPVisionTransformer
    from transformers.models.siglip.modeling_siglip import SiglipVisionTransformer
except ImportError:  # transformers 5.6 made one class of the two
    CLIPVisionTransformer, SiglipVisionTransformer = CLIPVisionModel, SiglipVisionModel

VisionConfig: TypeAlias = CLIPVisionConfig | SiglipVisionConfig


@dataclass(frozen=True)
class TowerClasses:
    """How transformers builds a kind of tower.

    Attributes:
        config: Its config, from keywords.
        transformer: Embeddings, blocks and last norm, from such a config.
        model: The whole tower, whose parameters have the names that files use.
    """

    config: Callable[..., VisionConfig]
    transformer: Callable[[Any], Any]
    model: Callable[[Any], nn.Module]


_CLASSES: Mapping[str, TowerClasses] = {
    CLIP.name: TowerClasses(CLIPVisionConfig, CLIPVisionTransformer, CLIPVisionModel),
    SIGLIP.name: TowerClasses(SiglipVisionConfig, SiglipVisionTransformer, SiglipVisionModel),
}


def find_classes(kind: TowerKind) -> TowerClasses:
    """The classes of a kind of tower."""
    return _CLASSES[kind.name]

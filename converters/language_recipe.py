"""What was measured of a language model, by which its matrices are quantized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gguf import GGMLQuantizationType as GgmlType

if TYPE_CHECKING:
    from edge_llava.converters.importance import Importance

Losses = Mapping[str, Mapping[GgmlType, float]]
"""By GGUF name and type; 0 is exact, and losses of different matrices compare."""


@dataclass(frozen=True, eq=False)
class LanguageRecipe:
    """How the matrices of the blocks are quantized, beyond the name of the quantization.

    Attributes:
        importance: What matters in each; None: everything the same.
        mix: Types by GGUF name, in place of those that the quantization would choose.
        losses: What was measured to choose the mix.
    """

    importance: Importance | None = None
    mix: Mapping[str, GgmlType] = field(default_factory=dict)
    losses: Losses = field(default_factory=dict)


PLAIN = LanguageRecipe()
"""Nothing was measured."""

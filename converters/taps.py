"""Where the features of a tower are taken from: after how many blocks, and without which rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edge_llava.errors import CheckpointError


@dataclass(frozen=True)
class FeatureTap:
    """What of a tower feeds the projector.

    Attributes:
        n_blocks: Blocks to run; what the last of them gives is not normalized.
        n_dropped_rows: Rows dropped from the front, 0 or 1. Where the tower has no class row, this is a patch.
    """

    n_blocks: int
    n_dropped_rows: int


@dataclass(frozen=True)
class TapChoice:
    """What a config says of its tower's features.

    Attributes:
        layer: Index into hidden_states, whose entry 0 is the input of the first block.
        drops_first_row: Whether the first row is to be dropped.
        n_layers: Blocks of the tower as stored.
        is_inside: Whether the checkpoint itself holds the tower.
    """

    layer: int
    drops_first_row: bool
    n_layers: int
    is_inside: bool


def find_tap(rule: str, choice: TapChoice) -> FeatureTap:
    """Finds the tap by a rule, one of TAP_RULES.

    Raises:
        CheckpointError: If the tower has too few blocks for the chosen state.
    """
    return TAP_RULES[rule](choice)


def count_blocks(feature_layer: int, n_layers: int) -> int:
    """Tower blocks to run for an index into hidden_states, whose entry 0 is the input of the first block.

    Raises:
        CheckpointError: If the tower has no such state.
    """
    n_blocks = feature_layer if feature_layer >= 0 else n_layers + 1 + feature_layer
    if not 0 < n_blocks <= n_layers:
        raise CheckpointError(
            f"the vision feature layer {feature_layer} does not exist in a tower of {n_layers} blocks."
        )
    return n_blocks


def _by_index(choice: TapChoice) -> FeatureTap:
    """The state of the index, whatever the tower: "default" drops the first row of a SigLIP, too, which is a patch.

    Source: transformers' LlavaModel.get_image_features; LLaVA's clip_encoder.py.
    """
    return FeatureTap(count_blocks(choice.layer, choice.n_layers), int(choice.drops_first_row))


def _without_last(choice: TapChoice) -> FeatureTap:
    """All blocks but the last of the tower as published, and all rows, whatever the config says.

    A tower inside a checkpoint was saved without that block.

    Source: LLaVA-NeXT's siglip_encoder.py, which deletes the last block and reads neither key.
    """
    n_blocks = choice.n_layers if choice.is_inside else choice.n_layers - 1
    return FeatureTap(count_blocks(n_blocks, choice.n_layers), 0)


TAP_RULES: Mapping[str, Callable[[TapChoice], FeatureTap]] = {"index": _by_index, "without_last": _without_last}

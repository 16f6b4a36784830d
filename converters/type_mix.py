"""Chooses a type for each matrix, so that together they take no more than a given size and lose the least."""

from __future__ import annotations

from collections.abc import Mapping

from gguf import GGMLQuantizationType as GgmlType

from edge_llava.converters.language_recipe import Losses
from edge_llava.converters.quant_types import encoded_bytes, fit_type
from edge_llava.errors import ConversionError

# What a matrix may be encoded as.
TYPES = (
    GgmlType.IQ2_XXS, GgmlType.IQ2_XS, GgmlType.IQ2_S, GgmlType.Q2_K, GgmlType.IQ3_XXS, GgmlType.IQ3_S, GgmlType.Q3_K,
    GgmlType.IQ4_XS, GgmlType.Q4_K, GgmlType.Q5_K, GgmlType.Q6_K, GgmlType.Q8_0,
)  # fmt: skip


def check_room(shapes: Mapping[str, tuple[int, ...]], n_bytes: int) -> None:
    """
    Raises:
        ConversionError: If the smallest types of all matrices take more.
    """
    least = sum(min(encoded_bytes(fit_type(type_, shape[-1]), shape) for type_ in TYPES) for shape in shapes.values())
    if least > n_bytes:
        raise ConversionError(
            f"the size leaves {max(0, n_bytes) / 1e6:,.1f} MB for the blocks of the language model, and their smallest "
            f"encoding takes {least / 1e6:,.1f} MB. Allow {(least - n_bytes) / 1e6:,.1f} MB more."
        )


def choose_mix(losses: Losses, shapes: Mapping[str, tuple[int, ...]], n_bytes: int) -> dict[str, GgmlType]:
    """Chooses the types.

    From the smallest types on, whatever gains most for each byte that it adds is taken, as long as there is room.

    Args:
        losses: Of every matrix in each type.
        shapes: Of the same matrices.
        n_bytes: What the matrices may take; enough for `check_room`.

    Returns:
        A type by GGUF name.
    """
    ladders = {name: _hull(by_type, shapes[name]) for name, by_type in losses.items()}
    chosen = {name: 0 for name in ladders}
    left = n_bytes - sum(ladder[0][0] for ladder in ladders.values())
    while True:
        steps = [
            (gain / added, name)
            for name, rung in chosen.items()
            if rung + 1 < len(ladders[name])
            for added, gain in [_step(ladders[name], rung)]
            if added <= left
        ]
        if not steps:
            return {name: ladders[name][rung][2] for name, rung in chosen.items()}
        name = max(steps)[1]
        left -= _step(ladders[name], chosen[name])[0]
        chosen[name] += 1


def _step(ladder: list[tuple[int, float, GgmlType]], rung: int) -> tuple[int, float]:
    """The bytes that the next rung adds, and the loss that it saves."""
    return ladder[rung + 1][0] - ladder[rung][0], ladder[rung][1] - ladder[rung + 1][1]


def _hull(by_type: Mapping[GgmlType, float], shape: tuple[int, ...]) -> list[tuple[int, float, GgmlType]]:
    """(bytes, loss, type) that are worth choosing, by size: each step saves less for a byte than the one before."""
    hull: list[tuple[int, float, GgmlType]] = []
    for size, loss, type_ in sorted((encoded_bytes(type_, shape), loss, type_) for type_, loss in by_type.items()):
        if hull and loss >= hull[-1][1]:
            continue
        if hull and size == hull[-1][0]:
            hull.pop()
        hull.append((size, loss, type_))
        while len(hull) >= 3 and _is_below(hull[-3:]):
            del hull[-2]
    return hull


def _is_below(three: list[tuple[int, float, GgmlType]]) -> bool:
    """Whether the step to the third saves more for a byte than the one to the second."""
    (added, gain), (added_next, gain_next) = _step(three, 0), _step(three, 1)
    return gain_next * added > gain * added_next

"""Fewer rows for an image: the patches that are looked at most, and the others merged into a few.

Source: VisionZip, arXiv 2412.04467: "dominant" and "contextual" tokens, taken between tower and projector. Other than
there the class token itself is no row, as LLaVA never had one; a merged row is the mean of its patches, as large as
theirs; and all rows keep the order of the patches, as LLaVA was trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_llava.bundle.vision_spec import VisionSpec
from edge_llava.errors import BundleError

_FEWEST = 2  # one dominant, one contextual
_DOMINANT, _OF = 27, 32  # VisionZip's 54 of 64, 108 of 128, 162 of 192
_SMALLEST = 1e-30


@dataclass(frozen=True, eq=False)
class RankedPatches:
    """One square as the tower sees it.

    Attributes:
        features: float32 (P, D).
        attention: float32 (P,): of the class token to each patch, in the last block, mean over heads; of all patches
            where the tower has no class token.
        keys: float32 (P, D / heads): of each patch there, mean over heads.
    """

    features: NDArray[np.float32]
    attention: NDArray[np.float32]
    keys: NDArray[np.float32]


def check_visual_tokens(n: int | None, spec: VisionSpec) -> None:
    """Refuses a number of rows that a tower's images cannot have; None: all.

    Raises:
        BundleError: If the bundle cannot give so many, or fewer at all.
    """
    if n is None:
        return
    if spec.aspect == "anyres":
        raise BundleError(
            "this bundle cuts images into tiles (anyres): their tokens cannot be reduced. Leave --visual-tokens out."
        )
    if not spec.has_patches_only:
        why = "keeps its class token, by which patches would be ranked" if spec.has_class_row else "drops a patch"
        raise BundleError(f"this bundle's tower {why}: its tokens cannot be reduced. Leave --visual-tokens out.")
    if not _FEWEST <= n < spec.n_features:
        raise BundleError(
            f"this bundle gives an image {spec.n_features} tokens: --visual-tokens takes "
            f"{_FEWEST} to {spec.n_features - 1}, not {n}. Leave it out to keep all."
        )
    if spec.ranking == "none":
        raise BundleError(
            "this bundle was converted before its tower could rank patches. Convert the checkpoint again to use "
            "--visual-tokens."
        )


def reduce_tokens(patches: RankedPatches, n: int) -> NDArray[np.float32]:
    """n rows for the projector, 2 to P - 1, in the order of the patches: float32 (n, D), C-contiguous.

    The dominant ones are the patches with the most attention; of equal ones the earlier. Of the rest, evenly spaced
    ones become contextual: every other patch joins the one with the most similar key (cosine; of equal ones the
    earlier), and the mean of such a group is its row, at the place of the one that others joined.
    """
    n_dominant = min(n - 1, (_DOMINANT * n + _OF // 2) // _OF)
    ranking = np.argsort(-patches.attention, kind="stable")
    dominant, rest = ranking[:n_dominant], np.sort(ranking[n_dominant:])
    places = np.arange(n - n_dominant) * len(rest) // (n - n_dominant)
    rows = np.concatenate([patches.features[dominant], _merge(patches, rest, places)])
    return rows[np.argsort(np.concatenate([dominant, rest[places]]))]


def _merge(patches: RankedPatches, rest: NDArray[np.intp], places: NDArray[np.intp]) -> NDArray[np.float32]:
    """The mean features (groups, D) of the patches `rest`, where those at `places` in it are joined by the others."""
    keys = patches.keys / np.maximum(np.linalg.norm(patches.keys, axis=1, keepdims=True), _SMALLEST)
    joined = (keys[rest] @ keys[rest[places]].T).argmax(1)
    joined[places] = np.arange(len(places))  # whatever its key: equal ones would join the first of them
    order = np.argsort(joined, kind="stable")
    starts = np.searchsorted(joined[order], np.arange(len(places)))
    sums = np.add.reduceat(patches.features[rest[order]], starts, dtype=np.float64)
    means: NDArray[np.float32] = (sums / np.bincount(joined)[:, None]).astype(np.float32)
    return means

"""Fewer rows for an image: patches that are looked at, and that stand for the others.

Source: SCOPE, arXiv 2510.24214: a greedy choice by saliency times gain in coverage, between tower and projector. Its
exponent of the saliency was measured on the demo. All rows keep the order of the patches, as LLaVA was trained.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_llava.bundle.vision_spec import VisionSpec
from edge_llava.errors import BundleError

_FEWEST = 2
_ATTENTION_POWER = 0.15
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
    """n patches for the projector, 2 to P - 1, in their order: float32 (n, D), C-contiguous.

    They are chosen one after another: the next is the one that adds most to what is seen of the others, times the
    attention it receives, to the power of 0.15. What is seen of a patch is its largest cosine to one that was chosen,
    0 at least. Of equal ones the earlier comes first.
    """
    features = patches.features
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), _SMALLEST)
    similarity = np.maximum(unit @ unit.T, 0)
    weights = (patches.attention / max(float(patches.attention.max()), _SMALLEST)) ** _ATTENTION_POWER
    rows: NDArray[np.float32] = features[np.sort(_choose(similarity, weights, n))]
    return rows


def _choose(similarity: NDArray[np.float32], weights: NDArray[np.float32], n: int) -> list[int]:
    """What a patch adds only becomes less: one that adds most by an older figure, and still does, is the next."""
    seen = np.zeros(len(weights), np.float32)
    gains = [(-float(gain), index) for index, gain in enumerate(weights * similarity.sum(1))]
    heapq.heapify(gains)
    chosen: list[int] = []
    while len(chosen) < n:
        _, index = heapq.heappop(gains)
        gain = float(weights[index] * np.maximum(similarity[index] - seen, 0).sum())
        if not gains or (-gain, index) <= gains[0]:
            chosen.append(index)
            np.maximum(seen, similarity[index], out=seen)
        else:
            heapq.heappush(gains, (-gain, index))
    return chosen

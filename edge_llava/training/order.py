"""The order in which samples are seen: shuffled batches of similar lengths, either with or without images.

Source: LLaVA's group_by_modality_length, with larger groups, so that rows of a batch need little padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_GROUP = 50  # batches sorted by length together


def draw_order(lengths: Sequence[int], has_image: Sequence[bool], batch: int, n_epochs: int, seed: int) -> np.ndarray:
    """Chooses the order of all epochs at random.

    Args:
        lengths: Positions of each sample.
        has_image: Whether each sample has an image; all samples of a batch do, or none.
        batch: Samples in a step's batch, over all devices.
        n_epochs: How often each sample is seen.
        seed: Seed of all choices.

    Returns:
        int64 (n_epochs * N,): indices of samples. Full batches come first, epoch by epoch; the remainders come last.
    """
    random = np.random.default_rng(seed)
    sizes, kinds = np.asarray(lengths), np.asarray(has_image, bool)
    ordered: list[np.ndarray] = []
    rest: list[np.ndarray] = []
    for _ in range(n_epochs):
        batches = []
        for kind in (True, False):
            indices = random.permutation(np.flatnonzero(kinds == kind))
            for start in range(0, len(indices), _GROUP * batch):
                group = indices[start : start + _GROUP * batch]
                group = group[np.argsort(-sizes[group], kind="stable")]
                full = len(group) // batch * batch
                batches += list(group[:full].reshape(-1, batch))
                rest.append(group[full:])
        ordered += [batches[index] for index in random.permutation(len(batches))]
    return np.concatenate([np.zeros(0, np.int64), *ordered, *rest])

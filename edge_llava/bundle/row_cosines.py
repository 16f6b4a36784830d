"""How close rows of numbers are to their reference."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SMALLEST = 1e-30  # of a product of norms; rows of zeros have the cosine 0


def row_cosines(ours: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float64]:
    """The cosine similarity of every row, computed in float64.

    Args:
        ours, reference: Of one shape (..., D).

    Returns:
        float64 (N,), all leading axes in one.
    """
    a, b = (rows.reshape(-1, rows.shape[-1]).astype(np.float64) for rows in (ours, reference))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: NDArray[np.float64] = (a * b).sum(1) / np.maximum(norms, _SMALLEST)
    return cosines

"""Converts a CLIP checkpoint whose patches are ranked as a SigLIP's are, to see what that ranking is worth.

    python benchmarks/ranked_by_patches.py edge_llava/demo/llava-scenes demo-by-patches --quant F16
    edge-llava eval scenes -m demo-by-patches -t 1 --seed 1 --n 1000 --visual-tokens 32

`--visual-tokens` weighs patches by the attention they receive: from the class row or, in a SigLIP, which has none,
from all patches. No trained SigLIP was small enough to be measured here, but both rankings can be compared in a
tower that has the row: attention is computed among the patches alone, and everything else stays as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from edge_llava.conversion.convert import convert
from edge_llava.converters import tower
from edge_llava.converters.options import ConvertOptions


def rank_without_class_row(
    queries: torch.Tensor, keys: torch.Tensor, n_heads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """As a SigLIP's, of rows (B, 1 + P, D) whose first is the class row."""
    return tower._RANKINGS["received_attention"](queries[:, 1:], keys[:, 1:], n_heads)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--quant", default="F16")
    arguments = parser.parse_args()
    tower._RANKINGS = {**tower._RANKINGS, "class_attention": rank_without_class_row}
    convert(arguments.checkpoint, arguments.out, ConvertOptions(quant=arguments.quant))

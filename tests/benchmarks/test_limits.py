"""The work that limits are compared with, counted in files and by hand."""

from __future__ import annotations

import pytest
from limits import language_work, tower_macs

from edge_llava.bundle.bundle import Bundle

pytestmark = pytest.mark.convert


def test_tower(converted_q4):
    bundle = Bundle.open(converted_q4)
    n_rows, width, ff, n_blocks = 65, 256, 512, 3  # the fourth block is cut off
    ranking = n_rows**2 * width  # the last block's attention once more: where the class token looks
    by_hand = (
        ranking
        + 64 * width * 3 * 14 * 14
        + n_blocks * (n_rows * (4 * width**2 + 2 * width * ff) + 2 * n_rows**2 * width)
    )
    assert tower_macs(bundle.file("vision"), bundle.manifest.vision) == by_hand


def test_language_model(converted_f32):
    bundle = Bundle.open(converted_f32)
    work = language_work(bundle.file("language"), bundle.manifest.language, "f32")
    n_layer, width, ff, n_tokens = 4, 256, 768, 512
    matrices = n_layer * (4 * width**2 + 3 * width * ff)
    assert work.prefill_macs == matrices
    assert work.weight_bytes == 4 * (matrices + n_tokens * width + (2 * n_layer + 1) * width)
    assert work.kv_bytes == 2 * n_layer * width * 4

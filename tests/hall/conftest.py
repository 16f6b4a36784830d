"""A manifest that is valid, a bundle without weights that opens, and damage by seed."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

MANIFEST: dict[str, Any] = {
    "format_version": 1,
    "created_by": "edge-llava 0.1.0",
    "source": {"name": "llava-hf/llava-1.5-7b-hf", "revision": "8c85e9a", "layout": "hf", "license_files": ["LICENSE"]},
    "vision": {
        "image_size": 336,
        "patch_size": 14,
        "hidden_size": 1024,
        "feature_layer": -2,
        "drop_cls": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "aspect": "crop",
        "grid_pinpoints": [],
        "merge": "flat",
        "has_newline": False,
        "precision": "fp16",
    },
    "projector": {"kind": "mlp2x_gelu", "in_features": 1024, "out_features": 4096, "quant": "Q6_K"},
    "language": {
        "n_embd": 4096,
        "n_layer": 32,
        "n_head": 32,
        "n_head_kv": 32,
        "n_vocab": 32000,
        "n_ctx_train": 4096,
        "quant": "Q4_K_M",
        "template": "llava_v1",
        "image_marks": False,
        "bos": 1,
        "eos": 2,
    },
    "files": {},
    "parity": {
        "vision": {
            "cosine_mean": 0.9999,
            "cosine_min": 0.999,
            "max_abs": 0.01,
            "tokens_equal": None,
            "tokens_total": None,
        },
        "language": {
            "cosine_mean": 0.99,
            "cosine_min": 0.98,
            "max_abs": 1,
            "tokens_equal": 15,
            "tokens_total": 16,
        },
    },
}
CONTENTS = {
    "vision": ("vision.onnx", b"tower" * 1000),
    "vision_data": ("vision.onnx.data", bytes(range(256)) * 64),
    "projector": ("projector.gguf", b"projector" * 77),
    "language": ("language.gguf", b"language" * 4096),
    "parity": ("parity.safetensors", b"parity"),
}


@pytest.fixture
def manifest_data() -> dict[str, Any]:
    """The JSON of a valid manifest, for tests that damage it."""
    data = copy.deepcopy(MANIFEST)
    data["files"] = {
        role: {"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for role, (path, content) in CONTENTS.items()
    }
    return data


@pytest.fixture
def small_bundle(tmp_path: Path, manifest_data: dict[str, Any]) -> Path:
    """A bundle directory that opens; its files contain no weights."""
    return write_bundle(tmp_path / "small", manifest_data)


@pytest.fixture
def add_bundle(manifest_data: dict[str, Any]) -> Callable[[Path], Path]:
    """add_bundle(directory): writes a bundle that opens there."""
    return lambda directory: write_bundle(directory, manifest_data)


@pytest.fixture(scope="session")
def damage() -> Callable[[bytes, random.Random, Sequence[int]], bytes]:
    """damage(header, random, places): one to four changes at some of the places.

    Each is a flipped bit, another byte, or a number that counts and sizes fear.
    """

    def change(header: bytes, rng: random.Random, places: Sequence[int]) -> bytes:
        damaged = bytearray(header)
        for _ in range(rng.choice((1, 1, 2, 4))):
            at, kind = rng.choice(places), rng.randrange(3)
            if kind == 0:
                damaged[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                damaged[at] = rng.randrange(256)
            else:
                n = rng.choice((4, 8))
                number = rng.choice((0, 1, 31, 255, 2**16, 2**24, 2**31 - 1, 2**32 - 1, 2**63, 2**64 - 1))
                damaged[at : at + n] = (number % 2 ** (8 * n)).to_bytes(n, "little")
        return bytes(damaged[: len(header)])

    return change


def write_bundle(directory: Path, manifest_data: dict[str, Any]) -> Path:
    directory.mkdir(parents=True)
    for path, content in CONTENTS.values():
        (directory / path).write_bytes(content)
    (directory / "manifest.json").write_text(json.dumps(manifest_data), encoding="utf-8")
    return directory

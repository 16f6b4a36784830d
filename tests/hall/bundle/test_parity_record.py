"""The record that lets a device check itself: what is saved is loaded, it stays small, and damage is noticed."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edge_llava.bundle.parity_record import (
    N_SAMPLED_ROWS,
    N_TOKENS,
    PIXEL_STRIDE,
    ParityRecord,
    make_reference_images,
    sample_rows,
)
from edge_llava.errors import BundleError


def make_record(n_embd: int = 64, width: int = 32, n_vocab: int = 100, side: int = 56) -> ParityRecord:
    rng = np.random.default_rng(0)
    images, n_pixels = make_reference_images(), len(range(0, side, PIXEL_STRIDE))
    rows = sample_rows((side // 14) ** 2)

    def noise(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return ParityRecord(
        images=images,
        pixels=tuple(noise(1, 3, n_pixels, n_pixels) for _ in images),
        rows=rows,
        features=noise(len(images), len(rows), width),
        embeddings=noise(len(images), len(rows), n_embd),
        before=np.arange(4, dtype=np.int64),
        after=np.arange(9, dtype=np.int64),
        tokens=np.arange(N_TOKENS, dtype=np.int64),
        reference_tokens=np.arange(N_TOKENS, dtype=np.int64) + 1,
        logits=noise(n_vocab),
    )


def same(a: object, b: object) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)


def test_round_trip(tmp_path: Path) -> None:
    record = make_record()
    record.save(tmp_path / "parity.safetensors")
    loaded = ParityRecord.load(tmp_path / "parity.safetensors")
    assert [
        field.name for field in fields(record) if not same(*(getattr(r, field.name) for r in (record, loaded)))
    ] == []


def test_views_are_saved_as_what_they_show(tmp_path: Path) -> None:
    """Every 8th row and column of an array is a view with strides."""
    whole = np.arange(3 * 32 * 32, dtype=np.float32).reshape(1, 3, 32, 32)
    view = whole[..., ::PIXEL_STRIDE, ::PIXEL_STRIDE]
    record = make_record()
    object.__setattr__(record, "pixels", (view, view))
    record.save(tmp_path / "r")
    assert np.array_equal(ParityRecord.load(tmp_path / "r").pixels[1], view)


def test_a_7b_model_has_a_record_under_2_mb(tmp_path: Path) -> None:
    make_record(n_embd=4096, width=1024, n_vocab=32000, side=336).save(tmp_path / "r")
    assert 500_000 < (tmp_path / "r").stat().st_size < 2_000_000


def test_reference_images_are_the_same_everywhere() -> None:
    wide, tall = make_reference_images()
    assert (wide.shape, wide.dtype) == ((112, 160, 3), np.uint8)
    assert (tall.shape, tall.dtype) == ((140, 90, 3), np.uint8)
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in (wide, tall)]
    assert digests == [
        "f3b9d672c038c9bf09c73a1deaa04d0435c75c485c7531cf0543ddec3285cc71",
        "689c6c361e88c150a22ac74c4d713ad55461683fd5405084b870e2ed3952b141",
    ]


@pytest.mark.parametrize(("n_features", "n_rows"), [(576, 16), (577, 16), (16, 16), (9, 9), (1, 1)])
def test_sampled_rows(n_features: int, n_rows: int) -> None:
    rows = sample_rows(n_features)
    assert (rows.dtype, len(rows)) == (np.int64, n_rows)
    assert (rows[0], rows[-1]) == (0, n_features - 1)
    gaps = np.diff(rows)
    assert len(gaps) == 0 or 0 < gaps.min() <= gaps.max() <= gaps.min() + 1
    assert n_rows <= N_SAMPLED_ROWS


def refuse(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        ParityRecord.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is damaged: ")
    assert message.endswith(". Convert the checkpoint again.")
    return message


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nowhere cannot be read: No such file or directory"):
        ParityRecord.load(tmp_path / "nowhere")


def test_missing_tensor(tmp_path: Path) -> None:
    make_record().save(tmp_path / "r")
    for name in load_file(tmp_path / "r"):
        tensors = load_file(tmp_path / "r")
        del tensors[name]
        save_file(tensors, tmp_path / "less")
        if name == "picture.1":  # images are counted, and the last one is not missed
            assert len(ParityRecord.load(tmp_path / "less").images) == 1
        else:
            assert name in refuse(tmp_path / "less")


@pytest.mark.parametrize("change", [lambda x: x.astype(np.float64), lambda x: x[None]], ids=["type", "axes"])
def test_tensor_of_another_kind(tmp_path: Path, change: object) -> None:
    make_record().save(tmp_path / "r")
    tensors = load_file(tmp_path / "r")
    for name in tensors:
        save_file(tensors | {name: change(tensors[name])}, tmp_path / "other")  # type: ignore[operator]
        assert f"{name} is " in refuse(tmp_path / "other")


@pytest.mark.parametrize(("dtype", "per_float"), [("BF16", 2), ("F8_E4M3", 4)])
def test_tensor_of_a_type_that_numpy_lacks(tmp_path: Path, dtype: str, per_float: int) -> None:
    make_record().save(tmp_path / "r")
    data = (tmp_path / "r").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["logits"] |= {"dtype": dtype, "shape": [header["logits"]["shape"][0] * per_float]}
    text = json.dumps(header).encode()
    (tmp_path / "r").write_bytes(len(text).to_bytes(8, "little") + text + data[start:])
    refuse(tmp_path / "r")


def test_damaged_header_is_refused_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "r"
    make_record().save(path)
    data = path.read_bytes()
    n_header = 8 + int.from_bytes(data[:8], "little")
    rng, n_refused = random.Random(0), 0
    for i in range(600):
        damaged = bytearray(data)
        for _ in range(1 + i % 3):
            damaged[rng.randrange(n_header)] = rng.choice(
                (0, 255, rng.randrange(256), rng.choice(b'0123456789",:[]{}'))
            )
        path.write_bytes(damaged)
        try:
            ParityRecord.load(path)
        except BundleError:
            n_refused += 1
    assert n_refused > 300


def test_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r"
    make_record().save(path)
    data = path.read_bytes()
    for size in [0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:size])
        refuse(path)


def test_file_that_is_something_else(tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_bytes(b"GGUF" + bytes(1000))
    refuse(path)


@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        ("picture.0", np.zeros((9, 16, 8), np.uint8), "picture.0 has the shape (9, 16, 8), which is not an image's"),
        ("picture.1", np.zeros((0, 16, 3), np.uint8), "picture.1 has the shape (0, 16, 3), which is not an image's"),
        ("features", np.full((2, 16, 32), np.nan, np.float32), "features contains infinite or undefined numbers"),
        ("logits", np.full(100, -np.inf, np.float32), "logits contains infinite or undefined numbers"),
    ],
)
def test_values_that_cannot_be_compared(tmp_path: Path, name: str, tensor: np.ndarray, reason: str) -> None:
    make_record().save(tmp_path / "r")
    save_file(load_file(tmp_path / "r") | {name: tensor}, tmp_path / "r")
    assert refuse(tmp_path / "r") == f"{tmp_path / 'r'} is damaged: {reason}. Convert the checkpoint again."

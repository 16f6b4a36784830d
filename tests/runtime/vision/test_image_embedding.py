from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edge_llava.errors import ImageError
from edge_llava.runtime.vision.image_embedding import ImageEmbedding

METADATA = {
    "format": "edge-llava image embedding 1",
    "key": "ab" * 32,
    "grid": "[2, 3]",
    "image_size": "[640, 480]",
    "vision_sha256": "cd" * 32,
    "projector_sha256": "ef" * 32,
}


def make(data: np.ndarray) -> ImageEmbedding:
    return ImageEmbedding(data, "ab" * 32, (2, 3), (640, 480), "cd" * 32, "ef" * 32, vision_s=1.5, projector_s=0.5)


@pytest.fixture
def rows():
    return np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)


def test_what_it_says(rows):
    embedding = make(rows)
    assert (embedding.n_tokens, embedding.n_embd) == (6, 4)
    with pytest.raises(ValueError, match="read-only"):
        embedding.data[0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        embedding.key = "0"


@pytest.mark.parametrize(
    "data",
    [
        np.zeros((2, 3), np.float64),
        np.zeros((2, 3), np.float16),
        np.zeros((2, 3), ">f4"),
        np.zeros(3, np.float32),
        np.zeros((1, 2, 3), np.float32),
        np.zeros((0, 3), np.float32),
        np.zeros((3, 0), np.float32),
        np.asfortranarray(np.zeros((2, 3), np.float32)),
        np.zeros((2, 6), np.float32)[:, ::2],
    ],
    ids=lambda data: f"{data.dtype.str} {data.shape} {data.strides}",
)
def test_wrong_data_is_refused(data):
    with pytest.raises(ImageError) as caught:
        make(data)
    assert str(caught.value) == (
        f"an image embedding must be C-contiguous float32 (n_tokens, n_embd), not {data.dtype} {data.shape}."
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(value, rows):
    rows[5, 3] = value
    with pytest.raises(ImageError, match=r"^an image embedding holds infinite or undefined numbers"):
        make(rows)


def test_float32_round_trip_is_exact(rows, tmp_path):
    path = tmp_path / "a.safetensors"
    make(rows).save(path)
    loaded = ImageEmbedding.load(str(path))
    assert loaded.data.tobytes() == rows.tobytes()
    assert not loaded.data.flags.writeable
    expected = dataclasses.replace(make(rows), vision_s=0, projector_s=0)
    fields = [field.name for field in dataclasses.fields(ImageEmbedding) if field.name != "data"]
    assert [getattr(loaded, name) for name in fields] == [getattr(expected, name) for name in fields]
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_float16_rounds(rows, tmp_path):
    path = tmp_path / "a.safetensors"
    make(rows).save(path, "float16")
    assert load_file(path)["embedding"].dtype == np.float16
    assert ImageEmbedding.load(path).data.tobytes() == rows.astype(np.float16).astype(np.float32).tobytes()


def test_the_file_is_what_the_documentation_says(rows, tmp_path):
    from safetensors import safe_open

    path = tmp_path / "a.safetensors"
    make(rows).save(path)
    with safe_open(path, framework="numpy") as file:
        assert file.metadata() == METADATA
        assert file.keys() == ["embedding"]
        np.testing.assert_array_equal(file.get_tensor("embedding"), rows)


def test_float16_overflow(rows, tmp_path):
    rows[0, 0] = 70_000
    with pytest.raises(ImageError, match=r"^the embedding holds numbers beyond float16. Save it as float32.$"):
        make(rows).save(tmp_path / "a.safetensors", "float16")
    assert list(tmp_path.iterdir()) == []
    make(rows).save(tmp_path / "a.safetensors")
    assert ImageEmbedding.load(tmp_path / "a.safetensors").data[0, 0] == 70_000


def test_save_replaces(rows, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"older")
    make(rows).save(path)
    assert ImageEmbedding.load(path).data.tobytes() == rows.tobytes()


@pytest.mark.parametrize("target", ["missing/a.safetensors", "directory"])
def test_save_where_it_cannot(target, rows, tmp_path):
    (tmp_path / "directory").mkdir()
    with pytest.raises(ImageError) as caught:
        make(rows).save(tmp_path / target)
    assert str(tmp_path / target) in str(caught.value)
    assert str(caught.value).endswith(" Name another file with -o.")
    assert [file.name for file in tmp_path.rglob("*")] == ["directory"]


def test_missing_file(tmp_path):
    with pytest.raises(ImageError) as caught:
        ImageEmbedding.load(tmp_path / "none")
    assert str(caught.value) == f"there is no file {tmp_path / 'none'}."
    with pytest.raises(ImageError, match=r"^there is no file"):
        ImageEmbedding.load(tmp_path)


def test_truncated_and_damaged(rows, tmp_path):
    path = tmp_path / "a.safetensors"
    make(rows).save(path)
    data = path.read_bytes()
    for damaged in (b"", data[:7], data[: len(data) // 2], data[:-1], b"\xff" * 8 + data[8:], data[:8] + b"\0" * 60):
        path.write_bytes(damaged)
        with pytest.raises(ImageError) as caught:
            ImageEmbedding.load(path)
        assert str(caught.value).startswith(f"{path} is damaged: ")


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        (["embedding"], None),
        (["embedding"], METADATA | {"format": "edge-llava image embedding 2"}),
        (["embedding", "more"], METADATA),
        (["other"], METADATA),
    ],
)
def test_foreign_file(tensors, metadata, rows, tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({name: rows for name in tensors}, path, metadata)
    with pytest.raises(ImageError) as caught:
        ImageEmbedding.load(path)
    assert str(caught.value).startswith(f"{path} is not an image embedding. Make one: edge-llava embed")


@pytest.mark.parametrize("field", ["key", "grid", "image_size", "vision_sha256", "projector_sha256"])
def test_missing_metadata(field, rows, tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"embedding": rows}, path, {name: text for name, text in METADATA.items() if name != field})
    with pytest.raises(ImageError, match=f"is damaged: '{field}'"):
        ImageEmbedding.load(path)


@pytest.mark.parametrize("grid", ["", "2", "[2]", "[1, 2, 3]", '["a", "b"]', "null", "[1, Infinity]", "[1, null]"])
def test_wrong_metadata(grid, rows, tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"embedding": rows}, path, METADATA | {"grid": grid})
    with pytest.raises(ImageError, match="is damaged: "):
        ImageEmbedding.load(path)


def test_wrong_tensor_in_a_file(rows, tmp_path):
    path = tmp_path / "a.safetensors"
    for wrong in (rows[0], np.full((2, 2), np.nan, np.float32), np.full((2, 2), 1e300)):
        save_file({"embedding": wrong}, path, METADATA)
        with pytest.raises(ImageError, match=r"^an image embedding"):
            ImageEmbedding.load(path)


def test_rounded_rows_have_a_key_of_their_own(rows, tmp_path):
    exact = make(rows)
    exact.save(tmp_path / "half", "float16")
    exact.save(tmp_path / "whole")
    keys = {exact.key, ImageEmbedding.load(tmp_path / "half").key, ImageEmbedding.load(tmp_path / "whole").key}
    assert len(keys) == 2


def test_the_callers_array_stays_writable(rows):
    embedding = make(rows)
    assert rows.flags.writeable
    assert not embedding.data.flags.writeable

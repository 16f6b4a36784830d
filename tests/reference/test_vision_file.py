"""Places of weights outside of vision.onnx: found wherever they stand, and refused unless the manifest lists them."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.manifest import FileEntry
from edge_llava.bundle.vision_file import check_vision_file, external_locations
from edge_llava.errors import BundleError
from edge_llava.runtime.options import EngineOptions
from edge_llava.runtime.vision.image_encoder import ImageEncoder

onnx = pytest.importorskip("onnx")
TensorProto, helper = onnx.TensorProto, onnx.helper

pytestmark = pytest.mark.convert


def external(location: str, name: str = "w") -> Any:
    tensor = helper.make_tensor(name, TensorProto.FLOAT, [1], np.ones(1, np.float32).tobytes(), raw=True)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def graph(nodes: Sequence[Any] = (), initializers: Sequence[Any] = (), sparse: Sequence[Any] = ()) -> Any:
    return helper.make_graph(nodes, "g", [], [], initializers, sparse_initializer=sparse)


def constant(value: Any) -> Any:
    return helper.make_node("Constant", [], ["c"], value=value)


def branch(inner: Any) -> Any:
    return helper.make_node("If", ["x"], ["y"], then_branch=inner)


def sparse(values: str, indices: str) -> Any:
    return onnx.SparseTensorProto(values=external(values), indices=external(indices), dims=[1])


def in_training(location: str) -> Any:
    model = helper.make_model(graph())
    model.training_info.add(initialization=graph(), algorithm=graph([], [external(location)]))
    return model


def in_function(location: str) -> Any:
    node = constant(external(location))
    function = helper.make_function("d", "f", [], ["c"], [node], [helper.make_opsetid("", 17)])
    return helper.make_model(graph(), functions=[function])


@pytest.mark.parametrize(
    ("model", "places"),
    [
        (helper.make_model(graph()), set()),
        (helper.make_model(graph([], [external("a"), external("../b", "v")])), {"a", "../b"}),
        (helper.make_model(graph([], [], [sparse("a", "b")])), {"a", "b"}),
        (helper.make_model(graph([constant(external("a"))])), {"a"}),
        (helper.make_model(graph([branch(graph([branch(graph([], [external("a")]))]))])), {"a"}),
        (helper.make_model(graph([], [external("*/_ORT_MEM_ADDR_/*")])), {"*/_ORT_MEM_ADDR_/*"}),
        (in_training("a"), {"a"}),
        (in_function("a"), {"a"}),
    ],
    ids=["none", "initializers", "sparse", "attribute", "branches", "address", "training", "function"],
)
def test_every_place_is_found(tmp_path: Path, model: Any, places: set[str]) -> None:
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert external_locations(tmp_path / "m.onnx") == places


def test_place_in_a_graph_in_two_parts(tmp_path: Path) -> None:
    """A field that occurs twice is one message to every reader."""
    part = helper.make_model(graph([], [external("a")])).SerializeToString()
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph()).SerializeToString() + part)
    assert external_locations(tmp_path / "m.onnx") == {"a"}
    assert [
        t.external_data[0].value
        for t in onnx.load_model(tmp_path / "m.onnx", load_external_data=False).graph.initializer
    ] == ["a"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no model", "field of the unknown kind"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "number of more than 64 bits"),
        (b"\x3a\x05\x0a", "truncated"),
        (b"\x3a", "truncated"),
    ],
)
def test_bytes_that_are_no_model(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(BundleError, match=reason):
        external_locations(tmp_path / "m.onnx")


def test_graphs_nested_without_end(tmp_path: Path) -> None:
    def field(number: int, data: bytes) -> bytes:
        length, n = b"", len(data)
        while n > 127:
            length, n = length + bytes([n & 127 | 128]), n >> 7
        return bytes([number << 3 | 2]) + length + bytes([n]) + data

    data = b""
    for _ in range(2000):
        data = field(1, field(5, field(6, data)))
    (tmp_path / "m.onnx").write_bytes(field(7, data))
    with pytest.raises(BundleError, match="nested more than 64 deep"):
        external_locations(tmp_path / "m.onnx")


def test_damage_is_refused_or_read_and_nothing_else(tmp_path: Path) -> None:
    whole = helper.make_model(graph([branch(graph([], [external("a")]))], [external("b")])).SerializeToString()
    path, rng = tmp_path / "m.onnx", random.Random("onnx damage")
    refused = 0
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 2, 4))):
            data[rng.randrange(len(data))] = rng.choice((rng.randrange(256), 0xFF, 0x80, 0))
        path.write_bytes(data[: rng.choice((len(data), rng.randrange(len(data))))])
        try:
            external_locations(path)
        except BundleError:
            refused += 1
    assert 50 < refused < 500


@pytest.fixture
def copied(seeded_f32: Path, tmp_path: Path) -> Bundle:
    shutil.copytree(seeded_f32, tmp_path / "b")
    return Bundle.open(tmp_path / "b")


def edit_model(bundle: Bundle, change: Callable[[Any], None]) -> None:
    model = onnx.load_model(bundle.file("vision"), load_external_data=False)
    change(model)
    bundle.file("vision").write_bytes(model.SerializeToString())


def move_weights(location: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location

    return change


def test_listed_data_is_read(copied: Bundle) -> None:
    assert external_locations(copied.file("vision")) == {"vision.onnx.data"}
    check_vision_file(copied)
    ImageEncoder(copied, EngineOptions()).close()


@pytest.mark.parametrize("kind", ["another", "hard link", "link", "outside"])
def test_other_file_is_refused(copied: Bundle, tmp_path: Path, kind: str) -> None:
    data, other = copied.file("vision_data"), copied.path / "other.data"
    if kind == "another":
        shutil.copy(data, other)
    elif kind == "hard link":
        os.link(data, other)
    elif kind == "link":
        other.symlink_to(data)
    else:
        shutil.copy(data, tmp_path / "other.data")
    location = "../other.data" if kind == "outside" else "other.data"
    edit_model(copied, move_weights(location))
    with pytest.raises(BundleError) as caught:
        ImageEncoder(copied, EngineOptions())
    assert str(caught.value).splitlines() == [
        f"{copied.file('vision')} names files that the manifest does not list:",
        f"  - weights in {location!r}",
        "Convert the checkpoint again.",
    ]


def test_data_that_the_manifest_does_not_list(copied: Bundle) -> None:
    files = {role: entry for role, entry in copied.manifest.files.items() if role != "vision_data"}
    unlisted = Bundle(copied.path, dataclasses.replace(copied.manifest, files=files))
    with pytest.raises(BundleError, match=r"weights in 'vision\.onnx\.data'"):
        check_vision_file(unlisted)


def test_model_in_a_folder(copied: Bundle) -> None:
    """Places are relative to the model."""
    files = dict(copied.manifest.files)
    for role in ("vision", "vision_data"):
        entry = files[role]
        (copied.path / "tower").mkdir(exist_ok=True)
        (copied.path / entry.path).rename(copied.path / "tower" / entry.path)
        files[role] = FileEntry(f"tower/{entry.path}", entry.bytes, entry.sha256)
    check_vision_file(Bundle(copied.path, dataclasses.replace(copied.manifest, files=files)))


def test_verify_refuses_it(copied: Bundle, run: Callable[..., Any]) -> None:
    import hashlib
    import json

    shutil.copy(copied.file("vision_data"), copied.path / "other.data")
    edit_model(copied, move_weights("other.data"))
    data = json.loads((copied.path / "manifest.json").read_text())
    model = copied.file("vision").read_bytes()
    data["files"]["vision"] |= {"bytes": len(model), "sha256": hashlib.sha256(model).hexdigest()}
    (copied.path / "manifest.json").write_text(json.dumps(data))
    result = run("verify", copied.path)
    assert result.code == 6
    assert "names files that the manifest does not list" in result.err

"""Graphs that the package onnx writes: what the vision encoder takes, what it refuses, and what it can stop."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_llava.bundle.bundle import Bundle
from edge_llava.errors import BundleError
from edge_llava.runtime.lifetime.cancel import Cancelled
from edge_llava.runtime.options import EngineOptions
from edge_llava.runtime.vision.encoder import VisionEncoder

pytestmark = pytest.mark.convert
ONE_THREAD = EngineOptions(n_vision_threads=1)


@pytest.fixture
def bundle(seeded_f32):
    return Bundle.open(seeded_f32)


@pytest.fixture
def spec(bundle):
    """Of a tower that only gives features, as those do that are written here."""
    return dataclasses.replace(bundle.manifest.vision, ranking="none")


@pytest.fixture
def pixels():
    return np.random.default_rng(0).standard_normal((1, 3, 56, 56)).astype(np.float32)


def write(path, nodes, inputs, outputs, initializers=()):
    def info(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes, "graph", [info(*entry) for entry in inputs], [info(*entry) for entry in outputs], initializers
    )
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def write_average(path, name="pixel_values", result="patch_features", side=56, shape=(64, 32)):
    """A model that has the right signature unless told otherwise: the mean pixel, everywhere."""
    nodes = [
        helper.make_node("ReduceMean", [name], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Reshape", ["mean", "to"], ["column"]),
        helper.make_node("Expand", ["column", "shape"], [result]),
    ]
    initializers = [
        helper.make_tensor("to", TensorProto.INT64, [3], [-1, 1, 1]),
        helper.make_tensor("shape", TensorProto.INT64, [3], [1, *shape]),
    ]
    inputs, outputs = [(name, ["batch", 3, side, side])], [(result, ["batch", *shape])]
    return write(path, nodes, inputs, outputs, initializers)


def write_endless(path):
    """A model with the right signature that never ends on its own."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["x", "x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("ReduceMean", ["pixel_values"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Loop", ["", "always", "mean"], ["last"], body=body),
        helper.make_node("Reshape", ["last", "to"], ["column"]),
        helper.make_node("Expand", ["column", "shape"], ["patch_features"]),
    ]
    initializers = [
        helper.make_tensor("always", TensorProto.BOOL, [], [True]),
        helper.make_tensor("to", TensorProto.INT64, [3], [-1, 1, 1]),
        helper.make_tensor("shape", TensorProto.INT64, [3], [1, 64, 32]),
    ]
    inputs, outputs = [("pixel_values", ["batch", 3, 56, 56])], [("patch_features", ["batch", 64, 32])]
    return write(path, nodes, inputs, outputs, initializers)


def test_features_of_a_small_model(tmp_path, spec, pixels):
    features = VisionEncoder(write_average(tmp_path / "a.onnx"), spec, ONE_THREAD)(pixels)
    assert np.abs(features - pixels.mean(dtype=np.float64)).max() < 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "image"}, "maps ['image'] to ['patch_features'], expected pixel_values to patch_features."),
        ({"result": "output"}, "maps ['pixel_values'] to ['output'], expected pixel_values to patch_features."),
        ({"side": 112}, "maps [3, 112, 112] to [64, 32], the manifest says [3, 56, 56] to [64, 32]. "),
        ({"shape": (65, 32)}, "maps [3, 56, 56] to [65, 32], the manifest says [3, 56, 56] to [64, 32]. "),
        ({"shape": (64, 16)}, "maps [3, 56, 56] to [64, 16], the manifest says [3, 56, 56] to [64, 32]. "),
    ],
)
def test_wrong_signature(change, message, tmp_path, spec):
    path = write_average(tmp_path / "a.onnx", **change)
    with pytest.raises(BundleError) as caught:
        VisionEncoder(path, spec, ONE_THREAD)
    assert str(caught.value).startswith(f"{path} {message}")


def test_a_tower_that_cannot_rank_though_the_manifest_says_so(bundle, spec, tmp_path):
    path = write_average(tmp_path / "a.onnx")
    assert VisionEncoder(path, spec, ONE_THREAD).provider
    with pytest.raises(BundleError) as caught:
        VisionEncoder(path, bundle.manifest.vision, ONE_THREAD)
    assert str(caught.value) == (
        f"{path} does not give cls_attention and patch_keys for 64 patches, as the manifest says. "
        "Convert the checkpoint again."
    )


def test_cancelled_meanwhile(tmp_path, spec, pixels):
    encoder, cancel = VisionEncoder(write_endless(tmp_path / "a.onnx"), spec, ONE_THREAD), threading.Event()
    timer = threading.Timer(0.1, cancel.set)
    timer.start()
    with pytest.raises(Cancelled):
        encoder(pixels, cancel)
    timer.join()
    assert not [thread for thread in threading.enumerate() if thread.name == "edge-llava-cancel"]


@pytest.mark.parametrize("kind", ["DOUBLE", "INT64", "STRING"])
def test_outputs_that_are_not_float32(tmp_path, spec, kind):
    path = write_average(tmp_path / "a.onnx")
    kind, model = getattr(onnx.TensorProto, kind), onnx.load(path)
    model.graph.node.append(onnx.helper.make_node("Cast", ["patch_features"], ["cast"], to=kind))
    model.graph.node[-2].output[0], model.graph.node[-1].input[0] = "before", "before"
    model.graph.node[-1].output[0] = "patch_features"
    model.graph.output[0].type.tensor_type.elem_type = kind
    onnx.save(model, path)
    with pytest.raises(BundleError, match="expected numbers of float32"):
        VisionEncoder(path, spec, ONE_THREAD)

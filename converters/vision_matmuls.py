"""MatMuls of vision.onnx with weights of 8 bits: the nodes that ONNX Runtime computes fast on a CPU.

x86 without VNNI multiplies unsigned inputs by signed weights, adds two neighbours in 16 bits, and saturates what does
not fit, such as 255 x 127 twice. The scale of an output channel is therefore such that no two neighbouring weights of
one sign add up to more than 128: 255 x 128 = 32640 fits, and every processor computes the same integers,
except for Arm with SME, where ONNX Runtime's kernels round otherwise.
Source: vpmaddubsw, Intel's intrinsics guide; onnxruntime's guide to quantization on saturation; its kernels pack four
neighbours along K (MLAS_GEMM_U8S8_KERNEL_AVX2::PackedK).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_llava.converters.weights_file import WeightsFile

BLOCK = 32  # numbers that share a scale in MatMulNBits
LARGEST = 127  # magnitude of an int8 weight
LARGEST_PAIR = 128  # magnitude of the sum of two neighbours of one sign
LARGEST_IN_BLOCK = 63  # MatMulNBits keeps weights unsigned, here 1..127 around 64: signed or not, no pair overflows
SWITCHES = "switches"
_CONTRIB = "com.microsoft"
_SMALLEST = 1e-30


@dataclass(frozen=True)
class WeightMatMul:
    """A MatMul of an exported tower whose second input is weights.

    Attributes:
        name: Name of the layer: "layers.0.self_attn.q_proj".
        source: Name of the input.
        weights: Name of the initializer (K, N).
        output: Name of the output.
    """

    name: str
    source: str
    weights: str
    output: str


class ExportedTower:
    """A float32 tower on disk whose MatMuls can be replaced; weights are read one at a time.

    Attributes:
        matmuls: MatMuls with weights, in the order in which they are computed.
    """

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: vision.onnx, with its weights in a file in the same directory.
        """
        self._path = path
        self._model = onnx.load(path, load_external_data=False)
        self._initializers = {weight.name: weight for weight in self._model.graph.initializer}
        self.matmuls = tuple(
            WeightMatMul(_layer_name(node.name), node.input[0], node.input[1], node.output[0])
            for node in self._model.graph.node
            if node.op_type == "MatMul" and node.input[1] in self._initializers
        )

    def write(self, name: str, kinds: Mapping[str, str]) -> Path:
        """Writes a variant to the tower's directory; it shares the tower's file of weights.

        Args:
            name: Name of the new file; its weights go to a file with ".data" appended. Older files are replaced.
            kinds: One of `vision_spec.MATMUL_KINDS` for each MatMul's name.

        Returns:
            Its path.
        """
        path = self._path.with_name(name)
        with WeightsFile(self._path.with_name(f"{name}.data")) as file:
            parts = {
                matmul.output: self._replacement(matmul, kinds[matmul.name], matmul.output, file)
                for matmul in self.matmuls
                if kinds[matmul.name] != "float"
            }
        onnx.save_model(self._rebuild(parts), path)
        return path

    def write_switched(self, name: str, kind: str) -> Path:
        """Writes a variant that computes every MatMul twice, in float and as `kind`, with a switch to select one.

        The switches are its second input, float32 (one per MatMul, in order): 0 selects float, 1 selects `kind`.
        """
        path = self._path.with_name(name)
        with WeightsFile(self._path.with_name(f"{name}.data")) as file:
            parts = {
                matmul.output: self._switched(matmul, kind, index, file) for index, matmul in enumerate(self.matmuls)
            }
        model = self._rebuild(parts)
        model.graph.input.append(helper.make_tensor_value_info(SWITCHES, TensorProto.FLOAT, [len(self.matmuls)]))
        onnx.save_model(model, path)
        return path

    def _switched(self, matmul: WeightMatMul, kind: str, index: int, file: WeightsFile) -> _Replacement:
        exact, other, change, share = (f"{matmul.output}.{end}" for end in ("float", kind, "change", "share"))
        part = self._replacement(matmul, kind, other, file)
        place = file.add(f"{matmul.output}.place", np.array([index], np.int64))
        nodes = [
            helper.make_node("MatMul", [matmul.source, matmul.weights], [exact], exact),
            helper.make_node("Sub", [other, exact], [change], change),
            helper.make_node("Gather", [SWITCHES, place.name], [f"{matmul.output}.switch"], place.name),
            helper.make_node("Mul", [change, f"{matmul.output}.switch"], [share], share),
            helper.make_node("Add", [exact, share], [matmul.output], f"{matmul.output}.switched"),
        ]
        return _Replacement([*part.nodes, *nodes], [*part.weights, place])

    def _replacement(self, matmul: WeightMatMul, kind: str, output: str, file: WeightsFile) -> _Replacement:
        stored = TensorProto()  # a copy, because onnx before 1.23.1 keeps in a tensor what it reads for it
        stored.CopyFrom(self._initializers[matmul.weights])
        weights = numpy_helper.to_array(stored, str(self._path.parent))
        make = {"int8": _per_channel_part, "blockwise8": _blockwise_part}[kind]
        return make(matmul, weights.astype(np.float32), output, file)

    def _rebuild(self, parts: Mapping[str, _Replacement]) -> onnx.ModelProto:
        """Returns a copy of the graph in which the nodes that produce certain outputs are replaced."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        graph, nodes, names = model.graph, [], set()
        for node in self._model.graph.node:
            for new in parts[node.output[0]].nodes if node.output[0] in parts else [node]:
                if not new.name or new.name not in names:  # q, k and v share their quantized input
                    nodes.append(new)
                    names.add(new.name)
        used = {name for node in nodes for name in node.input}
        weights = [weight for weight in self._model.graph.initializer if weight.name in used]
        del graph.node[:], graph.initializer[:]
        graph.node.extend(nodes)
        graph.initializer.extend([*weights, *(weight for part in parts.values() for weight in part.weights)])
        if any(node.domain == _CONTRIB for node in nodes):
            model.opset_import.append(helper.make_opsetid(_CONTRIB, 1))
        return model


@dataclass(frozen=True)
class _Replacement:
    """Nodes that take a MatMul's place, and their weights."""

    nodes: list[onnx.NodeProto]
    weights: list[TensorProto]


def quantize_per_channel(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantizes weights (K, N) to int8 (K, N) and one scale for each output channel, float32 (N,).

    No weight exceeds LARGEST, and no two neighbours along K add up to more than LARGEST_PAIR.
    """
    limits = [np.abs(weights).max(0) / LARGEST]
    for half in (np.maximum(weights, 0), np.maximum(-weights, 0)):
        # one less, since both may be rounded up by a half
        limits.append((half[:-1] + half[1:]).max(0, initial=0) / (LARGEST_PAIR - 1))
    scales = np.maximum(np.max(limits, 0), _SMALLEST).astype(np.float32)
    return np.clip(np.rint(weights / scales), -LARGEST, LARGEST).astype(np.int8), scales


def quantize_blockwise(weights: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Quantizes weights (K, N) for MatMulNBits: uint8 (N, blocks, BLOCK) around LARGEST_IN_BLOCK + 1, and float32
    scales (N, blocks); K is padded with zeros."""
    k, n = weights.shape
    n_blocks = -(-k // BLOCK)
    padded = np.zeros((n, n_blocks * BLOCK), np.float32)
    padded[:, :k] = weights.T
    blocks = padded.reshape(n, n_blocks, BLOCK)
    scales = np.maximum(np.abs(blocks).max(-1) / LARGEST_IN_BLOCK, _SMALLEST).astype(np.float32)
    steps = np.clip(np.rint(blocks / scales[..., None]), -LARGEST_IN_BLOCK, LARGEST_IN_BLOCK)
    return (steps + LARGEST_IN_BLOCK + 1).astype(np.uint8), scales


def _per_channel_part(
    matmul: WeightMatMul, weights: NDArray[np.float32], output: str, file: WeightsFile
) -> _Replacement:
    """Builds the pattern that ONNX Runtime fuses into one kernel, as its own quantize_dynamic writes it."""
    integers, scales = quantize_per_channel(weights)
    kept = [
        file.add(f"{matmul.weights}.int8", integers),
        file.add(f"{matmul.weights}.scales", scales),
    ]
    source = [f"{matmul.source}.{end}" for end in ("uint8", "scale", "zero")]
    total, real, scale = (f"{matmul.output}.{end}" for end in ("int32", "real", "scale"))
    nodes = [
        helper.make_node("DynamicQuantizeLinear", [matmul.source], source, source[0]),
        helper.make_node("MatMulInteger", [source[0], kept[0].name, source[2]], [total], total),
        helper.make_node("Cast", [total], [real], real, to=TensorProto.FLOAT),
        helper.make_node("Mul", [source[1], kept[1].name], [scale], scale),
        helper.make_node("Mul", [real, scale], [output], f"{matmul.output}.scaled"),
    ]
    return _Replacement(nodes, kept)


def _blockwise_part(matmul: WeightMatMul, weights: NDArray[np.float32], output: str, file: WeightsFile) -> _Replacement:
    integers, scales = quantize_blockwise(weights)
    zeros = np.full(scales.shape, LARGEST_IN_BLOCK + 1, np.uint8)
    kept = [
        file.add(f"{matmul.weights}.{end}", values)
        for values, end in ((integers, "blocks"), (scales, "block_scales"), (zeros, "block_zeros"))
    ]
    node = helper.make_node(
        "MatMulNBits",
        [matmul.source, *(weight.name for weight in kept)],
        [output],
        f"{matmul.output}.blockwise",
        domain=_CONTRIB,
        K=weights.shape[0],
        N=weights.shape[1],
        bits=8,
        block_size=BLOCK,
        accuracy_level=4,  # the input becomes int8 too, block by block
    )
    return _Replacement([node], kept)


def _layer_name(node: str) -> str:
    """ "/vision_model/encoder/layers.0/mlp/fc1/MatMul" -> "layers.0.mlp.fc1"."""
    return node.strip("/").removesuffix("/MatMul").replace("/", ".").removeprefix("vision_model.encoder.")

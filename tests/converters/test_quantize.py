"""Our choice of types and our encoded bytes against llama.cpp's own `llama_model_quantize`."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest

from edge_llava.bundle.language_spec import NEED_IMPORTANCE, QUANTS
from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.expected_tensors import expected_language_shapes
from edge_llava.converters.importance import Importance
from edge_llava.converters.language_gguf import plan_language, write_language
from edge_llava.converters.language_recipe import LanguageRecipe
from edge_llava.converters.model_configs import LanguageConfig
from edge_llava.converters.projector_gguf import write_projector
from edge_llava.converters.quant_types import (
    FILE_TYPES,
    GgmlType,
    QuantRules,
    choose_type,
    encoded_bytes,
    fit_type,
    projector_type,
)
from edge_llava.converters.quantize import Encoder
from edge_llava.converters.tensor_names import gguf_name
from edge_llava.errors import ConversionError
from edge_llava.home.progress import ProgressEvent, silent

pytestmark = pytest.mark.convert

LLAMA3_SCALING = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
# Each differs in something that llama.cpp's rules look at: blocks, heads per key/value head, tied head, row widths.
SHAPES = {
    "one block": {"width": 256, "ff": 512, "layers": 1},
    "gqa 4": {"width": 256, "ff": 256, "layers": 3, "heads": 8, "kv_heads": 2},
    "rows of 64 and 160": {"width": 64, "ff": 160, "layers": 2},
    "rows of 48, tied": {"width": 48, "ff": 112, "layers": 1, "heads": 3, "kv_heads": 3, "tied": True},
    "gqa 2, tied": {"width": 256, "ff": 256, "layers": 2, "heads": 4, "kv_heads": 2, "tied": True},
    "gqa 4, tied": {"width": 256, "ff": 320, "layers": 1, "heads": 4, "kv_heads": 1, "tied": True},
    "rows of 96": {"width": 96, "ff": 256, "layers": 2, "heads": 3, "kv_heads": 1},
    "9 blocks": {"width": 256, "ff": 256, "layers": 9, "heads": 8, "kv_heads": 4},
    "17 blocks": {"width": 256, "ff": 256, "layers": 17, "heads": 8, "kv_heads": 1},
    "80 blocks": {"width": 64, "ff": 64, "layers": 80, "heads": 4, "kv_heads": 4},
    "80 blocks, gqa 2": {"width": 64, "ff": 64, "layers": 80, "heads": 4, "kv_heads": 2},
    "qwen2, rows of 896, gqa 7, tied": {
        "model_type": "qwen2", "width": 896, "ff": 768, "heads": 14, "kv_heads": 2, "tied": True,
    },
    "qwen2, rows of 1152 and 304": {
        "model_type": "qwen2", "width": 1152, "ff": 304, "layers": 1, "heads": 18, "kv_heads": 6,
    },
    "qwen2, 80 blocks": {"model_type": "qwen2", "width": 64, "ff": 64, "layers": 80},
    "llama3 rope": {"text": {"rope_scaling": LLAMA3_SCALING}},
}  # fmt: skip
FOR_ALL_QUANTS = ("one block", "gqa 4", "rows of 64 and 160", "rows of 48, tied")
OWN_QUANTS = ("Q4_K+Q5_K", "IQ4_XS+Q5_K")  # that llama.cpp does not offer
WITHOUT_IMPORTANCE = tuple(quant for quant in QUANTS if quant not in (*NEED_IMPORTANCE, *OWN_QUANTS))
WITH_IMPORTANCE = tuple(quant for quant in QUANTS if quant not in ("F32", "F16", "BF16", "Q8_0", *OWN_QUANTS))
POSITIONAL_QUANTS = (
    "Q5_K_M",
    "Q4_K_M",
    "Q4_K_S",
    "Q3_K_M",
    "Q2_K",
    "IQ4_XS",
    "IQ3_M",
)  # their types depend on block, heads, or the head
FEW_QUANTS = ("Q4_K_M", "Q2_K")  # for models that llama.cpp takes for larger ones, which only attn_v shows
SLOW = ("80 blocks", "qwen2, 80 blocks")  # the third of this depth is in every run
LARGE = "qwen2, rows of 896, gqa 7, tied"  # slow for the other quantizations


def list_cases() -> Iterator[Any]:
    for name, made in SHAPES.items():
        usual = FEW_QUANTS if made.get("layers") == 80 else POSITIONAL_QUANTS
        for quant in WITHOUT_IMPORTANCE if name in FOR_ALL_QUANTS or name == LARGE else usual:
            is_slow = name in SLOW or (name == LARGE and quant not in usual)
            yield pytest.param(name, quant, marks=pytest.mark.slow if is_slow else ())


def list_cases_with_importance() -> Iterator[Any]:
    for name in ("gqa 4", "9 blocks", "rows of 64 and 160"):
        for quant in WITH_IMPORTANCE:
            is_usual = name == "gqa 4" or (name == "9 blocks" and quant in ("IQ2_XS", "IQ3_XXS", "Q3_K_M"))
            yield pytest.param(name, quant, marks=() if is_usual else pytest.mark.slow)


@pytest.fixture(scope="module")
def encoder():
    encoder = Encoder(2)
    yield encoder
    encoder.close()


@pytest.fixture(scope="module")
def source(make_checkpoint, shape, encoder, tmp_path_factory) -> Callable[[str], tuple[Checkpoint, Path]]:
    """source(name of a shape) -> a checkpoint and its F32 language.gguf."""

    @functools.cache
    def make(name: str) -> tuple[Checkpoint, Path]:
        checkpoint = Checkpoint.open(str(make_checkpoint(shape(**SHAPES[name]), seed=21)))
        path = tmp_path_factory.mktemp("f32") / "language.gguf"
        write_language(checkpoint, path, "F32", encoder, silent)
        return checkpoint, path

    return make


def make_importance(checkpoint: Checkpoint) -> Importance:
    """As if the columns had been measured: some matter a thousand times as much as others."""
    random = np.random.default_rng(8)
    columns = {
        tensor.name: np.exp(random.normal(0, 2, tensor.shape[1])).astype(np.float32)
        for tensor in plan_language(checkpoint, "F32")
        if tensor.name.startswith("blk.") and len(tensor.shape) > 1
    }
    return Importance(columns, 1, 1)


def quantize_with_llama_cpp(source: Path, target: Path, quant: str, importance: Importance | None = None) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    if importance is not None:
        columns = importance.mean_squares
        data = [
            (name.encode(), values.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), len(values))
            for name, values in columns.items()
        ]
        params.imatrix = (llama_cpp.llama_model_imatrix_data * (len(data) + 1))(*data)  # ends with a null name
    params.ftype = int(FILE_TYPES[quant])
    params.nthread = 2
    status = llama_cpp.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(params))
    assert status == 0


@pytest.mark.parametrize(("name", "quant"), [*list_cases()])
def test_equals_llama_model_quantize(source, encoder, tmp_path, read_gguf, name, quant):
    checkpoint, f32 = source(name)
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    write_language(checkpoint, ours, quant, encoder, silent)
    quantize_with_llama_cpp(f32, theirs, quant)
    a, b = read_gguf(ours), read_gguf(theirs)  # llama.cpp sorts the tensors by name, which does not matter to readers
    assert {name: tensor[:2] for name, tensor in a.tensors.items()} == {
        name: tensor[:2] for name, tensor in b.tensors.items()
    }
    assert [name for name in a.tensors if a.tensors[name][2] != b.tensors[name][2]] == []
    assert a.metadata == b.metadata


@pytest.mark.parametrize(("name", "quant"), [*list_cases_with_importance()])
def test_equals_llama_model_quantize_with_an_importance_matrix(source, encoder, tmp_path, read_gguf, name, quant):
    checkpoint, f32 = source(name)
    importance, ours, theirs = make_importance(checkpoint), tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    write_language(checkpoint, ours, quant, encoder, silent, LanguageRecipe(importance))
    quantize_with_llama_cpp(f32, theirs, quant, importance)
    a, b = read_gguf(ours).tensors, read_gguf(theirs).tensors
    assert {name: tensor[:2] for name, tensor in a.items()} == {name: tensor[:2] for name, tensor in b.items()}
    assert [name for name in a if a[name][2] != b[name][2]] == []


@pytest.mark.parametrize(("quant", "of"), [("Q4_K+Q5_K", "Q4_K_M"), ("IQ4_XS+Q5_K", "Q4_K_M")])
def test_mixtures_of_our_own_have_q5_k_where_q4_k_m_has_q6_k(source, quant, of):
    checkpoint, _ = source("17 blocks")
    ours, theirs = plan_language(checkpoint, quant), plan_language(checkpoint, of)
    default = quant.partition("+")[0]
    expected = {"Q6_K": "Q5_K", "Q4_K": default, "F32": "F32"}
    for a, b in zip(ours, theirs, strict=True):
        assert a.type.name == ("Q6_K" if a.name == "output.weight" else expected[b.type.name]), a.name


def test_types_that_need_an_importance_matrix_are_not_encoded_without_one(encoder):
    with pytest.raises(ValueError, match="IQ2_XXS needs an importance matrix"):
        encoder.encode("w", np.ones((8, 256), np.float32), GgmlType.IQ2_XXS)


@pytest.mark.parametrize("n_threads", [1, 3, 8])
def test_threads_do_not_change_the_bytes(make_checkpoint, shape, tmp_path, n_threads):
    checkpoint = Checkpoint.open(str(make_checkpoint(shape(width=256, ff=256, layers=1), seed=22)))
    digests = []
    for threads in (2, n_threads):
        encoder, path = Encoder(threads), tmp_path / f"{threads}.gguf"
        write_language(checkpoint, path, "Q4_K_M", encoder, silent)
        encoder.close()
        digests.append(path.read_bytes())
    assert digests[0] == digests[1]


def test_f32_is_the_checkpoint_with_q_and_k_permuted(make_checkpoint, shape, weights_of, encoder, tmp_path):
    directory = make_checkpoint(shape(heads=4, kv_heads=2), seed=23)
    write_language(Checkpoint.open(str(directory)), tmp_path / "f32.gguf", "F32", encoder, silent)
    weights = {name: tensor.numpy() for name, tensor in weights_of(directory).items()}
    found = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "f32.gguf").tensors}
    block = "language_model.model.layers.1"
    expected = {
        "token_embd.weight": weights["language_model.model.embed_tokens.weight"][:512],
        "output.weight": weights["language_model.lm_head.weight"][:512],
        "output_norm.weight": weights["language_model.model.norm.weight"],
        "blk.1.attn_norm.weight": weights[f"{block}.input_layernorm.weight"],
        "blk.1.ffn_norm.weight": weights[f"{block}.post_attention_layernorm.weight"],
        "blk.1.attn_v.weight": weights[f"{block}.self_attn.v_proj.weight"],
        "blk.1.attn_output.weight": weights[f"{block}.self_attn.o_proj.weight"],
        "blk.1.ffn_gate.weight": weights[f"{block}.mlp.gate_proj.weight"],
        "blk.1.ffn_up.weight": weights[f"{block}.mlp.up_proj.weight"],
        "blk.1.ffn_down.weight": weights[f"{block}.mlp.down_proj.weight"],
    }
    for part, name, n_heads in (("q", "attn_q", 4), ("k", "attn_k", 2)):
        rows = weights[f"{block}.self_attn.{part}_proj.weight"]
        # new row 2j + i of a head is its old row i * 8 + j
        order = [head * 16 + i * 8 + j for head in range(n_heads) for j in range(8) for i in range(2)]
        expected[f"blk.1.{name}.weight"] = rows[order]
    for name, values in expected.items():
        assert np.array_equal(found[name], values), name
    assert len(found) == 3 + 2 * 9


def test_permutation_of_8_rows_and_2_heads():
    import torch

    from edge_llava.converters.language_gguf import permute_rows

    assert permute_rows(torch.arange(8).reshape(8, 1), 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


# Source: sizes of llama.cpp's files, GiB of tensor data.
PUBLISHED_GIB = {
    "Q2_K": (2.36, 4.52, 2.53),
    "Q3_K_S": (2.75, 5.27, 2.95),
    "Q3_K_M": (3.07, 5.90, 3.28),
    "Q3_K_L": (3.35, 6.45, 3.56),
    "Q4_0": (3.56, 6.86, 3.83),
    "Q4_K_S": (3.59, 6.91, 3.86),
    "Q4_K_M": (3.80, 7.33, 4.07),
    "Q5_K_S": (4.33, 8.36, 4.65),
    "Q5_K_M": (4.45, 8.60, 4.78),
    "Q6_K": (5.15, 9.95, 5.53),
    "Q8_0": (6.67, 12.88, 7.17),
    "F16": (12.55, 24.24, 13.49),
}


def tensor_bytes(quant: str, n_embd: int, n_ff: int, n_layer: int, n_head: int, n_head_kv: int, n_rows=32000) -> int:
    config = LanguageConfig(
        n_embd, n_ff, n_layer, n_head, n_head_kv, 128, n_rows, 4096, 1e-5, 10000.0, rope_factor=None, tied=False
    )
    rules = QuantRules(quant, n_layer, n_head // n_head_kv, False)
    shapes = expected_language_shapes(config).items()
    return sum(encoded_bytes(choose_type(rules, gguf_name(name), shape), shape) for name, shape in shapes)


@pytest.mark.parametrize("quant", PUBLISHED_GIB)
def test_sizes_of_real_models(quant):
    sizes = (
        tensor_bytes(quant, 4096, 11008, 32, 32, 32),
        tensor_bytes(quant, 5120, 13824, 40, 40, 40),
        tensor_bytes(quant, 4096, 14336, 32, 32, 8),
    )
    assert tuple(round(size / (1 << 30), 2) for size in sizes) == PUBLISHED_GIB[quant]


def test_exact_size_of_vicuna_7b():
    assert tensor_bytes("Q4_K_M", 4096, 11008, 32, 32, 32) == 4_080_263_168
    assert tensor_bytes("Q4_K_M", 4096, 11008, 32, 32, 32, n_rows=32064) == 4_080_625_664


def test_every_offered_quantization_has_a_file_type():
    assert set(FILE_TYPES) == set(QUANTS)


@pytest.mark.parametrize(
    ("wanted", "row", "expected"),
    [
        ("Q4_K", 512, "Q4_K"), ("Q4_K", 96, "Q5_0"), ("Q5_K", 96, "Q5_1"), ("Q6_K", 96, "Q8_0"), ("Q3_K", 96, "Q4_0"),
        ("Q2_K", 96, "Q4_0"), ("IQ2_S", 96, "IQ4_NL"), ("IQ4_XS", 96, "IQ4_NL"), ("Q6_K", 48, "F16"),
        ("Q8_0", 48, "F16"), ("Q4_0", 48, "F16"), ("F32", 7, "F32"),
    ],
)  # fmt: skip
def test_types_that_rows_force(wanted, row, expected):
    assert fit_type(GgmlType[wanted], row) is GgmlType[expected]


@pytest.mark.parametrize(
    ("quant", "expected"),
    [("F32", "F32"), ("F16", "F16"), ("BF16", "BF16"), ("Q8_0", "Q8_0"), ("Q6_K", "Q6_K"), ("Q5_K_M", "Q6_K"),
     ("Q4_K_M", "Q6_K"), ("Q4_0", "Q6_K"), ("Q3_K_S", "Q6_K"), ("Q2_K", "Q6_K")],
)  # fmt: skip
def test_the_projector_keeps_6_bits(quant, expected):
    assert projector_type(quant) is GgmlType[expected]


@pytest.mark.parametrize(("vision_width", "expected"), [(256, "Q6_K"), (96, "Q8_0"), (48, "F16")])
def test_projector_file(make_checkpoint, shape, encoder, tmp_path, weights_of, vision_width, expected):
    heads = 3 if vision_width == 48 else 4
    directory = make_checkpoint(shape(width=256, ff=256, vision_width=vision_width, vision_heads=heads), seed=24)
    type_ = write_projector(Checkpoint.open(str(directory)), tmp_path / "p.gguf", "Q4_K_M", encoder, silent)
    assert type_ is GgmlType.Q6_K
    reader = gguf.GGUFReader(tmp_path / "p.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert {name: tensor.tensor_type.name for name, tensor in tensors.items()} == {
        "mm.0.weight": expected, "mm.0.bias": "F32", "mm.2.weight": "Q6_K", "mm.2.bias": "F32",
    }  # fmt: skip
    weights = weights_of(directory)
    for name, source in (("mm.0", "linear_1"), ("mm.2", "linear_2")):
        weight = weights[f"multi_modal_projector.{source}.weight"].numpy()
        decoded = gguf.dequantize(tensors[f"{name}.weight"].data, tensors[f"{name}.weight"].tensor_type)
        assert np.abs(decoded - weight).max() < 0.02 * np.abs(weight).max()
        assert np.array_equal(tensors[f"{name}.bias"].data, weights[f"multi_modal_projector.{source}.bias"].numpy())
    assert reader.fields["general.architecture"].contents() == "clip"
    assert reader.fields["edge_llava.projector.kind"].contents() == "mlp2x_gelu"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("type_", [GgmlType.F32, GgmlType.F16, GgmlType.BF16, GgmlType.Q4_K])
def test_numbers_that_are_none_are_refused(encoder, value, type_):
    values = np.zeros((4, 256), np.float32)
    values[2, 100] = value
    with pytest.raises(ConversionError, match=r"^blk\.7\.ffn_up\.weight contains infinite or undefined numbers"):
        encoder.encode("blk.7.ffn_up.weight", values, type_)


def test_f16_overflow_is_refused(encoder):
    values = np.zeros((2, 32), np.float32)
    values[1, 3] = -65504.0
    assert encoder.encode("output.weight", values, GgmlType.F16).view(np.float16).min() == -65504.0
    values[1, 3] = -65520.0
    with pytest.raises(ConversionError, match=r"^output\.weight contains 65520, beyond F16's 65504\. Use --quant BF16"):
        encoder.encode("output.weight", values, GgmlType.F16)


def test_progress_counts_the_bytes_of_the_file(make_checkpoint, shape, encoder, tmp_path):
    checkpoint = Checkpoint.open(str(make_checkpoint(shape(width=256, ff=256), seed=25)))
    events: list[ProgressEvent] = []
    write_language(checkpoint, tmp_path / "l.gguf", "Q4_K_M", encoder, events.append)
    total = sum(encoded_bytes(tensor.type, tensor.shape) for tensor in plan_language(checkpoint, "Q4_K_M"))
    assert {event.stage for event in events} == {"language model, Q4_K_M"}
    assert {event.total for event in events} == {total}
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert (events[0].done, events[-1].done) == (0, total)
    assert sum(event.done == total for event in events) == 1
    assert sum(tensor.n_bytes for tensor in gguf.GGUFReader(tmp_path / "l.gguf").tensors) == total

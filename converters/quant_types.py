"""The type of every tensor of a quantization, as llama.cpp chooses it.

Source: llama-quant.cpp of the llama.cpp that llama-cpp-python 0.3.36 ships.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from gguf import GGML_QUANT_SIZES, LlamaFileType
from gguf import GGMLQuantizationType as GgmlType

from edge_llava.bundle.language_spec import MIXED

FILE_TYPES: Mapping[str, LlamaFileType] = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
    "Q6_K": LlamaFileType.MOSTLY_Q6_K,
    "Q5_K_M": LlamaFileType.MOSTLY_Q5_K_M,
    "Q5_K_S": LlamaFileType.MOSTLY_Q5_K_S,
    "Q4_K_M": LlamaFileType.MOSTLY_Q4_K_M,
    "Q4_K+Q5_K": LlamaFileType.MOSTLY_Q4_K_M,  # with Q5_K where Q4_K_M has Q6_K
    "Q4_K_S": LlamaFileType.MOSTLY_Q4_K_S,
    "Q4_0": LlamaFileType.MOSTLY_Q4_0,
    "IQ4_XS+Q5_K": LlamaFileType.MOSTLY_IQ4_XS,  # with Q5_K where Q4_K_M has Q6_K
    "IQ4_NL": LlamaFileType.MOSTLY_IQ4_NL,
    "IQ4_XS": LlamaFileType.MOSTLY_IQ4_XS,
    "Q3_K_L": LlamaFileType.MOSTLY_Q3_K_L,
    "Q3_K_M": LlamaFileType.MOSTLY_Q3_K_M,
    "Q3_K_S": LlamaFileType.MOSTLY_Q3_K_S,
    "IQ3_M": LlamaFileType.MOSTLY_IQ3_M,
    "IQ3_S": LlamaFileType.MOSTLY_IQ3_S,
    "IQ3_XS": LlamaFileType.MOSTLY_IQ3_XS,
    "IQ3_XXS": LlamaFileType.MOSTLY_IQ3_XXS,
    "Q2_K": LlamaFileType.MOSTLY_Q2_K,
    "IQ2_M": LlamaFileType.MOSTLY_IQ2_M,
    "IQ2_S": LlamaFileType.MOSTLY_IQ2_S,
    "IQ2_XS": LlamaFileType.MOSTLY_IQ2_XS,
    "IQ2_XXS": LlamaFileType.MOSTLY_IQ2_XXS,
}
_UNQUANTIZED = (GgmlType.F32, GgmlType.F16, GgmlType.BF16)
# Types of the matrices of the blocks to which no rule applies, where the name does not say it.
_DEFAULTS = {
    MIXED: GgmlType.Q4_K,
    "Q4_K+Q5_K": GgmlType.Q4_K,
    "IQ4_XS+Q5_K": GgmlType.IQ4_XS,
    "IQ3_M": GgmlType.IQ3_S,
    "IQ3_XS": GgmlType.IQ3_S,
    "IQ2_M": GgmlType.IQ2_S,
    "IQ2_S": GgmlType.IQ2_XS,
}
# Types for rows that no block of 256 numbers divides.
_FALLBACKS = {
    GgmlType.IQ2_XXS: GgmlType.IQ4_NL,
    GgmlType.IQ2_XS: GgmlType.IQ4_NL,
    GgmlType.IQ2_S: GgmlType.IQ4_NL,
    GgmlType.IQ3_XXS: GgmlType.IQ4_NL,
    GgmlType.IQ3_S: GgmlType.IQ4_NL,
    GgmlType.IQ4_XS: GgmlType.IQ4_NL,
    GgmlType.Q2_K: GgmlType.Q4_0,
    GgmlType.Q3_K: GgmlType.Q4_0,
    GgmlType.Q4_K: GgmlType.Q5_0,
    GgmlType.Q5_K: GgmlType.Q5_1,
    GgmlType.Q6_K: GgmlType.Q8_0,
}
_EMBEDDING = {
    "IQ2_XXS": GgmlType.Q2_K,
    "IQ2_XS": GgmlType.Q2_K,
    "IQ2_S": GgmlType.IQ3_S,
    "IQ2_M": GgmlType.IQ3_S,
    "IQ3_XXS": GgmlType.IQ3_S,
}
_SMALL_HEAD = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS")


@dataclass(frozen=True)
class QuantRules:
    """What the choice of a tensor's type depends on, apart from the tensor itself.

    Attributes:
        quant: One of FILE_TYPES, or MIXED, whose matrices of the blocks have types of their own.
        n_layer: Blocks of the language model.
        n_gqa: Query heads per key/value head.
        tied: Whether the embedding is also the head.
        architecture: llama.cpp's name of it.
        has_importance: Whether there is an importance matrix.
    """

    quant: str
    n_layer: int
    n_gqa: int
    tied: bool
    architecture: str = "llama"
    has_importance: bool = False

    @property
    def default(self) -> GgmlType:
        """Returns the type of matrices to which no rule applies."""
        if self.quant in _DEFAULTS:
            return _DEFAULTS[self.quant]
        return GgmlType[self.quant[:4] if "_K_" in self.quant else self.quant]

    @property
    def is_70b(self) -> bool:
        """Whether llama.cpp takes it for a model of 70 billion weights, which it tells by its blocks."""
        return self.n_layer == 80 and (self.n_gqa > 1 or self.architecture == "qwen2")


def choose_type(rules: QuantRules, gguf_name: str, shape: tuple[int, ...]) -> GgmlType:
    """Returns the ggml type that llama.cpp would choose for a tensor.

    Args:
        rules: The file's quantization.
        gguf_name: For example "blk.3.ffn_down.weight".
        shape: As in torch; the last axis is the row.
    """
    if len(shape) < 2:
        return GgmlType.F32
    if rules.default in _UNQUANTIZED:
        return rules.default
    row = shape[-1]
    if gguf_name == "output.weight" or (rules.tied and gguf_name == "token_embd.weight"):
        block = GGML_QUANT_SIZES[rules.default][0]
        if row % block or rules.default is GgmlType.Q8_0:
            wanted = GgmlType.Q8_0
        else:
            wanted = GgmlType.Q5_K if rules.quant in _SMALL_HEAD else GgmlType.Q6_K
    elif gguf_name == "token_embd.weight":
        wanted = _EMBEDDING.get(rules.quant, rules.default)
    elif gguf_name.startswith("blk."):
        _, layer, part, _ = gguf_name.split(".")
        wanted = _block_type(rules, int(layer), part)
    else:
        wanted = rules.default
    return fit_type(wanted, row)


def fit_type(wanted: GgmlType, row: int) -> GgmlType:
    """Returns the type if a row divides into its blocks, else llama.cpp's replacement, at last F16."""
    if row % GGML_QUANT_SIZES[wanted][0] == 0:
        return wanted
    fallback = _FALLBACKS.get(wanted, wanted)
    return fallback if row % GGML_QUANT_SIZES[fallback][0] == 0 else GgmlType.F16


def projector_type(quant: str) -> GgmlType:
    """Returns the type of the projector's matrices for a quantization: the same, but at least 6 bits."""
    default = QuantRules(quant, 1, 1, False).default
    return default if default in (*_UNQUANTIZED, GgmlType.Q8_0) else GgmlType.Q6_K


def encoded_bytes(type_: GgmlType, shape: tuple[int, ...]) -> int:
    """Returns the size of an encoded tensor."""
    block, block_bytes = GGML_QUANT_SIZES[type_]
    return int(np.prod(shape)) // block * block_bytes


def _block_type(rules: QuantRules, layer: int, part: str) -> GgmlType:
    quant, n, default = rules.quant, rules.n_layer, rules.default
    more_bits = layer < n // 8 or layer >= 7 * n // 8 or (layer - n // 8) % 3 == 2
    is_first, is_middle, is_shared = layer < n // 8, n // 8 <= layer < 7 * n // 8, rules.n_gqa >= 4
    q2, q3, q4, q5, q6 = GgmlType.Q2_K, GgmlType.Q3_K, GgmlType.Q4_K, GgmlType.Q5_K, GgmlType.Q6_K
    iq2_s, iq3_s, iq3_xxs = GgmlType.IQ2_S, GgmlType.IQ3_S, GgmlType.IQ3_XXS
    by_quant: dict[str, GgmlType] = {}
    if part == "attn_v":
        by_quant = {
            "IQ2_XXS": q4 if is_shared else q2,
            "IQ2_XS": q4 if is_shared else q2,
            "IQ2_S": q4 if is_shared else iq3_s,
            "IQ2_M": q4 if is_shared else iq3_s,
            "Q2_K": q4 if is_shared else q3,
            "IQ3_XXS": q4 if is_shared else iq3_xxs if rules.has_importance else iq3_s,
            "IQ3_XS": q4 if is_shared else default,
            "IQ3_S": q4 if is_shared else default,
            "IQ3_M": q4,
            "Q3_K_M": q5 if layer < 2 else q4,
            "Q3_K_L": q5,
            "IQ4_NL": q5 if is_shared else default,
            "IQ4_XS": q5 if is_shared else default,
            "IQ4_XS+Q5_K": q5 if more_bits else default,
            "Q4_K+Q5_K": q5 if more_bits else default,
            "Q4_K_M": q6 if more_bits else default,
            "Q5_K_M": q6 if more_bits else default,
            "Q4_K_S": q5 if layer < 4 else default,
        }
        wanted = by_quant.get(quant, default)
        is_raised = rules.is_70b and wanted in (q3, q4) and not quant.startswith("IQ2")
        return q5 if is_raised else wanted
    elif part in ("attn_q", "attn_k"):
        by_quant = {"IQ3_XS": iq3_xxs, "IQ3_XXS": iq2_s}
    elif part in ("ffn_gate", "ffn_up"):
        by_quant = {"IQ3_XS": iq3_xxs if is_middle else default}
    elif part == "ffn_down":
        by_quant = {
            "IQ2_XXS": q2 if is_first else default,
            "IQ2_XS": q2 if is_first else default,
            "IQ2_S": iq3_s if is_first else default,
            "IQ2_M": iq3_s if is_first else default,
            "Q2_K": q3,
            "IQ3_XXS": default if rules.has_importance else q4 if is_first else q3,
            "IQ3_M": q4 if is_first else default,
            "Q3_K_M": q5 if layer < n // 16 else q4,
            "Q3_K_L": q5,
            "IQ4_NL": q5 if is_first and not rules.has_importance else default,
            "IQ4_XS": q5 if is_first and not rules.has_importance else default,
            "Q4_0": GgmlType.Q4_1 if is_first and rules.has_importance else default,
            "IQ4_XS+Q5_K": q5 if more_bits else default,
            "Q4_K+Q5_K": q5 if more_bits else default,
            "Q4_K_M": q6 if more_bits else default,
            "Q5_K_M": q6 if more_bits else default,
            "Q4_K_S": q5 if is_first else default,
        }
    elif part == "attn_output":
        by_quant = {
            "IQ2_S": iq3_s,
            "IQ2_M": iq3_s,
            "Q2_K": q3,
            "IQ3_XXS": iq3_s,
            "IQ3_M": q4,
            "Q3_K_M": q4,
            "Q3_K_L": q5,
        }
    return by_quant.get(quant, default)

"""Each kind of language model, from its config to llama.cpp's logits, against transformers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.converters.checkpoint_config import read_checkpoint_config
from edge_llava.converters.decoders import DIALECTS, LLAMA, MISTRAL, find_dialect
from edge_llava.converters.rope import Llama3Scaling, read_rope
from edge_llava.errors import CheckpointError, ConversionError

pytestmark = pytest.mark.convert

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
# The shape of Qwen2-0.5B, narrower: seven query heads for each key/value head, and a tied head.
QWEN = {"model_type": "qwen2", "width": 112, "heads": 14, "kv_heads": 2, "tied": True, "text": {"rope_theta": 1e6}}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2, tied": QWEN,
    "qwen2, own head": QWEN | {"tied": False, "width": 64, "heads": 4, "kv_heads": 4},
    "qwen2, linear rope": QWEN | {"text": {"rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}},
    "qwen2, window": QWEN | {"text": {"use_sliding_window": True, "sliding_window": 256, "max_window_layers": 1}},
    "llama3 rope": {"kv_heads": 2, "text": {"rope_theta": 5e5, "rope_scaling": LLAMA3}},
    "mistral": {"model_type": "mistral", "kv_heads": 2, "text": {"sliding_window": 384, "head_dim": 32}},
}
N_POSITIONS = 200  # three times `original_max_position_embeddings`


@pytest.fixture(scope="module")
def made(make_llava: Callable[..., Path], shape: Any) -> Callable[[str], Path]:
    """made(name of a shape) -> its checkpoint. Read only: copy it before changing it."""
    directories: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in directories:
            directories[name] = make_llava(shape(**SHAPES[name]), 61)
        return directories[name]

    return make


def open_checkpoint(directory: Path) -> Any:
    from edge_llava.converters.checkpoint import Checkpoint

    return Checkpoint.open(str(directory))


def check_reading(directory: Path) -> None:
    from edge_llava.converters.reference_model import check_reading

    check_reading(open_checkpoint(directory))


def theirs(directory: Path, ids: list[int]) -> np.ndarray:
    """Logits (T, V) of a text by transformers."""
    import torch
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits[0, :, :512].numpy()


def ours(bundle: Bundle, ids: list[int]) -> np.ndarray:
    """Logits (T, V) of the same text by llama.cpp."""
    from edge_llava.parity.one_sequence import OneSequence
    from edge_llava.runtime.language.decoder import Decoder
    from edge_llava.runtime.options import DecoderOptions

    options = DecoderOptions(n_ctx=len(ids), n_threads=2, repack=False)
    decoder = Decoder(bundle.file("language"), bundle.manifest.language, options)
    try:
        sequence, logits = OneSequence(decoder), []
        for id_ in ids:
            sequence.decode(id_)
            logits.append(sequence.logits())
        return np.stack(logits)
    finally:
        decoder.close()


@pytest.mark.parametrize("name", SHAPES)
def test_logits_equal_transformers(made, convert_to, name):
    """Of every position, far beyond the trained context where rotary positions are scaled."""
    bundle = Bundle.open(convert_to(made(name), quant="F32"))
    ids = [1, *np.random.default_rng(3).integers(3, 512, N_POSITIONS - 1).tolist()]
    expected, found = theirs(made(name), ids), ours(bundle, ids)
    assert expected.std() > 0.5
    assert np.abs(found - expected).max() <= 1e-4
    assert (found.argmax(-1) == expected.argmax(-1)).all()
    language = bundle.manifest.parity["language"]
    assert language.max_abs <= 1e-4
    assert language.tokens_equal == language.tokens_total


def test_qwen2_file(made, convert_to, weights_of, read_gguf):
    """Keys of its own, biases in float32, rows of q and k as they are, and no head where the embedding is one."""
    bundle = Bundle.open(convert_to(made("qwen2, tied"), quant="F16"))
    assert bundle.manifest.language.architecture == "qwen2"
    file, weights = read_gguf(bundle.file("language")), weights_of(made("qwen2, tied"))
    assert not any("lm_head" in name for name in weights)
    assert {key.split(".")[0] for key in file.metadata} == {"general", "qwen2", "tokenizer"}
    assert file.metadata["general.architecture"] == "qwen2"
    expected = {"head_count": 14, "head_count_kv": 2, "key_length": 8, "value_length": 8}
    assert {key: file.metadata[f"qwen2.attention.{key}"] for key in expected} == expected
    assert file.metadata["qwen2.rope.freq_base"] == 1e6
    assert len(file.tensors) == 2 + 2 * 12
    for part, n_rows in (("q", 112), ("k", 16), ("v", 16)):
        source = f"language_model.model.layers.1.self_attn.{part}_proj"
        type_, shape, data = file.tensors[f"blk.1.attn_{part}.bias"]
        assert (type_, shape) == ("F32", (n_rows,))
        assert data == weights[f"{source}.bias"].numpy().tobytes()
        type_, shape, data = file.tensors[f"blk.1.attn_{part}.weight"]
        assert (type_, shape) == ("F16", (112, n_rows))
        assert data == weights[f"{source}.weight"].half().numpy().tobytes()


def test_biases_that_a_config_does_not_state_are_refused(made, copy_of, weights_of, put_weights, edit_config):
    """Without them the model would compute something else: nothing is dropped unseen."""
    as_llama = copy_of(made("qwen2, own head"))
    edit_config(as_llama, {"text_config.model_type": "llama"})
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(as_llama)
    assert "layers.0.self_attn.q_proj.bias" in str(error.value)
    assert "the model that config.json describes does not have" in str(error.value)


def test_missing_biases_are_named(made, copy_of, weights_of, put_weights):
    without = copy_of(made("qwen2, own head"))
    put_weights(
        without, {name: t for name, t in weights_of(without).items() if not name.endswith("1.self_attn.k_proj.bias")}
    )
    with pytest.raises(CheckpointError, match=r"language\.layers\.1\.self_attn\.k_proj\.bias is missing"):
        open_checkpoint(without)


@pytest.mark.parametrize("name", ["qwen2, own head", "llama3 rope"])
def test_a_dialect_read_wrongly_is_noticed(made, name):
    """transformers reads the config on its own; a bias is compared as every weight is."""
    import dataclasses

    from edge_llava.converters.reference_model import ReferenceModel, check_reading

    checkpoint = open_checkpoint(made(name))
    check_reading(checkpoint)
    wrong = {"rope_llama3": None} if name == "llama3 rope" else {"dialect": MISTRAL}
    language = dataclasses.replace(checkpoint.config.language, **wrong)
    misread = dataclasses.replace(checkpoint, config=dataclasses.replace(checkpoint.config, language=language))
    fault = "rope differs; read as theta 500000 and no scaling" if "rope" in name else "model_type is 'qwen2', read as"
    with pytest.raises(ConversionError, match=fault):
        check_reading(misread)
    if name == "qwen2, own head":
        bias = "language.layers.0.self_attn.v_proj.bias"
        assert bias in ReferenceModel(checkpoint).deployed_names()


def test_a_linear_factor_is_not_llama3(made, copy_of, edit_config):
    directory = copy_of(made("llama3 rope"))
    checkpoint = open_checkpoint(directory)
    edit_config(directory, {"text_config.rope_scaling": {"rope_type": "linear", "factor": 8.0}})
    from edge_llava.converters.reference_model import check_reading

    with pytest.raises(ConversionError, match=r"read as theta 500000 and the scaling of Llama 3\.1 by 8"):
        check_reading(checkpoint)


def upstream_divisors(rope: dict[str, Any], theta: float, head_dim: int) -> list[float]:
    """Source: llama.cpp's LlamaModel.generate_extra_tensors."""
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    factors = []
    for i in range(0, head_dim, 2):
        wave = 2 * math.pi * theta ** (i / head_dim)
        original = rope["original_max_position_embeddings"]
        if wave < original / high:
            factors.append(1.0)
        elif wave > original / low:
            factors.append(rope["factor"])
        else:
            smooth = (original / wave - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return factors


@pytest.mark.parametrize(
    ("changes", "theta", "head_dim"),
    [({}, 5e5, 16), ({"original_max_position_embeddings": 8192}, 5e5, 128), ({"factor": 32.0}, 5e5, 64),
     ({"low_freq_factor": 2.0, "high_freq_factor": 2.5}, 1e4, 256)],
)  # fmt: skip
def test_divisors_of_frequencies(changes, theta, head_dim):
    """As llama.cpp's own converter writes them, and as transformers computes them."""
    import torch
    from transformers import LlamaConfig

    scaling = LLAMA3 | changes
    faults: list[str] = []
    rope = read_rope({"rope_theta": theta, "rope_scaling": scaling}, 1e4, faults)
    assert faults == []
    divisors = rope.llama3.divisors(theta, head_dim)
    assert divisors.shape == (head_dim // 2,)
    assert np.allclose(divisors, upstream_divisors(scaling, theta, head_dim), rtol=1e-12)
    assert divisors[0] == 1
    assert divisors[-1] == scaling["factor"]
    config = LlamaConfig(
        hidden_size=head_dim, num_attention_heads=1, rope_theta=theta, rope_scaling=rope.to_rope_scaling(),
        max_position_embeddings=1 << 17,
    )  # fmt: skip
    theirs = LLAMA.transformers_class("RotaryEmbedding")(config).inv_freq
    assert torch.allclose(theirs, torch.from_numpy(rope.frequencies(head_dim)).float(), rtol=1e-6)


def test_divisors_in_the_file(made, convert_to, read_gguf):
    file = read_gguf(Bundle.open(convert_to(made("llama3 rope"), quant="Q8_0")).file("language"))
    type_, shape, data = file.tensors["rope_freqs.weight"]
    assert (type_, shape) == ("F32", (8,))
    assert data == np.array(upstream_divisors(LLAMA3, 5e5, 16), np.float32).tobytes()
    assert "llama.rope.scaling.type" not in file.metadata  # the divisors are all that changes


@pytest.fixture
def read(tmp_path):
    """read(text_config) -> LanguageConfig, of a config that says nothing else."""

    def write_and_read(text: dict[str, Any]) -> Any:
        config = {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "text_config": text}
        (tmp_path / "config.json").write_text(json.dumps(config))
        return read_checkpoint_config(tmp_path).language

    return write_and_read


V5 = LLAMA3 | {"rope_theta": 5e5}


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_theta": 5e5, "rope_scaling": LLAMA3},
        {"rope_theta": 5e5, "rope_scaling": LLAMA3 | {"type": "llama3"}},
        {"rope_theta": 500000, "rope_scaling": {**LLAMA3, "factor": 8}},
        {"rope_parameters": V5},
        {"rope_parameters": {"full_attention": V5}},
        {"rope_theta": 5e5, "rope_scaling": LLAMA3, "rope_parameters": V5},
    ],
    ids=["4", "4, two types", "4, integers", "5", "5, by layer", "both"],
)
@pytest.mark.parametrize("model_type", ["llama", "mistral"])
def test_llama3_positions_from_all_keys(read, keys, model_type):
    language = read({"model_type": model_type} | keys)
    assert (language.rope_theta, language.rope_factor) == (5e5, None)
    assert language.rope_llama3 == Llama3Scaling(8.0, 1.0, 4.0, 64.0)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling.low_freq_factor is None, expected a"),
        ({"rope_scaling": LLAMA3 | {"factor": 0}}, "rope_scaling.factor is 0, expected a positive number"),
        ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "rope_scaling.high_freq_factor is 1.0, expected"),
        ({"rope_scaling": LLAMA3 | {"beta_fast": 32}}, "rope_scaling.beta_fast is 32, which is not"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "low_freq_factor": 1.0}},
            "rope_scaling.low_freq_factor is 1.0, which is not supported for the type 'linear'",
        ),
        (
            {"rope_scaling": LLAMA3, "rope_parameters": LLAMA3 | {"factor": 4.0}},
            "contradict each other (factor: rope_scaling",
        ),
        (
            {"rope_scaling": LLAMA3, "rope_parameters": {"rope_type": "linear", "factor": 8.0}},
            "contradict each other (factor: rope_scaling",
        ),
        ({"model_type": "qwen2", "rope_scaling": LLAMA3}, "llama.cpp does not compute for qwen2"),
        ({"model_type": "qwen2", "head_dim": 64}, "text_config.head_dim is 64, expected hidden_size / num"),
        ({"model_type": "qwen2", "layer_types": ["sliding_attention"] * 32}, "text_config.layer_types is"),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "layer_types": ["full_attention"] * 31},
            "expected 32 times 'full_attention' or 'sliding_attention'",
        ),
    ],
)  # fmt: skip
def test_what_is_refused(read, text, fault):
    with pytest.raises(CheckpointError) as error:
        read(text)
    assert fault in str(error.value)


def test_scaling_that_the_model_does_not_read():
    section = {"rope_theta": 1e6, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}
    faults: list[str] = []
    rope = read_rope(section, 1e4, faults, ignores_scaling=True)
    assert (rope.theta, rope.factor, rope.llama3, faults) == (1e6, None, None, [])
    read_rope(section, 1e4, faults)
    assert len(faults) == 1


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.model_type)
def test_sparse_sections_take_transformers_defaults(read, dialect):
    language, theirs = read({"model_type": dialect.model_type}), dialect.transformers_class("Config")()
    assert language.dialect is dialect
    assert dialect.transformers_class("ForCausalLM").config_class is type(theirs)
    assert (language.n_embd, language.n_ff, language.n_layer, language.n_head, language.n_head_kv, language.n_rows) == (
        theirs.hidden_size,
        theirs.intermediate_size,
        theirs.num_hidden_layers,
        theirs.num_attention_heads,
        theirs.num_key_value_heads,
        theirs.vocab_size,
    )
    assert (language.rms_eps, language.rope_theta) == (theirs.rms_norm_eps, theirs.rope_theta)
    window = theirs.sliding_window if dialect.default_window else None
    assert language.n_ctx_train == min(window or 1 << 31, theirs.max_position_embeddings)


@pytest.mark.parametrize(
    ("text", "n_ctx"),
    [
        ({"max_position_embeddings": 4096, "sliding_window": 2047}, 4096),  # Phi-3-mini as a LLaMA
        ({"max_position_embeddings": 4096, "sliding_window": 2047, "use_sliding_window": True}, 4096),
        ({"model_type": "mistral", "max_position_embeddings": 32768, "sliding_window": 4096}, 4096),
        ({"model_type": "mistral", "max_position_embeddings": 32768, "sliding_window": None}, 32768),
        ({"model_type": "qwen2", "max_position_embeddings": 32768, "sliding_window": 4096}, 32768),
        ({"model_type": "qwen2", "sliding_window": 1024, "use_sliding_window": False, "max_window_layers": 24}, 32768),
        ({"model_type": "qwen2", "sliding_window": 1024, "use_sliding_window": True, "max_window_layers": 24}, 1024),
        ({"model_type": "qwen2", "use_sliding_window": True}, 4096),
        (
            {"model_type": "qwen2", "sliding_window": 1024, "use_sliding_window": True,
             "layer_types": ["full_attention"] * 28 + ["sliding_attention"] * 4},
            1024,
        ),
        ({"model_type": "qwen2", "layer_types": ["full_attention"] * 32}, 32768),
    ],
)  # fmt: skip
def test_where_a_sliding_window_counts(read, text, n_ctx):
    assert read(text).n_ctx_train == n_ctx


def test_dialects_are_found_by_type():
    assert [find_dialect(name) for name in ("llama", "mistral", "qwen2", "qwen2_vl", None)] == [*DIALECTS, None, None]


def test_original_layout_with_llama3_positions(made, original_layout):
    directory = original_layout(made("llama3 rope"))
    check_reading(directory)
    assert open_checkpoint(directory).config.language.rope_llama3 == Llama3Scaling(8.0, 1.0, 4.0, 64.0)

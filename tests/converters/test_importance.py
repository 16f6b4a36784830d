"""What matters in a language model: against what llama.cpp itself multiplies, and by hand."""

from __future__ import annotations

import ctypes
from collections import defaultdict

import llama_cpp
import numpy as np
import pytest
import torch

from edge_llava.bundle.language_spec import QUANTS
from edge_llava.bundle.template_spec import describe_template
from edge_llava.bundle.templates import TEMPLATES
from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.dialogue import Dialogue, choose_evenly
from edge_llava.converters.dialogue_rows import DialogueRows, dialogue_rows
from edge_llava.converters.importance import measure_importance
from edge_llava.converters.language_gguf import write_language
from edge_llava.converters.options import ConvertOptions
from edge_llava.converters.quantize import Encoder
from edge_llava.converters.reference import reference_rows
from edge_llava.errors import ConversionError
from edge_llava.home.progress import silent

pytestmark = pytest.mark.convert


TURNS = (("What is this?", "A bus."), ("Why?", "Because it is red and has wheels."))


class GgmlTensor(ctypes.Structure):
    """struct ggml_tensor, up to its name."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    )


def watch_llama_cpp(path, ids) -> dict[str, np.ndarray]:
    """Mean squares of what the matrices of the blocks are multiplied with, as llama.cpp's own tool collects them."""
    library = llama_cpp.llama_cpp._lib
    op_name = library.ggml_op_name
    op_name.restype, op_name.argtypes = ctypes.c_char_p, [ctypes.c_int]
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = defaultdict(int)

    @ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.POINTER(GgmlTensor), ctypes.c_bool, ctypes.c_void_p)
    def collect(tensor, ask, _):
        found = tensor.contents
        if op_name(found.op) != b"MUL_MAT":
            return not ask
        weight, rows = (ctypes.cast(found.src[n], ctypes.POINTER(GgmlTensor)).contents for n in (0, 1))
        name = weight.name.decode()
        if not name.startswith("blk."):
            return not ask
        if not ask:
            shape = (rows.ne[1], rows.ne[0])
            values = np.ctypeslib.as_array(ctypes.cast(rows.data, ctypes.POINTER(ctypes.c_float)), shape)
            sums[name] = sums.get(name, 0) + (values.astype(np.float64) ** 2).sum(0)
            counts[name] += shape[0]
        return True

    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_threads = 128, 128, 128, 1
    params.type_k = params.type_v = 0  # F32
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cb_eval = ctypes.cast(collect, llama_cpp.llama_cpp.ggml_backend_sched_eval_callback)
    context = llama_cpp.llama_init_from_model(model, params)
    tokens = (llama_cpp.llama_token * len(ids))(*ids)
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    for n, id_ in enumerate(tokens):
        batch.token[n], batch.pos[n], batch.n_seq_id[n], batch.seq_id[n][0], batch.logits[n] = id_, n, 1, 0, True
    batch.n_tokens = len(ids)
    assert llama_cpp.llama_decode(context, batch) == 0
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return {name: values / counts[name] for name, values in sums.items()}


@pytest.mark.parametrize(
    "made",
    [
        pytest.param({"heads": 4, "kv_heads": 2, "layers": 3}, id="llama, gqa"),
        pytest.param({"heads": 4, "kv_heads": 4, "layers": 1, "tied": True}, id="llama, tied"),
        pytest.param({"model_type": "qwen2", "heads": 4, "kv_heads": 2}, id="qwen2"),
        pytest.param({"model_type": "mistral", "heads": 4, "kv_heads": 1}, id="mistral"),
    ],
)
def test_equals_what_llama_cpp_collects_for_a_text(make_checkpoint, shape, tmp_path, made):
    checkpoint = Checkpoint.open(str(make_checkpoint(shape(width=64, ff=96, **made), seed=61)))
    ids = [1, *np.random.default_rng(4).integers(3, 512, 40).tolist()]
    encoder = Encoder(1)
    write_language(checkpoint, tmp_path / "f32.gguf", "F32", encoder, silent)
    encoder.close()
    rows = checkpoint.load("language.embed_tokens.weight")[ids].float()
    ours = measure_importance(checkpoint, [DialogueRows(rows[:25], slice(25, 25))]).mean_squares
    theirs = watch_llama_cpp(tmp_path / "f32.gguf", ids[:25])
    assert set(ours) == set(theirs)
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name], values, rtol=1e-5, atol=1e-6 * values.max(), err_msg=name)


def test_rows_of_text_count_for_nine_tenths(make_checkpoint, shape):
    checkpoint = Checkpoint.open(str(make_checkpoint(shape(layers=1), seed=62)))
    random = torch.Generator().manual_seed(3)
    rows = [torch.randn(n, checkpoint.config.language.n_embd, generator=random) for n in (12, 20)]
    sequences = [DialogueRows(rows[0], slice(2, 9)), DialogueRows(rows[1], slice(0, 0))]
    norm = checkpoint.load("language.layers.0.input_layernorm.weight").float()
    read = [values * torch.rsqrt(values.square().mean(-1, keepdim=True) + 1e-5) * norm for values in rows]
    image, text = read[0][2:9], torch.cat([read[0][:2], read[0][9:], read[1]])
    expected = 0.1 * image.square().mean(0) + 0.9 * text.square().mean(0)
    found = measure_importance(checkpoint, sequences)
    for part in ("attn_q", "attn_k", "attn_v"):
        np.testing.assert_allclose(found.mean_squares[f"blk.0.{part}.weight"], expected.numpy(), rtol=1e-4)
    assert (found.n_dialogues, found.n_positions) == (2, 32)


def test_a_damaged_block_is_named(make_checkpoint, shape, copy_of, weights_of, put_weights):
    directory = copy_of(make_checkpoint(shape(layers=2), seed=63))
    tensors = weights_of(directory)
    tensors["language_model.model.layers.1.mlp.up_proj.weight"][0, 0] = float("inf")
    put_weights(directory, tensors)
    checkpoint = Checkpoint.open(str(directory))
    rows = checkpoint.load("language.embed_tokens.weight")[[1, 5, 9]].float()
    with pytest.raises(ConversionError, match="block 1 computes infinite or undefined numbers"):
        measure_importance(checkpoint, [DialogueRows(rows, slice(0, 0))])


@pytest.mark.parametrize("template", TEMPLATES)
def test_dialogues_are_read_as_the_runtime_writes_them(make_checkpoint, shape, language_of, template):
    """Up to the first answer; what follows is as the runtime tokenizes it as a whole."""
    directory = make_checkpoint(shape(), seed=64)
    checkpoint, language = Checkpoint.open(str(directory)), language_of(directory)
    spec, known = describe_template(TEMPLATES[template], {}), TEMPLATES[template]
    image = np.random.default_rng(1).normal(size=(1, 4, checkpoint.tower.hidden_size)).astype(np.float32)
    (found,) = dialogue_rows(checkpoint, spec, [Dialogue(0, TURNS)], [image])
    table = checkpoint.load("language.embed_tokens.weight").float()
    before = language.tokenize(f"{known.opening}{known.image_before}", add_bos=True)
    past = known.after_question if known.after_past_question is None else known.after_past_question
    (first, answer), (second, last) = TURNS
    parts = [
        f"{known.image_after}{known.before_question}{first}{past}{known.before_answer}{answer}{known.between_turns}",
        f"{known.before_question}{second}{known.after_question}{known.before_answer}{last}",
    ]
    after = [*language.tokenize("".join(parts), add_bos=False), checkpoint.vocabulary.eos]
    expected = torch.cat([table[before], torch.from_numpy(reference_rows(checkpoint, image)[0]), table[after]])
    assert found.image == slice(len(before), len(before) + 4)
    assert torch.equal(found.rows, expected)


def test_a_dialogue_without_an_image(make_checkpoint, shape):
    checkpoint = Checkpoint.open(str(make_checkpoint(shape(), seed=65)))
    (found,) = dialogue_rows(checkpoint, describe_template(TEMPLATES["llava_v1"], {}), [Dialogue(None, TURNS)], [])
    assert found.n_image == 0
    assert torch.equal(found.rows[0], checkpoint.load("language.embed_tokens.weight")[1].float())


@pytest.mark.parametrize(("n", "most", "expected"), [(3, 5, [0, 1, 2]), (9, 3, [0, 4, 8]), (5, 1, [0])])
def test_an_even_choice(n, most, expected):
    assert choose_evenly(range(n), most) == expected


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"quant": "F16", "imatrix": "auto"}, "imatrix changes nothing about F16"),
        ({"quant": "Q8_0", "imatrix": "auto"}, "imatrix changes nothing about Q8_0"),
        ({"quant": "MIXED"}, "quant MIXED and size_bytes belong together"),
        ({"size_bytes": 5}, "quant MIXED and size_bytes belong together"),
        ({"quant": "MIXED", "size_bytes": 0}, "size_bytes must be above 0"),
    ],
)
def test_options_that_do_not_go_together(options, fault):
    with pytest.raises(ValueError, match=fault):
        ConvertOptions(**options)


def test_what_needs_to_be_measured():
    needs = {quant for quant in QUANTS if ConvertOptions(quant=quant).measures_importance}
    assert needs == {"IQ3_XS", "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS"}
    assert ConvertOptions(imatrix="auto").measures_importance


def test_long_dialogues_are_cut(make_checkpoint, shape):
    checkpoint = Checkpoint.open(str(make_checkpoint(shape(), seed=66)))
    template, image = (
        describe_template(TEMPLATES["llava_v1"], {}),
        np.ones((1, 9, checkpoint.tower.hidden_size), np.float32),
    )
    turns = (("What? " * 400, "Well. " * 400),)
    (whole,) = dialogue_rows(checkpoint, template, [Dialogue(0, turns)], [image], 10**6)
    (cut,) = dialogue_rows(checkpoint, template, [Dialogue(0, turns)], [image], 90)
    assert len(whole.rows) > 800
    assert torch.equal(cut.rows, whole.rows[:90])
    assert cut.image == whole.image
    (default,) = dialogue_rows(checkpoint, template, [Dialogue(0, turns)], [image])
    assert len(default.rows) == min(len(whole.rows), checkpoint.config.language.n_ctx_train)

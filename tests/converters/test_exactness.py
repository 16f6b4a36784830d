"""An F32 bundle computes what the checkpoint computes in transformers: pixels, features, embeddings, greedy tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_llava

pytestmark = pytest.mark.convert

MAX_ABS = 1e-4
N_NEW = 32
HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
QUESTION = "What is shown in this picture?"
PROMPT = f"{HUMAN} USER: <image>\n{QUESTION} ASSISTANT:"


def read_answer(chat: Any, question: str, image: Any = None) -> list[int]:
    """Ids of one answer."""
    return [token.id for token in chat.ask(question, image=image)]


def greedy_options() -> Any:
    return edge_llava.SamplingOptions(temperature=0, max_new_tokens=N_NEW)


def compare(bundle: Path, truth: Any, image: np.ndarray, aspect: str = "pad") -> None:
    """Asserts that every stage of the bundle equals the reference."""
    from edge_llava.home.image_files.opening import open_image
    from edge_llava.runtime.vision.preprocess import pixel_values

    pixels = truth.pixels(image, aspect)
    features, embeddings = truth.features(pixels), truth.embeddings(pixels)
    tokens = truth.greedy(truth.prompt_ids(PROMPT), [pixels], N_NEW)
    with edge_llava.load(bundle) as model:
        assert model.manifest.vision.aspect == aspect
        our_pixels = pixel_values(open_image(image), model.manifest.vision)
        our_features, our_rows = model.patch_features(image), model.embed_image(image).data
        our_tokens = read_answer(model.session(greedy_options()), QUESTION, image)
    assert our_pixels.dtype == pixels.dtype == np.float32
    assert np.abs(our_pixels - pixels).max() == 0.0
    assert our_features.shape == features.shape
    assert our_rows.shape == embeddings.shape
    # The rows must be far enough from zero, and from each other, for 1e-4 to mean something.
    assert embeddings.std(0).mean() > 0.3
    assert np.abs(our_features - features).max() < MAX_ABS
    assert np.abs(our_rows - embeddings).max() < MAX_ABS
    assert our_tokens == tokens
    assert len(tokens) == N_NEW
    assert len(set(tokens)) > N_NEW // 3  # not one token over and over


@pytest.mark.family(
    "LLaVA-1.5, Hugging Face",
    "LlavaForConditionalGeneration, safetensors or .bin, one file or shards, names of transformers 4 and 5",
    "pixels 0.0, embeddings < 1e-4, greedy tokens equal",
)
def test_grouped_query_heads(make_llava, convert_to, shape, reference, make_image):
    checkpoint = make_llava(shape(heads=4, kv_heads=2), seed=1)
    compare(convert_to(checkpoint, quant="F32"), reference(checkpoint), make_image(70, 123, 1))


def test_one_kv_head_tied_and_new_prefixes(make_llava, convert_to, shape, reference, make_image, new_prefixes):
    checkpoint = make_llava(shape(heads=4, kv_heads=1, tied=True, layers=3), seed=2)
    bundle = convert_to(new_prefixes(checkpoint), quant="F32")
    compare(bundle, reference(checkpoint), make_image(97, 60, 2))


def test_three_heads_width_48_and_224_pixels(make_llava, convert_to, shape, reference, make_image):
    odd = shape(width=48, heads=3, kv_heads=3, ff=112, image_size=224, vision_width=48, vision_ff=80, vision_heads=3)
    checkpoint = make_llava(odd, seed=3)
    compare(convert_to(checkpoint, quant="F32"), reference(checkpoint), make_image(200, 301, 3))


def test_336_pixels_and_width_256(make_llava, convert_to, shape, reference, make_image):
    checkpoint = make_llava(shape(width=256, ff=512, image_size=336, context=1024), seed=4)
    compare(convert_to(checkpoint, quant="F32"), reference(checkpoint), make_image(333, 500, 4))


def test_cropped(make_llava, convert_to, shape, reference, make_image):
    checkpoint = make_llava(shape(), seed=5)
    truth, wide = reference(checkpoint), make_image(60, 151, 5)
    assert np.abs(truth.pixels(wide, "crop") - truth.pixels(wide, "pad")).max() > 0.5
    bundle = convert_to(checkpoint, quant="F32", aspect="crop")
    compare(bundle, truth, wide, "crop")


@pytest.mark.parametrize("safe", [True, False])
def test_shards_that_transformers_saved(make_llava, convert_to, shape, reference, make_image, tmp_path, safe):
    checkpoint = make_llava(shape(width=96, heads=3, kv_heads=1), seed=6)
    truth = reference(checkpoint)
    shards = tmp_path / "shards"
    truth.model.save_pretrained(shards, safe_serialization=safe, max_shard_size="200KB")
    (shards / "tokenizer.model").write_bytes((checkpoint / "tokenizer.model").read_bytes())
    kind = "safetensors" if safe else "bin"
    assert len(list(shards.glob(f"*-of-*.{kind}"))) > 3
    compare(convert_to(shards, quant="F32"), truth, make_image(80, 80, 6))


def test_saved_in_half_precision(make_llava, convert_to, shape, reference, make_image, tmp_path):
    import torch

    checkpoint = make_llava(shape(), seed=7)
    half = tmp_path / "half"
    reference(checkpoint).model.to(torch.bfloat16).save_pretrained(half)
    (half / "tokenizer.model").write_bytes((checkpoint / "tokenizer.model").read_bytes())
    compare(convert_to(half, quant="F32"), reference(half), make_image(50, 90, 7))


@pytest.mark.family(
    "LLaVA-1.5, original",
    "LlavaLlamaForCausalLM, either model_type, mlp2x_gelu, square or pad; tower by --vision-tower or by its name",
    "pixels 0.0, embeddings < 1e-4, greedy tokens equal",
)
@pytest.mark.parametrize(("ratio", "seed"), [("pad", 8), ("square", 9)])
def test_original_layout_with_the_tower_elsewhere(
    make_llava, convert_to, shape, reference, make_image, original_layout, ratio, seed
):
    checkpoint = make_llava(shape(heads=4, kv_heads=2), seed=8)
    original = original_layout(checkpoint, image_aspect_ratio=ratio)
    assert not list(original.glob("*.safetensors"))
    bundle = convert_to(original, quant="F32")
    aspect = "pad" if ratio == "pad" else "crop"
    compare(bundle, reference(checkpoint), make_image(64, 100, seed), aspect)


def test_last_layer_class_row_and_stretched_positions(
    make_llava, convert_to, shape, reference, make_image, edit_config
):
    checkpoint = make_llava(shape(), seed=9)
    changes = {
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "image_seq_length": 17,
        "text_config.rope_theta": 50000.0,
        "text_config.rope_scaling": {"rope_type": "linear", "factor": 4.0},
        "text_config.rms_norm_eps": 1e-3,
        "vision_config.hidden_act": "gelu",
        "vision_config.layer_norm_eps": 1e-3,
    }
    edit_config(checkpoint, changes)
    bundle = convert_to(checkpoint, quant="F32")
    compare(bundle, reference(checkpoint), make_image(80, 64, 9))
    with edge_llava.load(bundle) as model:
        assert model.embed_image(make_image(80, 64, 9)).data.shape == (17, 64)


def test_rotary_positions_as_transformers_5_writes_them(
    make_llava, convert_to, shape, reference, make_image, edit_config, copy_of
):
    checkpoint = make_llava(shape(), seed=21)
    rope = {"rope_theta": 1000000.0, "rope_type": "linear", "factor": 4.0}
    old = copy_of(checkpoint)
    scaling = {"rope_type": "linear", "factor": 4.0}
    edit_config(old, {"text_config.rope_theta": 1000000.0, "text_config.rope_scaling": scaling})
    new = copy_of(checkpoint)
    parameters = {"text_config.rope_parameters": {"full_attention": rope}}
    present = json.loads((new / "config.json").read_text())["text_config"]
    edit_config(new, parameters, [f"text_config.{key}" for key in ("rope_theta", "rope_scaling") if key in present])
    truth, shown = reference(old), make_image(70, 64, 21)
    compare(convert_to(new, quant="F32"), truth, shown)
    pixels = truth.pixels(shown, "pad")
    ids = truth.prompt_ids(PROMPT)
    assert truth.greedy(ids, [pixels], N_NEW) != reference(checkpoint).greedy(ids, [pixels], N_NEW)


def test_heads_wider_than_the_model_divided_by_them(
    make_llava, convert_to, shape, reference, make_image, edit_config, weights_of, put_weights
):
    import torch

    checkpoint = make_llava(shape(heads=4, kv_heads=2), seed=10)
    tensors = weights_of(checkpoint)
    torch.manual_seed(10)
    for name in tensors:
        if "language_model" in name and "self_attn" in name:
            rows, columns = tensors[name].shape
            wider = (rows, 128) if "o_proj" in name else (2 * rows, columns)
            tensors[name] = 0.15 * torch.randn(wider)
    put_weights(checkpoint, tensors)
    edit_config(checkpoint, {"text_config.head_dim": 32})
    bundle = convert_to(checkpoint, quant="F32")
    compare(bundle, reference(checkpoint), make_image(90, 91, 10))


def test_the_answer_depends_on_the_image(make_llava, convert_to, shape, make_image):
    with edge_llava.load(convert_to(make_llava(shape(), seed=11), quant="F32")) as model:
        answers = [
            read_answer(model.session(greedy_options()), QUESTION, image)
            for image in (make_image(60, 60, 1), make_image(60, 60, 2), None)
        ]
    assert answers[0] != answers[1]
    assert answers[0] != answers[2]


def continue_reference(truth: Any, turns: Sequence[tuple[str, list[np.ndarray]]]) -> list[list[int]]:
    """Greedy answers of a conversation: each turn is its prompt text and its images."""
    ids: list[int] = []
    seen: list[np.ndarray] = []
    answers = []
    for prompt, images in turns:
        ids += truth.prompt_ids(prompt, bos=not ids)
        seen += [truth.pixels(image, "pad") for image in images]
        answers.append(truth.greedy(ids, seen, N_NEW))
        ids += [id_ for id_ in answers[-1] if id_ != truth.tokenizer.eos_token_id]  # the next prompt begins with it
    return answers


def test_two_turns_with_an_image_each(make_llava, convert_to, shape, reference, make_image):
    checkpoint = make_llava(shape(heads=4, kv_heads=2), seed=12)
    truth, first, second = reference(checkpoint), make_image(60, 100, 1), make_image(75, 50, 2)
    expected = continue_reference(
        truth,
        [
            (f"{HUMAN} USER: <image>\nWhich colour is the box? ASSISTANT:", [first]),
            ("</s>USER: Is it left of the lamp? ASSISTANT:", []),
            ("</s>USER: <image>\nAnd here? ASSISTANT:", [second]),
        ],
    )
    with edge_llava.load(convert_to(checkpoint, quant="F32")) as model:
        chat = model.session(greedy_options())
        answers = [
            read_answer(chat, "Which colour is the box?", first),
            read_answer(chat, "Is it left of the lamp?"),
            read_answer(chat, "And here?", second),
        ]
        cached = chat.timings.cached_tokens
    assert answers == expected
    assert len({tuple(ids) for ids in answers}) == 3
    assert cached > 100  # the earlier turns were kept, not computed again


def test_two_images_in_one_question(make_llava, convert_to, shape, reference, make_image):
    checkpoint = make_llava(shape(kv_heads=2), seed=13)
    truth, left, right = reference(checkpoint), make_image(60, 100, 3), make_image(99, 98, 4)
    prompt = f"{HUMAN} USER: <image>\n<image>\nWhat differs? ASSISTANT:"
    expected = continue_reference(truth, [(prompt, [left, right])])[0]
    swapped = continue_reference(truth, [(prompt, [right, left])])[0]
    with edge_llava.load(convert_to(checkpoint, quant="F32")) as model:
        assert read_answer(model.session(greedy_options()), "What differs?", [left, right]) == expected
        assert read_answer(model.session(greedy_options()), "What differs?", [right, left]) == swapped
    assert expected != swapped


def test_language_gguf_in_plain_llama_cpp(make_llava, convert_to, shape, reference):
    import llama_cpp
    import torch

    checkpoint = make_llava(shape(heads=4, kv_heads=2), seed=14)
    truth = reference(checkpoint)
    ids = truth.ids("How many things are there? There are three of them: a cup, a spoon and a plate.", bos=True)
    with torch.inference_mode():
        logits = truth.model(input_ids=torch.tensor([ids])).logits[0, :, :512].numpy()
    path = convert_to(checkpoint, quant="F32") / "language.gguf"
    plain = llama_cpp.Llama(model_path=str(path), n_ctx=128, logits_all=True, verbose=False)
    try:
        assert plain.n_vocab() == 512
        plain.eval(ids)
        ours = plain.scores[: len(ids)].copy()
    finally:
        plain.close()
    # llama.cpp's default KV cache is in half precision: near ties may change places.
    best = np.sort(logits, axis=-1)[:, -2:]
    is_clear = best[:, 1] - best[:, 0] > 0.05
    assert is_clear.mean() > 0.8
    assert (ours.argmax(-1) == logits.argmax(-1))[is_clear].all()
    assert np.abs(ours - logits).max() < 0.05

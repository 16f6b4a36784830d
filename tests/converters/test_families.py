"""Every family of LLaVA in its true layout: an F32 bundle computes what the family's reference computes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_llava
from edge_llava.errors import CheckpointError

pytestmark = pytest.mark.convert

N_NEW = 16
HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
QUESTION = "What is shown?"
V1 = f"{HUMAN} USER: <image>\n{QUESTION} ASSISTANT:"
EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")
TO_ORIGINAL = (
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("multi_modal_projector.linear_1.", "model.mm_projector.0."),
    ("multi_modal_projector.linear_2.", "model.mm_projector.2."),
)


def check(bundle: Path, truth: Any, shown: np.ndarray, prompt: str, ids: list[int] | None = None) -> None:
    """Asserts embeddings within 1e-4 of the reference and the same greedy tokens."""
    pixels = truth.pixels(shown, "pad")
    expected = truth.greedy(truth.prompt_ids(prompt) if ids is None else ids, [pixels], N_NEW)
    options = edge_llava.SamplingOptions(temperature=0, max_new_tokens=N_NEW)
    with edge_llava.load(bundle) as model:
        rows = model.embed_image(shown).data
        tokens = [token.id for token in model.session(options).ask(QUESTION, image=shown)]
    assert np.abs(rows - truth.embeddings(pixels)).max() < 1e-4
    assert tokens == expected
    assert len(set(tokens)) > N_NEW // 3


@pytest.fixture
def llama_directory(tmp_path, put_weights) -> Callable[..., Path]:
    """llama_directory(llava, tensors by LLaMA's names, name="base") -> a LlamaForCausalLM."""

    def make(llava: Path, tensors: dict[str, Any], name: str = "base") -> Path:
        directory = tmp_path / name
        directory.mkdir()
        config = json.loads((llava / "config.json").read_text())["text_config"]
        n_rows = len(tensors["model.embed_tokens.weight"])
        changes = {"architectures": ["LlamaForCausalLM"], "vocab_size": n_rows}
        (directory / "config.json").write_text(json.dumps(config | changes))
        shutil.copyfile(llava / "tokenizer.model", directory / "tokenizer.model")
        put_weights(directory, {key: tensor for key, tensor in tensors.items() if is_llama(key)}, "bin")
        return directory

    return make


def is_llama(name: str) -> bool:
    return name.startswith(("model.layers.", "model.embed", "model.norm", "lm_head.")) and "rotary" not in name


def load_bin(directory: Path) -> dict[str, Any]:
    import torch

    return torch.load(directory / "pytorch_model.bin", weights_only=True)


@pytest.fixture
def twin(copy_of, weights_of, put_weights) -> Callable[..., Path]:
    """twin(llava, tensors by original names) -> the same weights in Hugging Face layout, for transformers."""
    import torch

    def make(llava: Path, original: dict[str, Any]) -> Path:
        copy = copy_of(llava)
        tensors = weights_of(copy)
        for name in tensors:
            new = name
            for ours, theirs in TO_ORIGINAL:
                new = theirs + name[len(ours) :] if name.startswith(ours) else new
            if new in original:
                rows = original[new].float()
                tensors[name] = torch.cat([rows, tensors[name][len(rows) :]])
        put_weights(copy, tensors)
        return copy

    return make


@pytest.mark.family(
    "Delta of v0 or v1.1",
    "--base LLAMA; summed tensor by tensor in the delta's precision",
    "embeddings < 1e-4, greedy tokens equal",
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_delta(make_llava, original_layout, llama_directory, twin, shape, reference, make_image, convert_to, dtype):
    import torch

    kind = getattr(torch, dtype)
    llava = make_llava(shape(), seed=71)
    directory = original_layout(llava)
    whole = {name: tensor.to(kind) for name, tensor in load_bin(directory).items()}
    random = torch.Generator().manual_seed(3)
    delta = {
        n: 0.1 * t.std() * torch.randn(t.shape, generator=random).to(kind) if is_llama(n) else t
        for n, t in whole.items()
    }
    base = {n: t - delta[n] for n, t in whole.items() if is_llama(n)}
    torch.save(delta, directory / "pytorch_model.bin")
    below = llama_directory(llava, base)
    # as LLaVA's apply_delta.py: the sum in the delta's precision
    summed = {n: t + base[n] if n in base else t for n, t in delta.items()}
    bundle = convert_to(directory, quant="F32", base=str(below))
    check(bundle, reference(twin(llava, summed)), make_image(80, 70, 7), V1)


def test_delta_with_rows_of_new_tokens(make_llava, original_layout, llama_directory, shape, convert_to):
    """Base rows are added to the first rows only; the others are complete in the delta."""
    import torch

    from edge_llava.converters.checkpoint import Checkpoint

    llava = make_llava(shape(), seed=72)
    directory = original_layout(llava, vocab_size=515, mm_use_im_start_end=True)
    delta = {n: 0.01 * t if is_llama(n) else t for n, t in load_bin(directory).items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        delta[name] = torch.cat([delta[name], torch.full((3, delta[name].shape[1]), 0.5)])
    torch.save(delta, directory / "pytorch_model.bin")
    (directory / "added_tokens.json").write_text(json.dumps({"<im_patch>": 512, "<im_start>": 513, "<im_end>": 514}))
    base = llama_directory(llava, load_bin(original_layout(llava)))
    opened = Checkpoint.open(str(directory), base=str(base))
    rows = opened.load("language.embed_tokens.weight")
    torch.testing.assert_close(rows[:512], 1.01 * load_bin(base)["model.embed_tokens.weight"])
    assert (rows[512:] == 0.5).all()
    assert opened.vocabulary.tokens[513:] == ["<im_start>", "<im_end>"]


@pytest.mark.family(
    "LoRA",
    "--base, adapter_model, non_lora_trainables.bin; settings as listed below",
    "merge as peft's, embeddings < 1e-4, greedy tokens equal",
)
@pytest.mark.parametrize(
    ("rank_stabilized", "pattern"), [(False, {}), (True, {}), (False, {"layers.0.self_attn.q_proj": 3})]
)
def test_lora(
    make_llava, original_layout, llama_directory, twin, shape, reference, make_image, convert_to, tmp_path,
    rank_stabilized, pattern,
):  # fmt: skip
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    llava = make_llava(shape(), seed=73)
    original = original_layout(llava)
    tensors = load_bin(original)
    base = llama_directory(llava, tensors)
    adapter = get_peft_model(
        LlamaForCausalLM.from_pretrained(base),
        LoraConfig(
            r=4, lora_alpha=16, use_rslora=rank_stabilized, rank_pattern=pattern,
            alpha_pattern=dict.fromkeys(pattern, 8),
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        ),
    )  # fmt: skip
    torch.manual_seed(5)
    for name, parameter in adapter.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    lora = tmp_path / "lora"
    adapter.save_pretrained(lora)
    shutil.copyfile(original / "config.json", lora / "config.json")
    others = {f"base_model.model.{n}": t for n, t in tensors.items() if "mm_projector" in n}
    torch.save(others, lora / "non_lora_trainables.bin")
    merged = adapter.merge_and_unload().state_dict()
    assert any((merged[name] != tensors[name]).any() for name in merged)
    bundle = convert_to(lora, quant="F32", base=str(base))
    check(bundle, reference(twin(llava, tensors | merged)), make_image(66, 90, 8), V1)


@pytest.mark.family(
    "Projector alone",
    "--base, mm_projector.bin",
    "embeddings < 1e-4, greedy tokens equal",
)
def test_projector_alone(
    make_llava, original_layout, llama_directory, shape, reference, make_image, convert_to, tmp_path
):
    import torch

    llava = make_llava(shape(), seed=74)
    original = original_layout(llava)
    tensors = load_bin(original)
    projector = tmp_path / "projector"
    projector.mkdir()
    shutil.copyfile(original / "config.json", projector / "config.json")
    torch.save(
        {n.removeprefix("model."): t for n, t in tensors.items() if "projector" in n}, projector / "mm_projector.bin"
    )
    bundle = convert_to(projector, quant="F32", base=str(llama_directory(llava, tensors)))
    check(bundle, reference(llava), make_image(60, 60, 9), V1)


@pytest.mark.family(
    "Original with its tower inside (BakLLaVA)",
    "tower tensors in the shards; sizes inferred from them",
    "embeddings < 1e-4, greedy tokens equal",
)
def test_a_tower_inside_the_original_layout(
    make_llava, original_layout, shape, reference, make_image, convert_to, weights_of
):
    import torch

    llava = make_llava(shape(vision_width=128, vision_heads=2), seed=75)
    directory = original_layout(llava, tower=None)
    tensors = load_bin(directory)
    inside = {n: t for n, t in weights_of(llava).items() if n.startswith("vision_tower.")}
    torch.save(tensors | {f"model.vision_tower.{n}": t for n, t in inside.items()}, directory / "pytorch_model.bin")
    check(convert_to(directory, quant="F32"), reference(llava), make_image(60, 90, 10), V1)


@pytest.mark.family(
    "Mistral (BakLLaVA, 1.6-mistral)",
    "llava_mistral and text_config mistral; grouped-query; template mistral_instruct",
    "embeddings < 1e-4, greedy tokens equal",
)
@pytest.mark.parametrize("layout", ["hf", "original"])
def test_mistral(make_llava, original_layout, edit_config, copy_of, shape, reference, make_image, convert_to, layout):
    llava = copy_of(make_llava(shape(heads=4, kv_heads=2), seed=76))
    edit_config(llava, {"text_config.model_type": "mistral", "text_config.sliding_window": None})
    directory = llava
    if layout == "original":
        kind = {"architectures": ["LlavaMistralForCausalLM"], "model_type": "llava_mistral", "sliding_window": 4096}
        directory = original_layout(llava, **kind)
    bundle = convert_to(directory, quant="F32")
    check(bundle, reference(llava), make_image(50, 60, 11), f"[INST] <image>\n{QUESTION} [/INST]")


@pytest.mark.family(
    "v0, v1.0, v1.1",
    "linear projector, <im_start> and <im_end> with their rows, wrong bos and eos in the config; template llava_v0",
    "embeddings < 1e-4, greedy tokens equal",
)
def test_v0_linear_with_image_marks(make_llava, original_layout, shape, reference, make_image, convert_to):
    """It has a linear projector, trained <im_start> and <im_end>, wrong ids in the config, "###" between turns."""
    import torch

    llava = make_llava(shape(), seed=77)
    drop = ("mm_projector_type", "image_aspect_ratio", "max_position_embeddings")
    directory = original_layout(
        llava, architectures=["LlamaForCausalLM"], model_type="llama", mm_use_im_start_end=True, vocab_size=515,
        bos_token_id=0, eos_token_id=1, pad_token_id=-1, max_sequence_length=512,
    )  # fmt: skip
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in drop}))
    (directory / "added_tokens.json").write_text(json.dumps({"<im_patch>": 512, "<im_start>": 513, "<im_end>": 514}))
    tensors = load_bin(directory)
    random = torch.Generator().manual_seed(1)
    marks = {name: torch.randn((3, tensors[name].shape[1]), generator=random) for name in EMBEDDINGS}
    for name in EMBEDDINGS:
        tensors[name] = torch.cat([tensors[name], marks[name] * tensors[name].std()])
    linear = {part: tensors[f"model.mm_projector.0.{part}"] for part in ("weight", "bias")}
    tensors = {n: t for n, t in tensors.items() if "mm_projector" not in n}
    torch.save(tensors | {f"model.mm_projector.{n}": t for n, t in linear.items()}, directory / "pytorch_model.bin")

    truth = reference(llava)
    projector = torch.nn.Linear(*reversed(linear["weight"].shape))
    projector.load_state_dict(linear)
    truth.model.model.multi_modal_projector = projector
    with torch.no_grad():
        for ours, theirs in (
            (truth.model.get_input_embeddings().weight, EMBEDDINGS[0]),
            (truth.model.lm_head.weight, EMBEDDINGS[1]),
        ):
            ours[:515] = tensors[theirs]
    image = truth.config.image_token_index
    truth.config.image_token_index = truth.model.config.image_token_index = ours.shape[0] - 1
    n_features, shown = truth.config.image_seq_length, make_image(40, 90, 12)
    ids = [*truth.ids(f"{HUMAN}###Human: ", bos=True), 513, *[truth.config.image_token_index] * n_features, 514]
    ids += truth.ids(f"\n{QUESTION}###Assistant:")
    assert image != truth.config.image_token_index
    bundle = convert_to(directory, quant="F32")
    pixels = truth.pixels(shown, "crop")
    expected = truth.greedy(ids, [pixels], N_NEW)
    options = edge_llava.SamplingOptions(temperature=0, max_new_tokens=N_NEW)
    with edge_llava.load(bundle) as model:
        template = model.manifest.language.template
        assert template.name == "llava_v0"
        assert (len(template.image_before), template.image_after[1:]) == (1, ("\n",))
        assert (model.manifest.language.bos, model.manifest.language.eos) == (1, 2)
        assert np.abs(model.embed_image(shown).data - truth.embeddings(pixels)).max() < 1e-4
        tokens = [token.id for token in model.session(options).ask(QUESTION, image=shown)]
    assert tokens == expected


@pytest.fixture
def delta_and_base(make_llava, original_layout, llama_directory, shape) -> tuple[Path, Path]:
    import torch

    llava = make_llava(shape(), seed=78)
    directory = original_layout(llava)
    whole = load_bin(directory)
    torch.save({n: 0.01 * t if is_llama(n) else t for n, t in whole.items()}, directory / "pytorch_model.bin")
    return directory, llama_directory(llava, whole)


def refusal(source: Path, **options: Any) -> str:
    from edge_llava.converters.checkpoint import Checkpoint

    with pytest.raises(CheckpointError) as error:
        Checkpoint.open(str(source), **options)
    return str(error.value)


def test_a_delta_without_its_base(delta_and_base):
    assert "is a delta: its last norm is next to nothing. Give the LLaMA" in refusal(delta_and_base[0])


def test_a_whole_model_is_not_a_delta(make_llava, original_layout, delta_and_base, shape):
    whole = original_layout(make_llava(shape(), seed=78), tower="clip-of-whole")
    assert "is a whole model, not a delta" in refusal(whole, base=str(delta_and_base[1]))


def test_a_base_of_another_size(make_llava, original_layout, llama_directory, delta_and_base, shape):
    other = make_llava(shape(width=128, layers=3), seed=79)
    base = llama_directory(other, load_bin(original_layout(other, tower="clip-of-other")), "other")
    text = refusal(delta_and_base[0], base=str(base))
    assert "is not a delta of" in text
    assert "language.layers.0.mlp.up_proj.weight has shape" in text
    assert "language.layers.2.mlp.up_proj.weight is in the base only" in text


def test_a_base_with_more_tokens(delta_and_base, put_weights):
    import torch

    directory, base = delta_and_base
    tensors = load_bin(base)
    for name in EMBEDDINGS:
        tensors[name] = torch.cat([tensors[name], tensors[name][:1]])
    put_weights(base, tensors, "bin")
    text = refusal(directory, base=str(base))
    assert "language.embed_tokens.weight has shape (512, " in text
    assert "in the base (513, " in text


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"r": 0}, "r is 0, expected a positive integer"),
        ({"lora_alpha": None}, "lora_alpha is None, expected a number"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True, which cannot be merged here"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3', expected 'LORA'"),
        ({"rank_pattern": {"q_proj": "many"}}, "rank_pattern is {'q_proj': 'many'}, expected names with positive"),
    ],
)
def test_adapters_that_cannot_be_merged(delta_and_base, tmp_path, change, fault):
    _, base = delta_and_base
    lora = adapter(tmp_path, delta_and_base[0], {"q_proj": (4, 4)}, change)
    assert fault in refusal(lora, base=str(base))


def test_an_adapter_of_another_base(delta_and_base, tmp_path):
    lora = adapter(tmp_path, delta_and_base[0], {"q_proj": (4, 4)})
    text = refusal(lora, base=str(delta_and_base[1]))
    assert "does not fit its base" in text
    assert "language.layers.0.self_attn.q_proj.weight has shape" in text


def test_an_adapter_without_its_base(delta_and_base, tmp_path):
    lora = adapter(tmp_path, delta_and_base[0], {"q_proj": (4, 4)})
    assert "is a LoRA adapter. Give the model that it belongs to: --base DIR" in refusal(lora)


def test_an_adapter_of_what_llava_does_not_have(delta_and_base, tmp_path):
    lora = adapter(tmp_path, delta_and_base[0], {"router": (4, 4)})
    assert "language.layers.0.self_attn.router.weight is not in the base" in refusal(lora, base=str(delta_and_base[1]))


def adapter(tmp_path: Path, original: Path, modules: dict[str, tuple[int, int]], change: Any = None) -> Path:
    import torch
    from safetensors.torch import save_file

    lora = tmp_path / "lora"
    lora.mkdir()
    shutil.copyfile(original / "config.json", lora / "config.json")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    (lora / "adapter_config.json").write_text(json.dumps(config | (change or {})))
    prefix = "base_model.model.model.layers.0.self_attn"
    tensors = {f"{prefix}.{name}.lora_A.weight": torch.ones(2, n_in) for name, (n_in, _) in modules.items()}
    tensors |= {f"{prefix}.{name}.lora_B.weight": torch.ones(n_out, 2) for name, (_, n_out) in modules.items()}
    save_file(tensors, lora / "adapter_model.safetensors")
    return lora

"""Checkpoints as other programs save them: every tensor is used, known to be unused, or named in an error."""

from __future__ import annotations

import codecs
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import edge_llava
from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.checkpoint_config import read_tower_config
from edge_llava.converters.expected_tensors import expected_vision_shapes
from edge_llava.converters.template_choice import checkpoint_template
from edge_llava.converters.tensor_store import TensorStore
from edge_llava.errors import CheckpointError

pytestmark = pytest.mark.convert

SAVED = Path(__file__).parents[1] / "data" / "checkpoints"
DEMO = Path(edge_llava.__file__).parent / "demo" / "llava-scenes"
LAYER = "language_model.model.layers.1."
Q_PROJ = f"{LAYER}self_attn.q_proj"
NEWLINE = "image_newline"


@pytest.fixture(scope="module")
def tiny(make_checkpoint, shape) -> Path:
    """Read only."""
    return make_checkpoint(shape(), seed=91)


@pytest.fixture
def saved(tiny, copy_of, weights_of, put_weights) -> Callable[..., Path]:
    """saved(change, kind="safetensors") -> a copy whose tensors by name went through `change`."""

    def save(change: Callable[[dict[str, Any]], dict[str, Any]], kind: str = "safetensors") -> Path:
        copy = copy_of(tiny)
        put_weights(copy, change(weights_of(tiny)), kind)
        return copy

    return save


def refusal(directory: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as error:
        Checkpoint.open(str(directory), **options)
    return str(error.value)


def assert_same(directory: Path, tiny: Path) -> None:
    ours, theirs = Checkpoint.open(str(directory)), Checkpoint.open(str(tiny))
    names = [*theirs.language_tensors(), *theirs.projector_names(), *expected_vision_shapes(theirs.tower, 2)]
    assert len(names) > 50
    for name in names:
        assert torch.equal(ours.load(name), theirs.load(name)), name


def write_saved(name: str, directory: Path) -> dict[str, torch.Tensor]:
    """Copies what a version of transformers saved, with the demo's tokenizer and random weights; returns tensors."""
    from safetensors.torch import save_file

    data = json.loads((SAVED / f"{name}.json").read_text(encoding="utf-8"))
    for file, content in data["files"].items():
        (directory / file).write_text(json.dumps(content), encoding="utf-8")
    shutil.copyfile(DEMO / "tokenizer.model", directory / "tokenizer.model")
    random = torch.Generator().manual_seed(1)
    tensors = {name: torch.rand(shape, generator=random).half() for name, shape in data["tensors"].items()}
    save_file(tensors, directory / "model.safetensors")
    return tensors


@pytest.mark.parametrize("major", [4, 5])
@pytest.mark.parametrize(
    ("family", "theta", "factor", "template"),
    [
        ("llava", 1e4, None, "llava_v1"),
        ("llava-linear", 5e4, 4.0, "llava_v1"),
        ("llava-mistral", 1e6, None, "mistral_instruct"),
        ("next-llama", 1e4, None, "llava_v1"),
        ("next-mistral", 1e6, None, "mistral_instruct"),
        ("resaved", 1e4, None, "llava_v1"),
    ],
)
def test_what_transformers_saves(tmp_path, family, major, theta, factor, template):
    tensors = write_saved(f"{family}-{major}", tmp_path)
    opened = Checkpoint.open(str(tmp_path))
    language = opened.config.language
    assert (language.rope_theta, language.rope_factor) == (theta, factor)
    assert checkpoint_template(opened, None).name == template
    assert opened.config.aspect == ("anyres" if family.startswith("next") else "pad")
    assert language.n_head_kv == (1 if "mistral" in family else language.n_head)
    prefix = "vision_tower." if major == 5 and family != "resaved" else "vision_tower.vision_model."
    patches = tensors[f"{prefix}embeddings.patch_embedding.weight"]
    assert torch.equal(opened.load("vision.embeddings.patch_embedding.weight"), patches)
    assert opened.has("projector.image_newline") == family.startswith("next")


@pytest.mark.parametrize("name", ["clip-4", "clip-5", "clip-vision-4", "clip-vision-5"])
def test_towers_that_transformers_saves(tmp_path, name):
    write_saved(name, tmp_path)
    tower, store = read_tower_config(tmp_path), TensorStore.open(tmp_path, "clip")
    expected = expected_vision_shapes(tower, tower.n_layers)
    assert {key: store.infos[key].shape for key in expected} == expected
    assert store.infos.keys() - expected.keys() == {"vision.post_layernorm.weight", "vision.post_layernorm.bias"}


@pytest.mark.parametrize(
    ("added", "size"),
    [
        (f"{LAYER}self_attn.q_norm.weight", (32,)),
        (f"{Q_PROJ}.bias", (64,)),
        (f"{LAYER}self_attn.rotary_emb.scale", (1,)),
        (f"{LAYER}mlp.experts.0.up_proj.weight", (4, 4)),
        ("language_model.model.layers.2.input_layernorm.weight", (64,)),
        ("language_model.lm_head.bias", (576,)),
        ("model.language_model.layers.0.mlp.gate.weight", (4, 4)),
        ("vision_tower.vision_model.encoder.layers.0.layer_scale1", (64,)),
        ("vision_tower.vision_model.encoder.layers.3.layer_norm1.weight", (64,)),
        ("vision_tower.vision_model.embeddings.patch_embedding.bias", (64,)),
        ("vision_tower.head.probe", (1, 1, 64)),
        ("multi_modal_projector.linear_3.weight", (4, 4)),
        ("multi_modal_projector.norm.weight", (64,)),
        (NEWLINE, (64,)),
        ("audio_tower.layers.0.weight", (4, 4)),
        ("model.layers.0.self_attn.q_proj.weight", (4, 4)),
    ],
)
def test_a_tensor_without_a_use_is_named(saved, added, size):
    text = refusal(saved(lambda tensors: tensors | {added: torch.ones(size)}))
    assert f"  - {added}" in text.splitlines()
    assert "a bundle would lose them" in text


@pytest.mark.parametrize(
    "added",
    [
        f"{LAYER}self_attn.rotary_emb.inv_freq",
        "language_model.model.rotary_emb.inv_freq",
        "vision_tower.vision_model.embeddings.position_ids",
    ],
)
def test_buffers_have_no_use(saved, tiny, added):
    assert_same(saved(lambda tensors: tensors | {added: torch.ones(8, dtype=torch.int64)}), tiny)


@pytest.mark.parametrize("added", ["model.layers.0.self_attn.q_norm.weight", "model.vision_resampler.query", "x.y"])
def test_a_tensor_without_a_use_in_the_original_layout(tiny, original_layout, added):
    directory = original_layout(tiny)
    path = directory / "pytorch_model.bin"
    torch.save(torch.load(path, weights_only=True) | {added: torch.ones(4)}, path)
    assert f"  - {added}" in refusal(directory)


def test_a_tower_of_its_own_is_read_whole(tiny, original_layout, tmp_path):
    from safetensors.torch import load, save_file

    directory = original_layout(tiny)
    path = tmp_path / "clip" / "model.safetensors"
    save_file(load(path.read_bytes()) | {"vision_model.encoder.layers.0.gate": torch.ones(4)}, path)
    assert "  - vision_model.encoder.layers.0.gate" in refusal(directory)


@pytest.mark.parametrize("name", ["mm_projector.bin", "non_lora_trainables.bin"])
def test_an_unused_tensor_next_to_an_adapter_or_projector(tiny, original_layout, copy_of, name):
    base = original_layout(tiny)
    directory = copy_of(base)
    (directory / "pytorch_model.bin").unlink()
    whole = torch.load(base / "pytorch_model.bin", weights_only=True)
    tensors = {key: tensor for key, tensor in whole.items() if "mm_projector" in key}
    torch.save({key: tensor for key, tensor in whole.items() if "mm_projector" not in key}, base / "pytorch_model.bin")
    torch.save(tensors, directory / name)
    assert Checkpoint.open(str(directory), base=str(base)).has("projector.0.weight")
    torch.save(tensors | {"model.vision_resampler.query": torch.ones(4)}, directory / name)
    assert "  - model.vision_resampler.query" in refusal(directory, base=str(base))
    torch.save(tensors | {"model.layers.0.self_attn.q_norm.weight": torch.ones(4)}, directory / name)
    assert "  - model.layers.0.self_attn.q_norm.weight" in refusal(directory, base=str(base))


@pytest.mark.parametrize(
    "names",
    [
        (f"{Q_PROJ}.lora_A.default.weight", f"{Q_PROJ}.lora_B.default.weight"),
        (f"{Q_PROJ}.lora_A.weight",),
        (f"{Q_PROJ}.lora_magnitude_vector.default.weight",),
        ("language_model.model.embed_tokens.lora_embedding_A.default",),
        ("language_model.lm_head.modules_to_save.default.weight",),
        (f"base_model.model.{Q_PROJ}.lora_A.default.weight",),
    ],
)
@pytest.mark.parametrize("has_base_layer", [True, False])
def test_an_adapter_that_was_never_merged(saved, names, has_base_layer):
    def change(tensors: dict[str, Any]) -> dict[str, Any]:
        if has_base_layer:
            tensors[f"{Q_PROJ}.base_layer.weight"] = tensors.pop(f"{Q_PROJ}.weight")
        return tensors | {name: torch.ones(4, 4) for name in names}

    text = refusal(saved(change))
    assert all(f"  - {name}" in text for name in names)
    assert "contains an adapter that was never merged. Merge it (peft's merge_and_unload), or save the adapter" in text


def prefixed(prefix: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def inside(part: str, wrapper: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tensors: {name.replace(part, f"{part}{wrapper}"): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "change",
    [
        prefixed("_orig_mod."),
        prefixed("module."),
        prefixed("base_model.model."),
        prefixed("module._orig_mod."),
        prefixed("_orig_mod.module.base_model.model."),
        prefixed("_fsdp_wrapped_module."),
        inside("q_proj.", "base_layer."),
        inside("language_model.model.", "_orig_mod."),
        inside("layers.0.", "_checkpoint_wrapped_module."),
        lambda tensors: inside("v_proj.", "base_layer.")(prefixed("base_model.model.")(tensors)),
    ],
)
def test_what_programs_put_around_a_model(saved, tiny, change):
    assert_same(saved(change, "bin"), tiny)


def test_wrapped_and_plain_names_of_one_tensor(saved):
    name = "language_model.model.norm.weight"
    text = refusal(saved(lambda tensors: tensors | {f"module.{name}": tensors[name] * 2}))
    assert "contains the same tensor more than once" in text
    assert f"module.{name}" in text


def test_names_of_transformers_5(saved, tiny):
    removed = {"vision_tower.vision_model.": "vision_tower."}
    newer = removed | {"language_model.model.": "model.language_model.", "language_model.lm_head.": "lm_head."}

    def rename(prefixes: dict[str, str], outer: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
        def change(tensors: dict[str, Any]) -> dict[str, Any]:
            renamed = {}
            for name, tensor in tensors.items():
                new = name
                for old, replacement in prefixes.items():
                    new = replacement + name.removeprefix(old) if name.startswith(old) else new
                is_outer = new.startswith(("vision_tower.", "multi_modal_projector."))
                renamed[(outer if is_outer else "") + new] = tensor
            return renamed

        return change

    assert_same(saved(rename(removed, "")), tiny)
    assert_same(saved(rename(newer, "model.")), tiny)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "module"])
def test_a_nested_state_dict(tiny, copy_of, weights_of, key):
    copy = copy_of(tiny)
    (copy / "model.safetensors").unlink()
    torch.save({key: weights_of(tiny), "epoch": 3, "optimizer": {"state": {}}}, copy / "pytorch_model.bin")
    assert_same(copy, tiny)


def test_a_nested_state_dict_next_to_tensors(tiny, copy_of, weights_of):
    copy = copy_of(tiny)
    (copy / "model.safetensors").unlink()
    torch.save({"state_dict": weights_of(tiny), "extra": torch.ones(3)}, copy / "pytorch_model.bin")
    assert "pytorch_model.bin is not a state dict" in refusal(copy)


def write_series(directory: Path, tensors: dict[str, Any], stem: str, index: str = "") -> None:
    from safetensors.torch import save_file

    names, weight_map = sorted(tensors), {}
    for i in range(2):
        part = {name: tensors[name] for name in names[i::2]}
        save_file(part, directory / f"{stem}-{i + 1:05d}-of-00002.safetensors")
        weight_map |= dict.fromkeys(part, f"{stem}-{i + 1:05d}-of-00002.safetensors")
    if index:
        (directory / index).write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8-sig")


@pytest.mark.parametrize("form", ["safetensors", "bin", "series", "index"])
def test_a_variant(tiny, copy_of, weights_of, form):
    copy = copy_of(tiny)
    if form == "safetensors":
        (copy / "model.safetensors").rename(copy / "model.fp16.safetensors")
    else:
        (copy / "model.safetensors").unlink()
    if form == "bin":
        torch.save(weights_of(tiny), copy / "pytorch_model.fp16.bin")
    elif form != "safetensors":
        index = "model.safetensors.index.fp16.json" if form == "index" else ""
        write_series(copy, weights_of(tiny), "model.fp16", index)
    assert_same(copy, tiny)


def test_a_variant_next_to_the_plain_weights_is_not_read(tiny, copy_of):
    copy = copy_of(tiny)
    (copy / "model.fp16.safetensors").write_bytes(b"not weights")
    assert_same(copy, tiny)


def test_two_variants(tiny, copy_of):
    copy = copy_of(tiny)
    shutil.copyfile(copy / "model.safetensors", copy / "model.bf16.safetensors")
    (copy / "model.safetensors").rename(copy / "model.fp16.safetensors")
    assert "in the variants bf16, fp16 only. Keep the files of one of them." in refusal(copy)


def test_a_file_next_to_its_own_shards(tiny, copy_of, weights_of):
    copy = copy_of(tiny)
    write_series(copy, weights_of(tiny), "model")
    assert_same(copy, tiny)
    (copy / "model-00002-of-00002.safetensors").unlink()  # the shards are the leftover
    assert_same(copy, tiny)


@pytest.mark.parametrize("rest", ["lm_head.weight", "language_model.model.norm.weight"])
def test_the_rest_of_an_interrupted_save_next_to_whole_weights(tiny, copy_of, weights_of, rest):
    from safetensors.torch import save_file

    copy = copy_of(tiny)
    torch.save(weights_of(tiny), copy / "pytorch_model.bin")
    save_file({rest: torch.zeros(0)}, copy / "model.safetensors")
    assert_same(copy, tiny)


def test_half_of_the_weights_next_to_others(tiny, copy_of, weights_of, put_weights):
    copy, weights = copy_of(tiny), weights_of(tiny)
    put_weights(copy, {name: weights[name] for name in sorted(weights)[:-10]})
    torch.save(weights, copy / "pytorch_model.bin")
    text = refusal(copy)
    assert "is missing" in text
    assert "Read: model.safetensors. Not read: pytorch_model.bin. Keep the whole ones only." in text


def test_an_adapter_config_left_next_to_merged_weights(tiny, copy_of):
    copy = copy_of(tiny)
    (copy / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8, "lora_alpha": 16}')
    assert_same(copy, tiny)
    (copy / "adapter_model.safetensors").write_bytes(b"")
    text = refusal(copy)
    assert "contains whole weights and adapter_model.safetensors. Move that away" in text
    assert "--base DIR" in text


@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor_config.json", "added_tokens.json", "tokenizer_config.json"]
)
@pytest.mark.parametrize(("encoding", "mark"), [("utf-8-sig", b"\xef\xbb\xbf"), ("utf-16", codecs.BOM_UTF16)])
def test_a_byte_order_mark(tiny, copy_of, name, encoding, mark):
    copy = copy_of(tiny)
    path = copy / name
    text = path.read_text(encoding="utf-8") if path.is_file() else "{}"
    path.write_text(text, encoding=encoding, newline="\r\n")
    assert path.read_bytes().startswith(mark)
    assert_same(copy, tiny)


def test_a_tokenizer_json_with_a_byte_order_mark(tiny, copy_of, tmp_path):
    from transformers import LlamaTokenizerFast

    from edge_llava.converters.reference import reference_ids

    copy = copy_of(tiny)
    LlamaTokenizerFast(vocab_file=str(copy / "tokenizer.model"), legacy=True).save_pretrained(tmp_path / "fast")
    text = (tmp_path / "fast" / "tokenizer.json").read_text(encoding="utf-8")
    (copy / "tokenizer.model").unlink()
    ids, tokens = [], []
    for encoding in ("utf-8", "utf-8-sig"):
        (copy / "tokenizer.json").write_text(text, encoding=encoding)
        opened = Checkpoint.open(str(copy))
        ids += reference_ids(opened, ["What is shown?"])
        tokens.append(opened.vocabulary.tokens)
    assert ids[0] == ids[1] != []
    assert tokens[0] == tokens[1]


def test_a_snapshot_of_the_hubs_cache_is_named_after_its_model(tiny, tmp_path, monkeypatch):
    from edge_llava.conversion.convert import default_output

    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "hub" / "models--owner--My-LLaVA--v2" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for path in tiny.iterdir():
        (snapshot / path.name).symlink_to(path)
    opened = Checkpoint.open(str(snapshot))
    assert (opened.name, opened.revision) == ("owner/My-LLaVA--v2", commit)
    assert default_output(str(snapshot), "Q4_K_M").name == "my-llava--v2-q4_k_m"
    monkeypatch.chdir(snapshot)
    assert default_output(".", "Q8_0").name == "my-llava--v2-q8_0"
    assert Checkpoint.open(str(tiny)).name == tiny.name

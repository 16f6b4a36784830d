"""Adapters as peft writes them, merged as peft merges them: every tensor equal to `merge_and_unload`, or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_llava.converters.adapter_config import ModulePattern, read_adapter_config
from edge_llava.errors import CheckpointError

pytestmark = pytest.mark.convert

LANGUAGE = ["q_proj", "v_proj", "down_proj"]
TOWER = r".*vision_tower.*\.(q_proj|fc1)"  # an expression: it selects the modules with factors, and is never evaluated
PARTS = (
    ("model.vision_tower.vision_model.", "vision."),
    ("model.multi_modal_projector.linear_1.", "projector.0."),
    ("model.multi_modal_projector.linear_2.", "projector.2."),
    ("model.language_model.", "language."),
    ("lm_head.", "language.lm_head."),
)


@pytest.fixture(scope="module")
def base(make_llava: Callable[..., Path], shape: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA in Hugging Face layout, whose config says, like those on the hub, that its head is not tied."""
    directory = tmp_path_factory.mktemp("adapters") / "llava"
    shutil.copytree(make_llava(shape(), 81), directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    return directory


@pytest.fixture
def adapt(base: Path, tmp_path: Path) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """adapt(n_rows=None, save=None, **LoraConfig) -> an adapter that peft saved, and the merged weights by our names.

    `n_rows` resizes the embedding first, as a trainer does for added tokens.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlavaForConditionalGeneration

    def make(n_rows: int | None = None, **options: Any) -> tuple[Path, dict[str, Any]]:
        model = LlavaForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
        torch.manual_seed(7)
        if n_rows is not None:
            model.resize_token_embeddings(n_rows, mean_resizing=False)
        adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, **options))
        for parameter in adapted.parameters():  # as if trained: nothing is zero or has its initial value
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn(parameter.shape)
        directory = tmp_path / "adapter"
        adapted.save_pretrained(directory, save_embedding_layers=True if n_rows is not None else "auto")
        merged = adapted.merge_and_unload().state_dict()
        named = {}
        for name, tensor in merged.items():
            for theirs, ours in PARTS:
                if name.startswith(theirs):
                    named[ours + name[len(theirs) :]] = tensor.clone()
        assert len(named) == len(merged)
        return directory, named

    return make


def compare(directory: Path, base: Path, merged: dict[str, Any]) -> set[str]:
    """Compares every tensor of the checkpoint with peft's. Returns the names of those that the adapter changed.

    What a conversion is compared with must agree, too.
    """
    from edge_llava.converters.checkpoint import Checkpoint
    from edge_llava.converters.reference_model import ReferenceModel

    opened, plain = Checkpoint.open(str(directory), base=str(base)), Checkpoint.open(str(base))
    changed = set()
    for name, expected in merged.items():
        if not opened.has(name):  # blocks after the cut
            assert name.startswith("vision.")
            continue
        found = opened.load(name).float()
        assert found.shape == expected.shape
        assert float((found - expected).abs().max()) <= 1e-6, name
        before = plain.load(name).float()
        if before.shape != found.shape or float((before - found).abs().max()) > 1e-3:
            changed.add(name)
    reference = ReferenceModel(opened)
    reference.compare(reference.deployed_names())
    assert opened.config.language.n_rows == len(merged["language.embed_tokens.weight"])
    return changed


ATTENTION = "language.layers.0.self_attn"
EMBEDDING, HEAD = "language.embed_tokens.weight", "language.lm_head.weight"


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"target_modules": LANGUAGE}, f"{ATTENTION}.v_proj.weight"),
        ({"target_modules": TOWER}, "vision.encoder.layers.0.mlp.fc1.weight"),
        ({"target_modules": ["linear_1", "linear_2"]}, "projector.2.weight"),
        ({"target_modules": "all-linear"}, "vision.encoder.layers.0.self_attn.out_proj.weight"),
        ({"target_modules": [*LANGUAGE, "embed_tokens"]}, EMBEDDING),
        ({"target_modules": [*LANGUAGE, "lm_head"]}, HEAD),
        ({"target_modules": LANGUAGE, "task_type": "CAUSAL_LM"}, f"{ATTENTION}.v_proj.weight"),
        ({"target_modules": LANGUAGE, "use_rslora": True}, f"{ATTENTION}.q_proj.weight"),
        ({"target_modules": LANGUAGE, "init_lora_weights": "gaussian"}, f"{ATTENTION}.q_proj.weight"),
        ({"target_modules": LANGUAGE, "init_lora_weights": "orthogonal"}, f"{ATTENTION}.q_proj.weight"),
        ({"target_modules": LANGUAGE, "init_lora_weights": False}, f"{ATTENTION}.q_proj.weight"),
        ({"target_modules": [*LANGUAGE, "fc1"], "use_dora": True}, f"{ATTENTION}.q_proj.weight"),
        ({"target_modules": TOWER, "bias": "all"}, "vision.encoder.layers.0.layer_norm1.bias"),
        ({"target_modules": TOWER, "bias": "lora_only"}, "vision.encoder.layers.0.self_attn.q_proj.bias"),
        ({"target_modules": TOWER, "lora_bias": True}, "vision.encoder.layers.0.self_attn.q_proj.bias"),
        ({"target_modules": LANGUAGE, "modules_to_save": ["embed_tokens", "lm_head"]}, HEAD),
        ({"target_modules": LANGUAGE, "modules_to_save": ["multi_modal_projector"]}, "projector.0.bias"),
        ({"target_modules": LANGUAGE, "trainable_token_indices": [3, 5, 8]}, EMBEDDING),
        ({"target_modules": LANGUAGE, "trainable_token_indices": {"embed_tokens": [9, 2], "lm_head": [4]}}, HEAD),
        ({"target_modules": LANGUAGE, "n_rows": 560}, EMBEDDING),
        ({"target_modules": [*LANGUAGE, "embed_tokens", "lm_head"], "n_rows": 560}, HEAD),
        ({"target_modules": LANGUAGE, "trainable_token_indices": [3, 555], "n_rows": 560}, EMBEDDING),
    ],
    ids=lambda value: None if isinstance(value, str) else ",".join(f"{k}={v}" for k, v in value.items())[:60],
)
@pytest.mark.filterwarnings("ignore")  # peft comments on what it saves
def test_merged_as_peft_merges(adapt, base, options, changed):
    directory, merged = adapt(**options)
    assert changed in compare(directory, base, merged)


@pytest.mark.parametrize(
    "keys",
    [
        {"q_proj": 2, "layers.1.self_attn.v_proj": 3},
        {"^model.language_model.layers.0.self_attn.q_proj": 2, "self_attn.v_proj$": 3},
        {r"layers\.0\.self_attn\.q_proj": 2, "proj": 5},  # the second matches nothing: names begin after dots
        {"layers.0.self_attn.v_proj": 2, "v_proj": 3},  # the first match applies
    ],
    ids=["ends", "anchors", "escaped", "order"],
)
@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning")
def test_patterns_as_peft_reads_them(adapt, base, keys):
    options = {"rank_pattern": keys, "alpha_pattern": {key: 3 * rank for key, rank in keys.items()}}
    directory, merged = adapt(target_modules=LANGUAGE, **options)
    assert f"{ATTENTION}.v_proj.weight" in compare(directory, base, merged)


def write_adapter(directory: Path, tensors: dict[Any, Any] | None = None, **config: Any) -> Path:
    """An adapter with one layer, or with these tensors."""
    import torch

    directory.mkdir(exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4} | config))
    name = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
    if tensors is None:
        tensors = {f"{name}.lora_A.weight": torch.ones(2, 64), f"{name}.lora_B.weight": torch.ones(64, 2)}
    torch.save(tensors, directory / "adapter_model.bin")
    return directory


def refusal(directory: Path, base: Path) -> str:
    from edge_llava.converters.checkpoint import Checkpoint

    with pytest.raises(CheckpointError) as error:
        Checkpoint.open(str(directory), base=str(base))
    return str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_16"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "loftq"),
        ("init_lora_weights", "lora_ga"),
        ("init_lora_weights", "mica"),
        ("init_lora_weights", 1),
        ("fan_in_fan_out", True),
        ("layer_replication", [[0, 1], [0, 1]]),
        ("target_parameters", ["experts.down_proj"]),
        ("megatron_config", {"hidden_size": 1}),
        ("ensure_weight_tying", True),
        ("alora_invocation_tokens", [1, 2]),
        ("use_qalora", True),
        ("kasa_config", {"beta": 1}),
        ("a_key_of_tomorrow", "on"),
        ("peft_type", "IA3"),
        ("bias", "some"),
        ("use_dora", "yes"),
        ("r", 0),
        ("r", True),
        ("r", 10**400),
        ("lora_alpha", float("nan")),
        ("lora_alpha", float("inf")),
        ("lora_alpha", 10**400),
        ("lora_alpha", "16"),
        ("rank_pattern", ["q_proj"]),
        ("rank_pattern", {"q_proj": 1.5}),
        ("alpha_pattern", {"q_proj": None}),
        ("trainable_token_indices", [1.5]),
        ("trainable_token_indices", {"embed_tokens": 3}),
        ("trainable_token_indices", [-1]),
    ],
)
def test_settings_that_are_refused_by_name(base, tmp_path, key, value):
    text = refusal(write_adapter(tmp_path / "adapter", **{key: value}), base)
    assert "adapter_config.json cannot be used" in text
    assert f"{key} is " in text
    assert len(text) < 500


@pytest.mark.parametrize(
    "key", ["([a-z_.0-9]+)+X", "(", "q_proj|v_proj", ".*q_proj", "q_proj+", "[qv]_proj", "\\w", ""]
)
@pytest.mark.parametrize("pattern", ["rank_pattern", "alpha_pattern"])
def test_expressions_are_never_evaluated(base, tmp_path, pattern, key):
    text = refusal(write_adapter(tmp_path / "adapter", **{pattern: {key: 2}}), base)
    assert f"{pattern} has the key {key!r}" in text


def test_all_settings_are_refused_at_once(base, tmp_path):
    text = refusal(write_adapter(tmp_path / "adapter", use_qalora=True, init_lora_weights="pissa", r=-1), base)
    assert all(f"{key} is " in text for key in ("use_qalora", "init_lora_weights", "r"))


def test_neutral_values_of_unknown_settings_say_nothing(tmp_path):
    config = {"a_key_of_tomorrow": None, "another": False, "a_list": [], "an_object": {}, "enable_lora": None}
    write_adapter(tmp_path / "adapter", **config)
    assert read_adapter_config(tmp_path / "adapter" / "adapter_config.json").rank == 2


def test_names_of_patterns():
    pattern = ModulePattern.parse("self_attn.q_proj")
    assert pattern is not None
    assert [pattern.matches(name) for name in ("a.self_attn.q_proj", "self_attn.q_proj", "a_self_attn.q_proj")] == [
        True, True, False,
    ]  # fmt: skip
    whole = ModulePattern.parse("^a.q_proj$")
    assert whole is not None
    assert [whole.matches(name) for name in ("a.q_proj", "b.a.q_proj")] == [True, False]


Q = "base_model.model.model.language_model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("shapes", "fault"),
    [
        ({f"{Q}.lora_A.weight": (2, 64)}, "has A in the adapter, which"),
        ({f"{Q}.lora_B.weight": (64, 2)}, "has B in the adapter, which"),
        ({f"{Q}.lora_A.weight": (128,), f"{Q}.lora_B.weight": (64, 2)}, "A of (128,), expected (2, 64)"),
        ({f"{Q}.lora_A.weight": (2, 64, 1), f"{Q}.lora_B.weight": (64, 2)}, "A of (2, 64, 1), expected (2, 64)"),
        ({f"{Q}.lora_A.weight": (3, 64), f"{Q}.lora_B.weight": (64, 3)}, "A of (3, 64), expected (2, 64)"),
        ({f"{Q}.lora_A.weight": (), f"{Q}.lora_B.weight": ()}, "A of (), expected (2, 64)"),
        ({f"{Q}.lora_E.weight": (2, 64)}, "lora_E"),
        ({f"{Q}.lora_B.bias": (64,)}, "q_proj.bias is not in the base"),
        ({f"{Q}.base_layer.bias": (64,)}, "q_proj.bias is not in the base"),
        ({f"{Q}.lora_magnitude_vector": (64,)}, "has magnitude in the adapter, which"),
        ({f"{Q}.base_layer.weight": (64, 63)}, "has shape (64, 63) in the adapter"),
        ({"base_model.model.lm_head.weight": (560, 64)}, "both need the rows of the added tokens"),
        ({"base_model.model.model.router.lora_A.weight": (2, 2)}, "router"),
        ({"base_model.model.model.language_model.embed_tokens.token_adapter.trainable_tokens_delta": (2, 64)}, "rows"),
        ({}, "contains no tensors"),
    ],
)
def test_tensors_that_do_not_fit(base, tmp_path, shapes, fault):
    import torch

    tensors = {name: torch.ones(shape) for name, shape in shapes.items()}
    assert fault in refusal(write_adapter(tmp_path / "adapter", tensors), base)


def test_names_that_are_not_text(base, tmp_path):
    import torch

    text = refusal(write_adapter(tmp_path / "adapter", {1: torch.ones(2, 2)}), base)
    assert "adapter_model.bin" in text


def test_rows_where_peft_may_change_the_head_too(base, tmp_path):
    """transformers 4 reads a missing tie_word_embeddings as true, and peft then copies the rows; 5 does not."""
    import torch

    other = tmp_path / "base"
    shutil.copytree(base, other)
    config = json.loads((base / "config.json").read_text())
    del config["tie_word_embeddings"]
    (other / "config.json").write_text(json.dumps(config))
    name = "base_model.model.model.language_model.embed_tokens.token_adapter.trainable_tokens_delta"
    directory = write_adapter(tmp_path / "adapter", {name: torch.ones(1, 64)}, trainable_token_indices=[3])
    assert "tie_word_embeddings" in refusal(directory, other)


WEIGHTS = "adapter_model.safetensors"
SOURCES = {
    "projector.2.bias": "linear_2.bias",
    "vision.encoder.layers.0.self_attn.q_proj.bias": "encoder.layers.0.self_attn.q_proj.base_layer.bias",
}
FC1 = "vision.encoder.layers.1.mlp.fc1.weight"
FACTORS = "language.layers.1.self_attn.v_proj.weight"


@pytest.mark.parametrize(
    ("name", "whole", "changed"),
    [
        ("peft-0.13", "projector.2.bias", FACTORS),
        ("peft-0.21", None, EMBEDDING),
        ("transformers-5.24", "vision.encoder.layers.0.self_attn.q_proj.bias", EMBEDDING),
    ],
)
def test_adapters_that_other_versions_wrote(base, name, whole, changed):
    """Adapters written by tests/data/adapters/write.py. The reference, which peft merges, reads the same."""
    import torch
    from safetensors.torch import load_file

    from edge_llava.converters.checkpoint import Checkpoint
    from edge_llava.converters.reference_model import ReferenceModel

    directory = Path(__file__).parents[1] / "data" / "adapters" / name
    opened, plain = Checkpoint.open(str(directory), base=str(base)), Checkpoint.open(str(base))
    reference = ReferenceModel(opened)
    reference.compare(reference.deployed_names())
    assert not torch.equal(opened.load(changed).float(), plain.load(changed).float())
    tensors = {key.removeprefix("base_model.model."): t.float() for key, t in load_file(directory / WEIGHTS).items()}
    if whole is not None:
        expected = next(t for key, t in tensors.items() if SOURCES[whole] in key)
        assert torch.equal(opened.load(whole).float(), expected)
    if name != "peft-0.21":  # which rescales rows
        for source, ours in (("layers.1.self_attn.v_proj", FACTORS), ("encoder.layers.1.mlp.fc1", FC1)):
            part = "language" if ours == FACTORS else "vision"
            a, b = (next(t for key, t in tensors.items() if f"{source}.lora_{f}" in key and part in key) for f in "AB")
            scale = 5 / len(a) ** 0.5 if name == "peft-0.13" else 5 / len(a)
            torch.testing.assert_close(opened.load(ours), plain.load(ours).float() + scale * b @ a)


def test_rows_beyond_the_embedding(base, tmp_path):
    import torch

    name = "base_model.model.model.language_model.embed_tokens.token_adapter.trainable_tokens_delta"
    directory = write_adapter(tmp_path / "adapter", {name: torch.ones(1, 64)}, trainable_token_indices=[10**6])
    assert "trainable_token_indices names row 1000000" in refusal(directory, base)


def test_a_merge_that_overflows(base, tmp_path):
    import torch

    from edge_llava.converters.checkpoint import Checkpoint

    tensors = {f"{Q}.lora_A.weight": torch.full((2, 64), 1e30), f"{Q}.lora_B.weight": torch.full((64, 2), 1e30)}
    opened = Checkpoint.open(str(write_adapter(tmp_path / "adapter", tensors)), base=str(base))
    with pytest.raises(
        CheckpointError, match=r"merged, language\.layers\.0\.self_attn\.q_proj\.weight contains infinite"
    ):
        opened.load("language.layers.0.self_attn.q_proj.weight")

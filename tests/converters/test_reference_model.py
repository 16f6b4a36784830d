"""What transformers and peft read is compared with what the converters read: a wrong reading is never converted."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge_llava.errors import CheckpointError, ConversionError

pytestmark = pytest.mark.convert

Q = "language.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def llava(make_llava: Callable[..., Path], copy_of: Callable[[Path], Path], shape: Any) -> Path:
    return copy_of(make_llava(shape(), 81))


def open_checkpoint(directory: Path, **options: Any) -> Any:
    from edge_llava.converters.checkpoint import Checkpoint

    return Checkpoint.open(str(directory), **options)


def check(checkpoint: Any) -> None:
    """Checks what a conversion checks, without converting."""
    from edge_llava.converters.reference_model import ReferenceModel, check_reading

    check_reading(checkpoint)
    model = ReferenceModel(checkpoint)
    model.compare(model.deployed_names())


def with_language(checkpoint: Any, **changes: Any) -> Any:
    """A checkpoint whose language config was read wrongly."""
    language = dataclasses.replace(checkpoint.config.language, **changes)
    return dataclasses.replace(checkpoint, config=dataclasses.replace(checkpoint.config, language=language))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"rope_theta": 20000.0}, "rope differs; read as theta 20000 and no scaling"),
        ({"rope_factor": 4.0}, "rope differs; read as theta 10000 and factor 4"),
        ({"rms_eps": 1e-6}, "rms_norm_eps is 1e-05, read as 1e-06"),
        ({"n_head": 8, "n_head_kv": 8, "head_dim": 8}, "num_attention_heads is 4, read as 8"),
        ({"n_ctx_train": 4096}, "context is 512, read as 4096"),
        ({"n_rows": 512}, "vocab_size is 576, read as 512"),
    ],
)
def test_a_language_config_read_wrongly(llava, change, fault):
    checkpoint = open_checkpoint(llava)
    check(checkpoint)
    with pytest.raises(ConversionError) as error:
        check(with_language(checkpoint, **change))
    assert fault in str(error.value)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"feature_layer": -1}, "vision_feature_layer is [-2], read as [-1]"),
        ({"drop_cls": False}, "vision_feature_select_strategy is 'default', read as 'full'"),
        ({"image_token": 7}, "image_token_index is 512, read as 7"),
    ],
)
def test_a_llava_config_read_wrongly(llava, change, fault):
    checkpoint = open_checkpoint(llava)
    wrong = dataclasses.replace(checkpoint, config=dataclasses.replace(checkpoint.config, **change))
    with pytest.raises(ConversionError) as error:
        check(wrong)
    assert fault in str(error.value)


def test_a_tower_read_wrongly(llava):
    checkpoint = open_checkpoint(llava)
    tower = dataclasses.replace(checkpoint.tower, layer_norm_eps=1e-6, hidden_act="gelu")
    with pytest.raises(ConversionError) as error:
        check(dataclasses.replace(checkpoint, tower=tower))
    assert "vision_config.layer_norm_eps is 1e-05, read as 1e-06" in str(error.value)
    assert "vision_config.hidden_act is 'quick_gelu', read as 'gelu'" in str(error.value)


@dataclass(frozen=True)
class Altered:
    """A store that reads some tensors wrongly."""

    store: Any
    change: Callable[[str, Any], Any]

    @property
    def infos(self) -> Mapping[str, Any]:
        return self.store.infos

    def load(self, name: str) -> Any:
        return self.change(name, self.store.load(name))


def misread(checkpoint: Any, change: Callable[[str, Any], Any]) -> Any:
    return dataclasses.replace(checkpoint, _stores=tuple(Altered(store, change) for store in checkpoint._stores))


@pytest.mark.parametrize(
    "name", [Q, "vision.encoder.layers.1.mlp.fc1.bias", "projector.2.weight", "language.norm.weight"]
)
def test_a_tensor_read_wrongly(llava, name):
    wrong = misread(open_checkpoint(llava), lambda n, tensor: tensor * 1.001 if n == name else tensor)
    with pytest.raises(ConversionError, match=f"{name} differs by"):
        check(wrong)


def test_two_tensors_swapped(llava):
    checkpoint = open_checkpoint(llava)
    other = Q.replace("q_proj", "k_proj")
    wrong = misread(checkpoint, lambda n, tensor: checkpoint.load(other if n == Q else n))
    with pytest.raises(ConversionError, match=r"q_proj\.weight differs by"):
        check(wrong)


def test_a_conversion_ends_before_it_publishes(llava, tmp_path, monkeypatch):
    """The language model's values are compared while its reference is computed; the rest before any slow work."""
    from edge_llava.conversion.convert import convert
    from edge_llava.converters.checkpoint import Checkpoint
    from edge_llava.converters.options import ConvertOptions

    opened = misread(open_checkpoint(llava), lambda n, tensor: tensor * 1.01 if n == Q else tensor)
    monkeypatch.setattr(Checkpoint, "read", lambda *arguments: opened)
    with pytest.raises(ConversionError, match=r"q_proj\.weight differs by"):
        convert(llava, tmp_path / "bundle", ConvertOptions(quant="F32"))
    assert not (tmp_path / "bundle").exists()


def as_transformers_5_writes(directory: Path, rope: Mapping[str, Any]) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text())
    for key in ("rope_theta", "rope_scaling"):
        config["text_config"].pop(key, None)
    config["text_config"]["rope_parameters"] = rope
    path.write_text(json.dumps(config | {"transformers_version": "5.24.0"}))


@pytest.mark.parametrize(
    ("rope", "read"),
    [
        ({"rope_type": "default", "rope_theta": 5e5}, {"rope_theta": 5e5, "rope_factor": None}),
        ({"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}, {"rope_theta": 1e6, "rope_factor": 4.0}),
        ({"full_attention": {"rope_type": "default", "rope_theta": 5e5}}, {"rope_theta": 5e5, "rope_factor": None}),
    ],
    ids=["theta", "linear", "nested"],
)
def test_rope_parameters_of_transformers_5(llava, rope, read):
    checkpoint = open_checkpoint(llava)
    as_transformers_5_writes(llava, rope)
    check(with_language(checkpoint, **read))
    with pytest.raises(ConversionError, match="rope differs; read as theta 10000 and no scaling"):
        check(with_language(checkpoint, rope_theta=10000.0, rope_factor=None))


@pytest.mark.parametrize(
    "name",
    [
        "language_model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
        "language_model.model.layers.1.self_attn.q_norm.weight",
        "language_model.model.layers.0.self_attn.q_proj.bias",
        "language_model.model.layers.7.input_layernorm.weight",
        "vision_tower.vision_model.encoder.layers.0.mlp.fc3.weight",
        "multi_modal_projector.linear_3.weight",
        "something_else.weight",
    ],
)
def test_tensors_that_the_model_does_not_have(llava, weights_of, put_weights, name):
    import torch

    checkpoint = open_checkpoint(llava)
    put_weights(llava, weights_of(llava) | {name: torch.ones(4)})
    with pytest.raises(CheckpointError) as error:
        check(checkpoint)
    assert "is not part of the model" in str(error.value)
    assert name.rpartition(".")[0].rpartition(".")[2] in str(error.value)


def test_tensors_that_are_missing_or_of_another_shape(llava, weights_of, put_weights):
    checkpoint = open_checkpoint(llava)
    tensors = weights_of(llava)
    norm = next(name for name in tensors if name.endswith("layers.1.input_layernorm.weight"))
    projector = next(name for name in tensors if name.endswith("linear_1.bias"))
    put_weights(llava, {n: t[:5] if n == projector else t for n, t in tensors.items() if n != norm})
    with pytest.raises(CheckpointError) as error:
        check(checkpoint)
    assert "layers.1.input_layernorm.weight is missing" in str(error.value)
    assert "linear_1.bias has shape (5,), expected (64,)" in str(error.value)


def test_names_since_transformers_5_6(llava, weights_of, put_weights):
    """Without the inner vision_model."""
    checkpoint = open_checkpoint(llava)
    tensors = {name.replace("vision_tower.vision_model.", "vision_tower."): t for name, t in weights_of(llava).items()}
    assert not any("vision_model" in name for name in tensors)
    from edge_llava.converters.reference_model import ReferenceModel

    before = ReferenceModel(checkpoint).load("vision.pre_layrnorm.weight")
    put_weights(llava, tensors)
    assert (ReferenceModel(checkpoint).load("vision.pre_layrnorm.weight") == before).all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"target_modules": ["q_proj"]}, Q),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "language.embed_tokens.weight"),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [1, 4]}, "language.embed_tokens.weight"),
        ({"target_modules": ["q_proj"], "init_lora_weights": "pissa"}, Q),
        ({"target_modules": ["fc1"], "bias": "all"}, "vision.encoder.layers.0.mlp.fc1.bias"),
        ({"target_modules": ["fc1"], "lora_bias": True}, "vision.encoder.layers.0.mlp.fc1.bias"),
        ({"target_modules": ["q_proj"], "use_dora": True}, Q),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "language.lm_head.weight"),
        ({"target_modules": ["q_proj"], "rank_pattern": {"q_proj": 2}}, Q),
    ],
    ids=lambda value: None if isinstance(value, str) else ",".join(value),
)
def test_an_adapter_merged_wrongly(llava, edit_config, tmp_path, options, name):
    """The reference merges by peft itself: where the converters drop a part of an adapter, it differs."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlavaForConditionalGeneration

    from edge_llava.converters.reference_model import ReferenceModel

    edit_config(llava, {"tie_word_embeddings": False})
    torch.manual_seed(7)
    adapted = get_peft_model(LlavaForConditionalGeneration.from_pretrained(llava), LoraConfig(r=4, **options))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape)
    adapted.save_pretrained(tmp_path / "adapter")
    whole = open_checkpoint(llava)
    dropped = dataclasses.replace(whole, directory=tmp_path / "adapter", base=llava, kind="lora")
    model = ReferenceModel(dropped)
    parameter = {ours: theirs for theirs, ours in _parameters(model).items()}[name]
    expected = adapted.merge_and_unload().state_dict()[parameter]
    assert float((model.load(name) - expected).abs().max()) <= 1e-6
    with pytest.raises(ConversionError, match=f"{name} differs by"):
        model.compare([name])


def _parameters(model: Any) -> dict[str, str]:
    return {theirs: ours for ours, theirs in model._names.items()}


READ_POISONED = """
import json, sys
from pathlib import Path
from transformers.utils import is_kernels_available
from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.reference_model import check_reading
assert is_kernels_available()
checkpoint = Checkpoint.open(sys.argv[1])
path = Path(sys.argv[1]) / "config.json"
config = json.loads(path.read_text())
keys = {"_attn_implementation": "owner/name", "_attn_implementation_internal": "owner/name"}
sections = {name: config[name] | keys for name in ("text_config", "vision_config")}
path.write_text(json.dumps(config | keys | sections))  # after our own reader, which refuses them
check_reading(checkpoint)
print("read")
"""


def test_no_code_is_loaded_by_a_config(llava, kernels_stand_in):
    command = [sys.executable, "-W", "ignore", "-c", READ_POISONED, str(llava)]
    environment = os.environ | {"PYTHONPATH": str(kernels_stand_in)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.stdout == "read\n", ended.stderr


def test_what_is_shown_is_shortened(llava, weights_of, put_weights):
    import torch

    checkpoint = open_checkpoint(llava)
    put_weights(llava, weights_of(llava) | {f"extra.{i}.weight": torch.ones(1) for i in range(500)})
    with pytest.raises(CheckpointError) as error:
        check(checkpoint)
    assert "and 488 more" in str(error.value)
    assert len(str(error.value)) < 2000

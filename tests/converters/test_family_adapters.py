"""LoRA on the newer families: every tensor is what peft merges, and bundles compute what merged models compute."""

from __future__ import annotations

import family_checkpoints as families
import family_originals as originals
import pytest
from checkpoint_layouts import Made
from family_adapters import NEW_TO_OLD, PREFIX, adapt, adapt_original
from safetensors.torch import load, save_file

from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.reference_model import ReferenceModel
from edge_llava.errors import CheckpointError

pytestmark = [
    pytest.mark.convert,
    pytest.mark.filterwarnings("ignore"),  # peft comments on what it saves
]
WEIGHTS = "adapter_model.safetensors"
EMBEDDING, Q = "language.embed_tokens.weight", "language.layers.0.self_attn.q_proj.weight"
FC1 = "vision.encoder.layers.0.mlp.fc1.weight"


def compare(made: Made) -> set[str]:
    """Compares every tensor with the merged model's. Returns the names of those that the adapter changed."""
    opened = Checkpoint.open(str(made.directory), **made.options)
    base, merged = Checkpoint.open(made.options["base"]), Checkpoint.open(str(made.twin))
    changed = set()
    reference = ReferenceModel(opened)
    names = reference.deployed_names()
    for name in names:
        found, expected, before = (source.load(name).float() for source in (opened, merged, base))
        n_rows = len(found) if name.endswith(("embed_tokens.weight", "lm_head.weight")) else len(expected)
        assert float((found - expected[:n_rows]).abs().max()) <= 1e-6, name
        if float((found - before).abs().max()) > 1e-3:
            changed.add(name)
    reference.compare(names)
    return changed


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (families.onevision, {"bias": "all"}),
        (families.joycaption, {"use_dora": True}),
        (lambda d, seed: families.onevision(d, seed, tied=False), {"modules_to_save": ["lm_head", "embed_tokens"]}),
        (families.interleave, {"trainable_token_indices": [3, 5]}),
        (families.onevision, {"trainable_token_indices": [3, 5]}),
        (families.llama_3_next, {"target_modules": "all-linear"}),
    ],
)
def test_adapters_in_hugging_face_layout(tmp_path, make, options):
    changed = compare(adapt(make(tmp_path / "base", 1), 2, **options))
    assert {Q, FC1, "projector.2.weight"} <= changed
    assert ("trainable_token_indices" in options or "modules_to_save" in options) == (EMBEDDING in changed)


@pytest.mark.parametrize(
    "make",
    [
        originals.xtuner_llama_3_original, originals.llama_3_next_original, originals.onevision_original,
        originals.nanollava, originals.bunny_llama, originals.bunny_qwen, originals.clip_qwen_2,
    ],
)  # fmt: skip
def test_adapters_in_the_original_layout(tmp_path, make):
    changed = compare(adapt_original(make(tmp_path / "base", 1), 2))
    assert {Q, FC1, "projector.2.weight"} <= changed


def test_names_of_earlier_versions_of_transformers(tmp_path):
    """Until 4.52 the parts lay in a LLaVA's classes in another order."""
    made = adapt(families.onevision(tmp_path / "base", 1), 2)
    tensors = {}
    for name, tensor in load((made.directory / WEIGHTS).read_bytes()).items():
        new, old = next(pair for pair in NEW_TO_OLD if name.startswith(PREFIX + pair[0]))
        tensors[name.replace(new, old, 1)] = tensor
    save_file(tensors, made.directory / WEIGHTS)
    assert {Q, FC1, "projector.2.weight"} <= compare(made)


def test_an_adapter_of_another_language_model(tmp_path):
    """A Qwen's over a LLaMA of the same widths, which has no biases."""
    made, other = adapt_original(originals.clip_qwen_2(tmp_path / "base", 1), 2), tmp_path / "other"
    originals.xtuner_llama_3_original(other, 1)
    with pytest.raises(CheckpointError) as error:
        Checkpoint.open(str(made.directory), base=str(other))
    assert f"over {other} is incomplete or does not match its config" in str(error.value)
    assert "language.layers.0.self_attn.q_proj.bias is missing" in str(error.value)


def test_an_adapter_of_a_language_model_alone(tmp_path):
    """Over a LLaVA in Hugging Face layout, where the language model is a part."""
    base = families.interleave(tmp_path / "base", 1)
    made = adapt(base, 2)
    path = made.directory / WEIGHTS
    save_file({name.replace("model.language_model.", "model."): t for name, t in load(path.read_bytes()).items()}, path)
    with pytest.raises(CheckpointError, match=r"'model\.layers\.0.*which is not part of a LLaVA in hf layout"):
        Checkpoint.open(str(made.directory), **made.options)

"""Opening checkpoints: every layout of files, and everything that can be wrong with them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.tensor_store import TensorStore
from edge_llava.errors import CheckpointError

pytestmark = pytest.mark.convert

EMBEDDING = "language_model.model.embed_tokens.weight"
NORM = "language_model.model.norm.weight"


@pytest.fixture(scope="module")
def tiny(make_checkpoint, shape) -> Path:
    """Read only."""
    return make_checkpoint(shape(), seed=31)


@pytest.fixture
def checkpoint(tiny, copy_of) -> Path:
    """A copy that the test may damage."""
    return copy_of(tiny)


def open_error(directory: Path | str, **options: Any) -> str:
    with pytest.raises(CheckpointError) as error:
        Checkpoint.open(str(directory), **options)
    return str(error.value)


def write_shards(directory: Path, tensors: dict[str, torch.Tensor], kind: str, n: int, *, index: bool) -> list[Path]:
    """Splits the tensors over n files named as transformers names them."""
    from safetensors.torch import save_file

    stem, suffix = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    (directory / "model.safetensors").unlink(missing_ok=True)
    names = sorted(tensors)
    paths, weight_map = [], {}
    for i in range(n):
        path = directory / f"{stem}-{i + 1:05d}-of-{n:05d}.{suffix}"
        part = {name: tensors[name] for name in names[i::n]}
        save_file(part, path) if kind == "safetensors" else torch.save(part, path)
        weight_map |= dict.fromkeys(part, path.name)
        paths.append(path)
    if index:
        text = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
        (directory / f"{stem}.{suffix}.index.json").write_text(text)
    return paths


def assert_same(opened: Checkpoint, tiny: Path, weights: dict[str, torch.Tensor]) -> None:
    """Asserts that every tensor of the whole checkpoint is there, with its bytes."""
    whole = Checkpoint.open(str(tiny))
    names = [*whole.language_tensors(), "projector.0.weight", "vision.encoder.layers.1.mlp.fc1.bias"]
    assert opened.language_tensors() == whole.language_tensors()
    for name in names:
        assert torch.equal(opened.load(name), whole.load(name))
        assert opened.shape(name) == whole.shape(name)
        assert opened.n_bytes(name) == whole.n_bytes(name) == whole.load(name).nbytes
    assert torch.equal(whole.load("language.norm.weight"), weights[NORM])


def test_what_is_opened(tiny):
    checkpoint = Checkpoint.open(str(tiny))
    assert (checkpoint.name, checkpoint.directory, checkpoint.revision) == (tiny.name, tiny, None)
    assert (checkpoint.config.layout, checkpoint.n_blocks, len(checkpoint.vocabulary)) == ("hf", 2, 512)
    assert checkpoint.shape("language.embed_tokens.weight") == (576, 64)
    assert not checkpoint.has("language.layers.2.mlp.up_proj.weight")


@pytest.mark.parametrize("kind", ["bin", "legacy"])
def test_bin_files(tiny, checkpoint, weights_of, put_weights, kind):
    put_weights(checkpoint, weights_of(tiny), kind)
    assert zipfile.is_zipfile(checkpoint / "pytorch_model.bin") == (kind == "bin")
    assert_same(Checkpoint.open(str(checkpoint)), tiny, weights_of(tiny))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("index", [True, False])
def test_shards(tiny, checkpoint, weights_of, kind, index):
    write_shards(checkpoint, weights_of(tiny), kind, 3, index=index)
    assert_same(Checkpoint.open(str(checkpoint)), tiny, weights_of(tiny))


def test_files_that_are_not_shards_are_not_read(tiny, checkpoint, weights_of):
    for name in ("mm_projector.bin", "training_args.bin", "optimizer.pt", "pytorch_model-old.bin", "adapter.bin"):
        (checkpoint / name).write_bytes(b"not weights")
    (checkpoint / "consolidated.safetensors").write_bytes(b"not weights")
    assert_same(Checkpoint.open(str(checkpoint)), tiny, weights_of(tiny))


def test_safetensors_are_preferred(tiny, checkpoint, weights_of):
    torch.save({NORM: torch.zeros(64)}, checkpoint / "pytorch_model.bin")
    assert_same(Checkpoint.open(str(checkpoint)), tiny, weights_of(tiny))


def test_missing_shards_are_all_named(tiny, checkpoint, weights_of):
    paths = write_shards(checkpoint, weights_of(tiny), "safetensors", 4, index=True)
    paths[0].unlink()
    paths[2].unlink()
    message = open_error(checkpoint)
    assert [path.name for path in paths if f"{path.name} is missing" in message] == [paths[0].name, paths[2].name]


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_an_incomplete_series_without_an_index(tiny, checkpoint, weights_of, kind):
    paths = write_shards(checkpoint, weights_of(tiny), kind, 3, index=False)
    paths[1].unlink()
    message = open_error(checkpoint)
    assert f"has only some {kind} shards" in message
    assert paths[0].name in message
    assert paths[1].name not in message


@pytest.mark.parametrize("outside", ["../secret.safetensors", "/etc/hostname", "sub/model.safetensors"])
def test_an_index_cannot_leave_the_directory(checkpoint, outside):
    (checkpoint / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model.safetensors", "b": outside}})
    )
    assert f"{outside} leaves the directory" in open_error(checkpoint)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}'])
def test_a_broken_index(checkpoint, text):
    (checkpoint / "model.safetensors.index.json").write_text(text)
    assert "model.safetensors.index.json is not a shard index" in open_error(checkpoint)


def test_an_index_of_strange_names(checkpoint):
    (checkpoint / "model.safetensors.index.json").write_text('{"weight_map": {"a": 3}}')
    assert "3 is missing" in open_error(checkpoint)


def test_no_weights(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    assert "has no weights (model.safetensors, pytorch_model.bin, or their shards)" in open_error(checkpoint)


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.99])
def test_truncated_safetensors(checkpoint, keep):
    path = checkpoint / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    assert "model.safetensors is damaged or cut short" in open_error(checkpoint)


@pytest.mark.parametrize("kind", ["bin", "legacy"])
@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.99])
def test_truncated_bin(tiny, checkpoint, weights_of, put_weights, kind, keep):
    put_weights(checkpoint, weights_of(tiny), kind)
    path = checkpoint / "pytorch_model.bin"
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    assert "pytorch_model.bin" in open_error(checkpoint)


@pytest.mark.parametrize("kind", ["safetensors", "bin", "legacy"])
def test_damaged_bytes_never_raise_anything_else(tmp_path, put_weights, kind):
    put_weights(tmp_path, {NORM: torch.ones(64), "lm_head.weight": torch.ones(8, 8)}, kind)
    path = next(tmp_path.iterdir())
    data, random, n_refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(150):
        damaged = bytearray(data)
        for position in random.integers(0, min(len(data), 700), 4):
            damaged[position] = random.integers(256)
        path.write_bytes(
            damaged[: random.integers(len(data) // 2, len(data) + 1)] if random.random() < 0.3 else damaged
        )
        try:
            store = TensorStore.open(tmp_path, "hf")
            for name in store.infos:
                store.load(name)
        except CheckpointError as error:
            n_refused += 1
            assert path.name in str(error) or str(tmp_path) in str(error)  # noqa: PT017 (the loop goes on)
    assert n_refused > 75


class Payload:
    """Unpickled, it would run a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("kind", ["bin", "legacy", "plain pickle"])
def test_a_pickle_that_is_more_than_weights_is_not_executed(tiny, checkpoint, weights_of, tmp_path, kind):
    evidence = tmp_path / "executed"
    (checkpoint / "model.safetensors").unlink()
    data = weights_of(tiny) | {"payload": Payload(f"touch {evidence}")}
    path = checkpoint / "pytorch_model.bin"
    if kind == "plain pickle":
        path.write_bytes(pickle.dumps(data["payload"]))
    else:
        torch.save(data, path, _use_new_zipfile_serialization=kind == "bin")
    assert "pytorch_model.bin contains more than weights, or is damaged; it is not opened" in open_error(checkpoint)
    assert not evidence.exists()
    pickle.loads(pickle.dumps(Payload(f"touch {evidence}")))
    assert evidence.exists()  # the payload works if it is unpickled


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"a": {"b": torch.ones(1)}}, torch.ones(2)])
def test_a_bin_that_is_not_a_state_dict(checkpoint, content):
    (checkpoint / "model.safetensors").unlink()
    torch.save(content, checkpoint / "pytorch_model.bin")
    assert "pytorch_model.bin is not a state dict" in open_error(checkpoint)


def test_missing_tensors_are_all_named(tiny, checkpoint, weights_of, put_weights):
    weights = weights_of(tiny)
    gone = [
        "language_model.model.layers.1.mlp.up_proj.weight",
        "multi_modal_projector.linear_2.bias",
        "vision_tower.vision_model.embeddings.class_embedding",
        "vision_tower.vision_model.encoder.layers.1.self_attn.out_proj.bias",
    ]
    put_weights(checkpoint, {name: tensor for name, tensor in weights.items() if name not in gone})
    assert sorted(open_error(checkpoint).splitlines()[1:]) == [
        "  - language.layers.1.mlp.up_proj.weight is missing",
        "  - projector.2.bias is missing",
        "  - vision.embeddings.class_embedding is missing",
        "  - vision.encoder.layers.1.self_attn.out_proj.bias is missing",
    ]


def test_tensors_that_are_not_deployed_may_be_missing(tiny, checkpoint, weights_of, put_weights):
    unused = ("post_layernorm", "encoder.layers.2.")
    kept = {name: tensor for name, tensor in weights_of(tiny).items() if not any(part in name for part in unused)}
    assert len(kept) == len(weights_of(tiny)) - 18
    put_weights(checkpoint, kept)
    assert_same(Checkpoint.open(str(checkpoint)), tiny, weights_of(tiny))


def test_a_missing_head_is_the_embedding(tiny, checkpoint, weights_of, put_weights):
    kept = {name: tensor for name, tensor in weights_of(tiny).items() if "lm_head" not in name}
    put_weights(checkpoint, kept)
    assert "language.lm_head.weight" not in Checkpoint.open(str(checkpoint)).language_tensors()
    assert "language.lm_head.weight" in Checkpoint.open(str(tiny)).language_tensors()


def test_a_tied_head_is_left_out_though_the_file_has_it(tiny, checkpoint, weights_of, put_weights, edit_config):
    edit_config(checkpoint, {"text_config.tie_word_embeddings": True})
    # transformers 4 would use the embedding, and 5 the head
    assert "tie_word_embeddings true in config.json, and a head of its own" in open_error(checkpoint)
    weights = weights_of(tiny)
    weights["language_model.lm_head.weight"] = weights["language_model.model.embed_tokens.weight"].clone()
    put_weights(checkpoint, weights)
    opened = Checkpoint.open(str(checkpoint))
    assert opened.has("language.lm_head.weight")
    assert "language.lm_head.weight" not in opened.language_tensors()


def test_wrong_shapes_are_all_named(tiny, checkpoint, weights_of, put_weights):
    weights = weights_of(tiny)
    weights[NORM] = torch.zeros(63)
    weights["multi_modal_projector.linear_1.weight"] = torch.zeros(64, 65)
    weights["vision_tower.vision_model.embeddings.patch_embedding.weight"] = torch.zeros(64, 3, 16, 16)
    put_weights(checkpoint, weights)
    assert sorted(open_error(checkpoint).splitlines()[1:]) == [
        "  - language.norm.weight has shape (63,), expected (64,)",
        "  - projector.0.weight has shape (64, 65), expected (64, 64)",
        "  - vision.embeddings.patch_embedding.weight has shape (64, 3, 16, 16), expected (64, 3, 14, 14)",
    ]


def test_a_config_of_another_size(checkpoint, edit_config):
    edit_config(checkpoint, {"text_config.vocab_size": 600, "vision_config.image_size": 70})
    assert open_error(checkpoint).splitlines()[1:] == [
        "  - vision.embeddings.position_embedding.weight has shape (17, 64), expected (26, 64)",
        "  - language.embed_tokens.weight has shape (576, 64), expected (600, 64)",
        "  - language.lm_head.weight has shape (576, 64), expected (600, 64)",
    ]


def test_the_same_tensor_under_both_prefixes(tiny, checkpoint, weights_of, put_weights):
    put_weights(checkpoint, weights_of(tiny) | {"model.language_model.norm.weight": torch.zeros(64)})
    message = open_error(checkpoint)
    assert "contains the same tensor more than once" in message
    assert "model.language_model.norm.weight in model.safetensors" in message
    assert NORM in message


def test_the_same_tensor_in_two_shards(tiny, checkpoint, weights_of):
    weights = weights_of(tiny)
    paths = write_shards(checkpoint, weights, "bin", 2, index=False)
    torch.save({NORM: weights[NORM], EMBEDDING: weights[EMBEDDING]}, paths[1])
    message = open_error(checkpoint)
    doubled = [name for name in (NORM, EMBEDDING) if name in torch.load(paths[0], weights_only=True)]
    assert len(message.splitlines()) == 1 + len(doubled) > 1
    for name in doubled:
        assert f"{name} in {paths[1].name} and {name} in {paths[0].name}" in message


def test_quantized_tensors_are_refused(tiny, checkpoint, weights_of, put_weights):
    weights = weights_of(tiny)
    put_weights(checkpoint, weights | {NORM: torch.ones(64, dtype=torch.int8)})
    assert f"{NORM} is I8; quantized checkpoints cannot be converted" in open_error(checkpoint)


def test_quantized_tensors_of_a_bin_are_refused(tiny, checkpoint, weights_of, put_weights):
    weights = weights_of(tiny)
    put_weights(checkpoint, weights | {NORM: torch.ones(64, dtype=torch.int8)}, "bin")
    assert f"{NORM} is torch.int8; quantized checkpoints cannot be converted" in open_error(checkpoint)


def test_quantized_tensors_of_the_original_layout_are_refused(tiny, original_layout):
    original = original_layout(tiny)
    weights = torch.load(original / "pytorch_model.bin", weights_only=True)
    weights["model.layers.1.mlp.up_proj.weight"] = weights["model.layers.1.mlp.up_proj.weight"].to(torch.int8)
    torch.save(weights, original / "pytorch_model.bin")
    assert "model.layers.1.mlp.up_proj.weight is torch.int8; quantized" in open_error(original)


def test_a_shard_that_disappears_later(checkpoint):
    opened = Checkpoint.open(str(checkpoint))
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        opened.load("language.norm.weight")


def test_a_loaded_tensor_is_its_own_memory(tiny):
    opened = Checkpoint.open(str(tiny))
    first = opened.load("language.norm.weight")
    first.zero_()
    assert opened.load("language.norm.weight").abs().min() > 0


def test_a_file_is_not_a_checkpoint(tiny):
    assert "is a file. Give the checkpoint's directory" in open_error(tiny / "config.json")


def test_what_is_converted_already(home, tmp_path, seeded_q4):
    (tmp_path / "llava-q4_0.gguf").write_bytes(b"GGUF")
    made_from = "Give the checkpoint that they were made from"
    assert made_from in open_error(tmp_path / "llava-q4_0.gguf")
    assert made_from in open_error(tmp_path)
    already = f"{seeded_q4} is a bundle already. Use it: edge-llava chat IMAGE -m {seeded_q4}"
    assert open_error(seeded_q4) == already
    shutil.copytree(seeded_q4, home / "bundles" / "mine")
    assert open_error("mine") == "mine is a bundle already. Use it: edge-llava chat IMAGE -m mine"


@pytest.mark.parametrize(
    "source", ["no-such-directory", "/no/such/directory", "a/b/c", "../no-such-directory", "~/no-such-dir/x"]
)
def test_neither_a_directory_nor_a_hub_id(source):
    assert f"no such directory: {source} (and it is not a hub id" in open_error(source)


def test_an_empty_directory(tmp_path):
    assert "is not a checkpoint: it has no config.json" in open_error(tmp_path)


def test_a_hub_id_without_a_network():
    started = time.monotonic()
    message = open_error("owner/no-such-llava-1.5")
    assert "'owner/no-such-llava-1.5'" in message
    assert time.monotonic() - started < 20


def test_the_working_directory_does_not_matter(checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint.parent)
    opened = Checkpoint.open(checkpoint.name)
    assert opened.directory == checkpoint
    assert Checkpoint.open(f"{checkpoint.name}/").name == checkpoint.name


def test_licenses(checkpoint):
    for name in ("LICENSE", "USE_POLICY.md", "Notice.txt", "licence-llama2", "README.md", "unlicense.txt"):
        (checkpoint / name).write_text(name)
    found = [path.name for path in Checkpoint.open(str(checkpoint)).license_files()]
    assert found == ["LICENSE", "Notice.txt", "USE_POLICY.md", "licence-llama2"]


class TestTower:
    """The original layout keeps its tower elsewhere."""

    def test_relative_to_the_checkpoint(self, tiny, original_layout, weights_of):
        opened = Checkpoint.open(str(original_layout(tiny)))
        weights = weights_of(tiny)
        name = "vision.encoder.layers.0.mlp.fc1.weight"
        assert opened.config.layout == "original"
        assert opened.n_blocks == 2
        assert opened.tower.image_size == 56
        assert torch.equal(opened.load(name), weights["vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"])
        assert torch.equal(opened.load("projector.2.bias"), weights["multi_modal_projector.linear_2.bias"])
        assert len(opened.vocabulary) == 512

    def test_absolute(self, tiny, original_layout, tmp_path):
        original = original_layout(tiny, mm_vision_tower=str(tmp_path / "clip"))
        assert Checkpoint.open(str(original)).tower.hidden_size == 64

    def test_by_argument(self, tiny, original_layout, tmp_path):
        original = original_layout(tiny, mm_vision_tower="openai/clip-vit-large-patch14-336")
        assert Checkpoint.open(str(original), vision_tower=str(tmp_path / "clip")).tower.hidden_size == 64

    def test_a_directory_never_downloads_its_tower(self, tiny, original_layout):
        message = open_error(original_layout(tiny, mm_vision_tower="openai/clip-vit-large-patch14-336"))
        assert "contains no vision tower; it names 'openai/clip-vit-large-patch14-336'" in message
        assert "--vision-tower openai/clip-vit-large-patch14-336 to download it" in message

    def test_missing(self, tiny, original_layout):
        assert "it names '../elsewhere', which is not a directory here" in open_error(
            original_layout(tiny, mm_vision_tower="../elsewhere")
        )

    def test_not_even_named(self, tiny, original_layout):
        message = open_error(original_layout(tiny, mm_vision_tower=None))
        assert "contains no vision tower and names none. Give it: --vision-tower DIR" in message

    def test_an_hf_checkpoint_accepts_no_other(self, tiny, tmp_path):
        assert "holds its own vision tower" in open_error(tiny, vision_tower=str(tmp_path))

    def test_no_clip(self, tiny, original_layout, tmp_path):
        original = original_layout(tiny)
        (tmp_path / "clip" / "config.json").write_text('{"model_type": "vit"}')
        assert "model_type is 'vit', expected a CLIP or SigLIP model" in open_error(original)

    def test_without_weights(self, tiny, original_layout, tmp_path):
        original = original_layout(tiny)
        (tmp_path / "clip" / "model.safetensors").unlink()
        assert "clip has no weights" in open_error(original)

    def test_of_another_width(self, tiny, original_layout, edit_config, tmp_path):
        original = original_layout(tiny)
        edit_config(tmp_path / "clip", {"vision_config.intermediate_size": 256})
        assert "vision.encoder.layers.0.mlp.fc1.weight has shape (128, 64), expected (256, 64)" in open_error(original)

    def test_weights_inside_win(self, tiny, original_layout, weights_of):
        # fine-tuned towers are saved inside; the one outside would be the untrained one
        original = original_layout(tiny)
        inside = torch.load(original / "pytorch_model.bin", weights_only=True)
        name = "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"
        inside[f"model.vision_tower.{name}"] = 2 * weights_of(tiny)[name]
        torch.save(inside, original / "pytorch_model.bin")
        opened = Checkpoint.open(str(original))
        tensor = opened.load("vision.encoder.layers.0.mlp.fc1.weight")
        assert not torch.equal(opened.load("vision.encoder.layers.1.mlp.fc1.weight"), tensor)  # from the directory
        assert torch.equal(tensor, 2 * weights_of(tiny)[name])


@pytest.mark.parametrize(
    ("pinpoints", "std", "fault"),
    [
        ([[56, 112]] * 1025, 0.3, "expected a list of [width, height], at most 1024"),
        ([[33 * 56, 33 * 56]], 0.3, "vision.grid_pinpoints hold a canvas of 1089 tiles, at most 1024 are supported"),
        ([[60, 112]], 0.3, "vision.grid_pinpoints are not multiples of image_size 56"),
        ([[56, 112]], 2000.0, "vision.image_std is [2000.0, 2000.0, 2000.0], expected three numbers"),
    ],
)
def test_limits_of_the_manifest_are_those_of_a_checkpoint(checkpoint, edit_config, pinpoints, std, fault):
    edit_config(checkpoint, {"model_type": "llava_next", "image_grid_pinpoints": pinpoints})
    (checkpoint / "preprocessor_config.json").write_text(json.dumps({"image_std": [std] * 3}))
    text = open_error(checkpoint)
    assert "is beyond the limits of a bundle:" in text
    assert fault in text

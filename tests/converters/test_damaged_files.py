"""Whatever an untrusted file makes a reader raise becomes a CheckpointError that names the file."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.errors import CheckpointError
from edge_llava.home.border import blaming_file

pytestmark = pytest.mark.convert


@pytest.fixture(scope="module")
def tiny(make_checkpoint, shape) -> Path:
    """Read only."""
    return make_checkpoint(shape(), seed=92)


@pytest.fixture
def checkpoint(tiny, copy_of) -> Path:
    """A copy that the test may damage."""
    return copy_of(tiny)


def refusal(directory: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        Checkpoint.open(str(directory))
    return str(error.value)


class Odd(Exception):
    """An error that no reader is known to raise."""


@pytest.mark.parametrize("error", [Odd("first\nsecond"), RecursionError("first."), KeyError("first"), OSError("first")])
def test_everything_is_the_files_fault(error):
    expected = r"^a\.bin cannot be read: '?first'?\. Download it again\.$"
    border = blaming_file(CheckpointError, Path("a.bin"), "Download it again.", "cannot be read")
    with pytest.raises(CheckpointError, match=expected), border:
        raise error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        SafetensorError("Cannot allocate memory (os error 12)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_is_called_so(error):
    border = blaming_file(CheckpointError, Path("a.bin"), "")
    with pytest.raises(CheckpointError, match=r"^a\.bin needs more memory than there is"), border:
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_the_users_interrupt_is_not_a_fault(error):
    with pytest.raises(error), blaming_file(CheckpointError, Path("a.bin"), "Download it again."):
        raise error


@pytest.mark.parametrize("key", [3, ("a", "b"), None, b"name", 1.5, True])
@pytest.mark.parametrize("nested", [True, False])
def test_state_dicts_whose_keys_are_not_text(checkpoint, weights_of, key, nested):
    weights: dict[Any, Any] = weights_of(checkpoint) | {key: torch.ones(3)}
    (checkpoint / "model.safetensors").unlink()
    torch.save({"state_dict": weights} if nested else weights, checkpoint / "pytorch_model.bin")
    assert f"the name {key!r} is not text" in refusal(checkpoint)


@pytest.mark.parametrize(
    ("tensor", "fault"),
    [
        (torch.ones(64, device="meta"), "has no data (device meta)"),
        (torch.ones(64).to_sparse(), "is sparse"),
        (torch.ones(64, dtype=torch.complex64), "is torch.complex64"),
    ],
)
def test_tensors_of_another_kind(checkpoint, weights_of, tensor, fault):
    name = "language_model.model.norm.weight"
    weights = weights_of(checkpoint) | {name: tensor}
    (checkpoint / "model.safetensors").unlink()
    torch.save(weights, checkpoint / "pytorch_model.bin")
    text = refusal(checkpoint)
    assert name in text
    assert fault in text


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000 + "]" * 100_000,
        '{"weight_map": ' * 50_000 + "1" + "}" * 50_000,
        json.dumps({"weight_map": {"a": "x" * 256}}),
        json.dumps({"weight_map": {"a": "x" * 100_000}}),
        json.dumps({"weight_map": {"a": "x\0y"}}),
        json.dumps({"weight_map": {"a": "\ud800"}}),
        json.dumps({"weight_map": {"a": ""}}),
        json.dumps({"weight_map": [1]}),
        json.dumps({"weight_map": {"a": ["model.safetensors"]}}),
        '{"weight_map": {"a": ' + "1" * 5000 + "}}",
    ],
)
def test_an_index_that_is_damaged(checkpoint, text):
    (checkpoint / "model.safetensors.index.json").write_text(text)
    message = refusal(checkpoint)
    assert str(checkpoint) in message
    assert len(message) < 1500
    assert message.isprintable() or message.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor_config.json", "tokenizer_config.json", "added_tokens.json"]
)
@pytest.mark.parametrize("text", ["[" * 100_000, "{", '{"a": ' + "1" * 5000 + "}", "\0", "[]"])
def test_json_that_is_damaged(checkpoint, name, text):
    (checkpoint / name).write_text(text)
    assert name in refusal(checkpoint)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_json_that_is_not_a_file(checkpoint, name):
    (checkpoint / name).unlink(missing_ok=True)
    os.mkfifo(checkpoint / name)
    if name == "config.json":
        assert "config.json is not a regular file" in refusal(checkpoint)
    else:
        assert Checkpoint.open(str(checkpoint)).config.aspect == "pad"


def test_a_tokenizer_that_is_damaged(checkpoint):
    path = checkpoint / "tokenizer.model"
    data, random, n_refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(150):
        damaged = bytearray(data)
        for position in random.integers(0, len(data), 3):
            damaged[position] = random.integers(256)
        path.write_bytes(damaged if random.random() < 0.7 else damaged[: random.integers(len(data))])
        try:
            Checkpoint.open(str(checkpoint))
        except CheckpointError as error:
            n_refused += 1
            assert str(checkpoint) in str(error)  # noqa: PT017 (the loop goes on)
    assert n_refused > 10


def test_a_tokenizer_whose_pieces_are_not_utf_8(checkpoint):
    path = checkpoint / "tokenizer.model"
    path.write_bytes(path.read_bytes().replace(b"<unk>", b"<\xff\xfek>"))
    assert "tokenizer.model" in refusal(checkpoint)


@pytest.mark.parametrize("tokens", [{"\n" * 10: "x"}, {"a": math.inf}, {"a": [1]}, {"a": None}, {"x" * 1_000_000: "y"}])
def test_added_tokens_that_are_damaged(checkpoint, tokens):
    (checkpoint / "added_tokens.json").write_text(json.dumps(tokens))
    message = refusal(checkpoint)
    assert "added_tokens.json" in message
    assert len(message) < 1000


def test_a_token_that_is_not_text(checkpoint):
    (checkpoint / "added_tokens.json").write_text(json.dumps({"<ok>": 512, "<\ud800>": 513}))
    assert "the token '<\\ud800>' contains unpaired surrogates" in refusal(checkpoint)


def test_many_faults_and_long_names_are_shortened(checkpoint, weights_of, put_weights):
    put_weights(checkpoint, weights_of(checkpoint) | {f"{i}" + "x" * 100_000: torch.ones(1) for i in range(60)})
    message = refusal(checkpoint)
    assert "... and 40 more" in message
    assert len(message) < 6000

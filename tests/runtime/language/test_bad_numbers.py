"""Weights and cached states that are no numbers give an error, never an empty answer; threads never exceed CPUs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_llava
from edge_llava.bundle.bundle import Bundle
from edge_llava.device.facts import count_cpus, this_device
from edge_llava.device.profile import DeviceSettings, Profile, save_profile
from edge_llava.device.threads import default_threads, usable_threads
from edge_llava.errors import BackendError
from edge_llava.ggml.gguf_header import read_gguf_header
from edge_llava.runtime.language.llama_params import context_params
from edge_llava.runtime.model import LlavaModel
from edge_llava.runtime.options import DecoderOptions, EngineOptions, SamplingOptions, tuned_options

MESSAGE = "the model returned NaN logits; no token can be sampled"
GRAMMAR = 'root ::= "x"'


@pytest.fixture
def spoil(seeded_f32: Path, tmp_path: Path) -> Callable[[str, float], Bundle]:
    """spoil(tensor, number) -> the F32 bundle with a tensor full of that number; its digests are right."""

    def make(name: str, number: float) -> Bundle:
        directory = shutil.copytree(seeded_f32, tmp_path / "b")
        bundle = Bundle.open(directory)
        path = bundle.file("language")
        header, data = read_gguf_header(path), bytearray(path.read_bytes())
        last = max(header.tensors.values(), key=lambda tensor: tensor.offset)
        start = len(data) - last.offset - (last.n_bytes + 31) // 32 * 32 + header.tensors[name].offset
        n = header.tensors[name].n_bytes
        data[start : start + n] = np.full(n // 4, number, np.float32).tobytes()
        path.write_bytes(data)
        manifest = json.loads((directory / "manifest.json").read_text())
        manifest["files"]["language"]["sha256"] = hashlib.sha256(data).hexdigest()
        (directory / "manifest.json").write_text(json.dumps(manifest))
        return Bundle.open(directory)

    return make


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(temperature=0),
        SamplingOptions(temperature=0.8, seed=1),
        SamplingOptions(temperature=0.8, top_p=0.9, top_k=5, seed=1),
        SamplingOptions(temperature=0, grammar=GRAMMAR),
    ],
    ids=["greedy", "random", "top", "grammar"],
)
@pytest.mark.parametrize(
    ("name", "number"),
    [("output_norm.weight", np.nan), ("token_embd.weight", np.inf), ("blk.0.attn_v.weight", np.nan)],
)
def test_weights_that_are_no_numbers(
    spoil: Callable[..., Bundle], name: str, number: float, options: SamplingOptions
) -> None:
    bundle = spoil(name, number)
    with edge_llava.load(bundle.path, EngineOptions(DecoderOptions(n_threads=1))) as model:
        chat = model.session(options)
        with pytest.raises(BackendError, match=MESSAGE):
            list(chat.ask("What is this?"))


def test_weights_that_are_no_numbers_in_the_batch_engine(spoil: Callable[..., Bundle], ask: Callable[..., Any]) -> None:
    options = EngineOptions(DecoderOptions(n_threads=1))
    with LlavaModel(spoil("output_norm.weight", np.nan), dataclasses.replace(options, parallel=2)) as engine:
        asked = [ask(engine, "What is this?", SamplingOptions(temperature=heat)) for heat in (0, 1)]
        errors = [each.wait().answer.error for each in asked]
    assert [type(error) for error in errors] == [BackendError, BackendError]
    assert all(MESSAGE in str(error) for error in errors)


def test_command_says_so(spoil: Callable[..., Bundle], run: Callable[..., Any]) -> None:
    result = run("chat", "-m", spoil("output_norm.weight", np.nan).path, "-p", "What is this?", "-t", 1)
    assert (result.code, result.out.strip()) == (9, "")
    assert MESSAGE in result.err


def test_no_more_threads_than_cpus(seeded_f32: Path) -> None:
    n_cpus = count_cpus()
    assert [usable_threads(n) for n in (None, 1, n_cpus, n_cpus + 1, 1024)] == [
        *(default_threads(), 1),
        *(n_cpus, n_cpus, n_cpus),
    ]
    bundle = Bundle.open(seeded_f32)
    settings = DeviceSettings(1024, True, 1024, True, 64, None, "auto")
    language, vision = (bundle.manifest.files[role].sha256 for role in ("language", "vision"))
    save_profile(Profile(settings, "total", this_device(), language, vision, {}), bundle.manifest)
    options = tuned_options(bundle.path)
    assert options.decoder.n_threads == 1024
    params = context_params(bundle.manifest.language, options.decoder, on_cpu=True)
    assert (params.n_threads, params.n_threads_batch) == (n_cpus, n_cpus)
    before = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
    with edge_llava.load(bundle.path, dataclasses.replace(options, n_vision_threads=1024)) as model:
        model.embed_image(np.zeros((16, 16, 3), np.uint8))
        if before:
            assert len(os.listdir("/proc/self/task")) < before + 2 * n_cpus + 20

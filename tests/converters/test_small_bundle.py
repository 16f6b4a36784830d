"""The committed small bundle is what write.py makes of its checkpoint, and answers as transformers does."""

from __future__ import annotations

import dataclasses
import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from safetensors.numpy import load_file

import edge_llava
from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.parity_record import ParityRecord
from edge_llava.bundle.templates import find_template
from edge_llava.runtime.options import EngineOptions, SamplingOptions
from edge_llava.runtime.vision.encoder import VisionEncoder
from edge_llava.selftest import checks

pytestmark = pytest.mark.convert
N_NEW = 32
WRITE = Path(__file__).parents[1] / "data" / "bundles" / "write.py"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which write.py has just made the checkpoint and both bundles."""
    directory = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("EDGE_LLAVA_HOME", str(directory / "home"))
        runpy.run_path(str(WRITE))["write_bundles"](directory)
    return directory


@pytest.mark.parametrize("name", ["f32", "q4"])
def test_made_again(written: Path, seeded_f32: Path, seeded_q4: Path, name: str) -> None:
    committed, again = Bundle.open(seeded_f32 if name == "f32" else seeded_q4), Bundle.open(written / name)
    unversioned = {"files": {}, "parity": {}, "created_by": ""}
    manifests = [dataclasses.replace(bundle.manifest, **unversioned) for bundle in (committed, again)]
    assert manifests[0] == manifests[1]
    assert committed.manifest.files.keys() == again.manifest.files.keys()
    for role in ("language", "projector"):
        readers = [GGUFReader(bundle.file(role)) for bundle in (committed, again)]
        assert [(t.name, t.tensor_type, t.data.tobytes()) for t in readers[0].tensors] == [
            (t.name, t.tensor_type, t.data.tobytes()) for t in readers[1].tensors
        ]
        fields = [{key: field.contents() for key, field in reader.fields.items()} for reader in readers]
        assert fields[0] == fields[1]
    records = [load_file(bundle.file("parity")) for bundle in (committed, again)]
    assert records[0].keys() == records[1].keys()
    for key, values in records[0].items():
        np.testing.assert_allclose(values, records[1][key], rtol=0, atol=1e-5 if values.dtype == np.float32 else 0)


def test_the_towers_give_the_same_features(written: Path, seeded_f32: Path) -> None:
    """The graph itself depends on the version of the exporter."""
    pixels = np.random.default_rng(0).standard_normal((2, 3, 56, 56)).astype(np.float32)
    features = []
    for path in (seeded_f32, written / "f32"):
        bundle = Bundle.open(path)
        encoder = VisionEncoder(bundle.file("vision"), bundle.manifest.vision, EngineOptions(n_vision_threads=1))
        features.append(encoder(pixels))
        encoder.close()
    np.testing.assert_allclose(features[0], features[1], rtol=0, atol=1e-5)


def test_it_is_small(seeded_f32: Path) -> None:
    q4_files = WRITE.with_name("q4").iterdir()
    assert sum(path.stat().st_size for path in (*seeded_f32.iterdir(), *q4_files)) < 1_000_000


def test_the_selftest_expects_what_transformers_says(
    written: Path, seeded_f32: Path, reference: Callable[..., Any]
) -> None:
    image = ParityRecord.load(Bundle.open(seeded_f32).file("parity")).images[-1]
    config = json.loads((written / "seeded" / "config.json").read_text())
    config |= {
        "image_token_index": 3,
        "image_seq_length": 64,
    }  # transformers marks the place by a byte that no text has
    checkpoint = shutil.copytree(written / "seeded", written / "marked")
    (checkpoint / "config.json").write_text(json.dumps(config))
    truth = reference(checkpoint)
    opening = find_template("llava_v1").opening
    prompt = f"{opening}<image>\n{checks._QUESTION} ASSISTANT:"
    tokens = truth.greedy(truth.prompt_ids(prompt), [truth.pixels(image, "pad")], N_NEW)
    assert tuple(tokens[: len(checks._TINY_ANSWER)]) == checks._TINY_ANSWER
    with edge_llava.load(seeded_f32) as model:
        answer = model.session(SamplingOptions(temperature=0, max_new_tokens=N_NEW)).ask(checks._QUESTION, image=image)
        assert [token.id for token in answer] == tokens

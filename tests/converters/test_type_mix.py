"""The choice of a type for each matrix: against all choices that there are, and as a whole conversion."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from gguf import GGMLQuantizationType as GgmlType
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.language_spec import MIXED
from edge_llava.bundle.manifest import Manifest
from edge_llava.conversion.convert import convert
from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.dialogue_rows import DialogueRows
from edge_llava.converters.options import ConvertOptions
from edge_llava.converters.quant_types import encoded_bytes
from edge_llava.converters.quantize import Encoder
from edge_llava.converters.sensitivity import measure_losses
from edge_llava.converters.type_mix import TYPES, check_room, choose_mix
from edge_llava.errors import BundleError, ConversionError
from edge_llava.runtime.model import LlavaModel

pytestmark = pytest.mark.convert

FOUR = (GgmlType.Q2_K, GgmlType.Q3_K, GgmlType.Q4_K, GgmlType.Q6_K)


@st.composite
def problems(draw):
    """(losses of up to four matrices in FOUR types, their shapes, a budget that the smallest types fit)."""
    n = draw(st.integers(1, 4))
    shapes = {f"blk.{i}.x.weight": (draw(st.integers(1, 6)), 256) for i in range(n)}
    losses = {
        name: dict(
            zip(FOUR, sorted(draw(st.lists(st.floats(0, 1), min_size=4, max_size=4)), reverse=True), strict=True)
        )
        for name in shapes
    }
    least = sum(encoded_bytes(FOUR[0], shape) for shape in shapes.values())
    return losses, shapes, least + draw(st.integers(0, 3000))


def total_bytes(types, shapes):
    return sum(encoded_bytes(type_, shapes[name]) for name, type_ in types.items())


def total_loss(types, losses):
    return sum(losses[name][type_] for name, type_ in types.items())


@given(problems())
@settings(max_examples=150, deadline=None)
def test_no_choice_loses_less_by_more_than_one_step(problem):
    losses, shapes, n_bytes = problem
    chosen = choose_mix(losses, shapes, n_bytes)
    assert total_bytes(chosen, shapes) <= n_bytes
    largest_step = max(encoded_bytes(FOUR[-1], shape) for shape in shapes.values())
    choices = (dict(zip(shapes, types, strict=True)) for types in itertools.product(FOUR, repeat=len(shapes)))
    smaller = [each for each in choices if total_bytes(each, shapes) <= n_bytes - largest_step]
    assert all(total_loss(chosen, losses) <= total_loss(each, losses) + 1e-9 for each in smaller)


@given(problems())
@settings(max_examples=100, deadline=None)
def test_more_room_never_loses_more(problem):
    losses, shapes, n_bytes = problem
    less, more = (total_loss(choose_mix(losses, shapes, n_bytes + extra), losses) for extra in (0, 500))
    assert more <= less + 1e-9


def test_too_little_room_says_how_much_is_missing():
    shapes = {"blk.0.attn_q.weight": (1000, 2560)}
    with pytest.raises(ConversionError, match=r"leaves 0\.5 MB .* takes 0\.7 MB\. Allow 0\.2 MB more"):
        check_room(shapes, 500_000)
    check_room(shapes, 660_000)


def test_losses_of_a_seeded_model(make_checkpoint, shape):
    """More bits lose less, and a matrix whose result nothing reads loses nothing for its block."""
    checkpoint = Checkpoint.open(str(make_checkpoint(shape(width=256, ff=512, layers=2), seed=71)))
    rows = checkpoint.load("language.embed_tokens.weight")[[1, *range(40, 90)]].float()
    encoder = Encoder(1)
    importance, losses = measure_losses(checkpoint, [DialogueRows(rows, slice(5, 30))], encoder)
    encoder.close()
    assert set(losses) == set(importance.mean_squares)
    assert len(losses) == 14
    for name, by_type in losses.items():
        assert tuple(by_type) == TYPES
        for worse, better in itertools.pairwise((GgmlType.IQ2_XXS, GgmlType.IQ3_XXS, GgmlType.Q4_K, GgmlType.Q8_0)):
            assert 0 < by_type[better] < by_type[worse] / 2, name


@pytest.fixture(scope="module")
def mixed(make_checkpoint, shape, tmp_path_factory):
    """(checkpoint, options, bundle): made as small as asked for."""
    checkpoint = make_checkpoint(shape(width=256, ff=512, layers=4), seed=72)
    options = ConvertOptions(quant=MIXED, size_bytes=2_700_000, vision="fp32")
    return checkpoint, options, convert(checkpoint, tmp_path_factory.mktemp("mixed") / "bundle", options)


def test_a_bundle_of_a_size(mixed, read_gguf):
    _, options, bundle = mixed
    n_bytes = sum(path.stat().st_size for path in bundle.path.rglob("*") if path.is_file())
    assert 0.8 * options.size_bytes < n_bytes <= options.size_bytes
    language = Bundle.open(bundle.path).manifest.language
    assert language.quant == MIXED
    tensors = read_gguf(bundle.file("language")).tensors
    assert {name: tensor.type for name, tensor in language.mix.items()} == {
        name: tensors[name][0] for name in tensors if name.startswith("blk.") and len(tensors[name][1]) > 1
    }
    assert len({tensor.type for tensor in language.mix.values()}) > 1
    assert language.importance.n_dialogues == 14
    assert language.describe_quantization().startswith("MIXED (")


def test_it_answers(mixed):
    with LlavaModel(mixed[2]) as model:
        tokens = list(model.session().ask("What is this?", image=np.zeros((40, 40, 3), np.uint8)))
    assert len(tokens) > 1


def test_a_size_that_is_too_small_is_refused_before_any_work(mixed, tmp_path):
    options = ConvertOptions(quant=MIXED, size_bytes=600_000, vision="fp32")
    stages = []
    with pytest.raises(ConversionError, match=r"Allow \d\.\d MB more"):
        convert(mixed[0], tmp_path / "bundle", options, progress=stages.append)
    assert [event for event in stages if event.stage.startswith("vision tower")] == []
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_of_a_mix_is_checked(mixed, tmp_path):
    path = mixed[2].path / "manifest.json"
    data = json.loads(path.read_text())
    name = next(iter(data["language"]["mix"]))
    data["language"]["mix"][name]["type"] = "Q9_K"
    data["language"]["importance"]["n_positions"] = 0
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(json.dumps(data), "it")
    assert f"language.mix.{name}.type" in str(caught.value)
    assert "language.importance.n_positions" in str(caught.value)

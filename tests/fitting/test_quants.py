"""What a checkpoint would take, before it is converted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.fitting.bundle_needs import predict_needs
from edge_llava.fitting.room import Room
from edge_llava.runtime.options import DecoderOptions, EngineOptions

pytest.importorskip("torch")
pytestmark = pytest.mark.convert
SPARING = EngineOptions(DecoderOptions(n_ctx=2048, repack=False))


@pytest.fixture(scope="module")
def checkpoint(seeded_checkpoint):
    from edge_llava.converters.checkpoint import Checkpoint

    return Checkpoint.open(str(seeded_checkpoint))


def needed(checkpoint, quant):
    from edge_llava.converters.options import ConvertOptions
    from edge_llava.fitting.quants import list_needs

    (found,) = list_needs(checkpoint, SPARING, ConvertOptions(vision="fp32"), (quant,))
    return found


@pytest.mark.parametrize(("quant", "fixture"), [("F32", "converted_f32"), ("Q4_K_M", "converted_q4")])
def test_a_checkpoint_takes_what_its_bundle_takes(checkpoint, request, quant, fixture):
    planned, bundle = needed(checkpoint, quant), Bundle.open(request.getfixturevalue(fixture))
    made = predict_needs(bundle, SPARING)
    assert planned.needs.n_bytes == pytest.approx(made.n_bytes, rel=0.1)
    sizes = {role: entry.bytes for role, entry in bundle.manifest.files.items()}
    (weights,) = (part for part in planned.needs.parts if part.name == "weights")
    assert weights.n_bytes == pytest.approx(sizes["language"], rel=0.05)


def _default(checkpoint, quant):
    """With the tower that is usual."""
    from edge_llava.converters.options import ConvertOptions
    from edge_llava.fitting.quants import list_needs

    (found,) = list_needs(checkpoint, SPARING, ConvertOptions(), (quant,))
    return found.needs.n_bytes


def test_a_template_that_has_to_be_given_is_not_asked_for(checkpoint):
    """Sizes do not depend on it."""
    from edge_llava.converters.template_choice import checkpoint_template
    from edge_llava.errors import EdgeLlavaError

    without = replace(checkpoint, config=replace(checkpoint.config, template_fault="it names none"))
    with pytest.raises(EdgeLlavaError):
        checkpoint_template(without, None)
    assert needed(without, "Q4_K_M") == needed(checkpoint, "Q4_K_M")


def test_a_quantization_that_fits_is_proposed(checkpoint):
    from edge_llava.converters.options import ConvertOptions
    from edge_llava.fitting.quants import LADDER, propose_quant

    def propose(room, *, most_exact):
        return propose_quant(checkpoint, room, ConvertOptions(vision="fp32"), most_exact=most_exact)

    sizes = {quant: needed(checkpoint, quant).needs.n_bytes for quant in LADDER}
    assert sorted(sizes.values(), reverse=True) == list(sizes.values())
    for quant, size in sizes.items():
        assert propose(Room(size), most_exact=True) == quant
    assert propose(Room(sizes["Q2_K"] - 1), most_exact=True) is None
    assert propose(Room(None), most_exact=False) == "Q4_K_M"
    assert propose(Room(sizes["Q8_0"]), most_exact=False) == "Q4_K_M"
    assert propose(Room(sizes["Q3_K_M"]), most_exact=False) == "Q3_K_M"


def test_fit_of_a_checkpoint(run, checkpoint, seeded_checkpoint):
    size = _default(checkpoint, "Q5_K_M")
    shown = run("fit", seeded_checkpoint, "-c", 2048, "--for", f"{size / 1e6 + 0.001:.3f}MB")
    assert shown.code == 0
    verdicts = [line.split(maxsplit=3)[3] for line in shown.out.splitlines()[1:]]
    # all but the weights, which are mapped, fits in each
    assert verdicts == ["slow", "slow", "fits  <- the most exact that fits", "fits", "fits", "fits"]
    nothing = run("fit", seeded_checkpoint, "--for", "1MB", "--json")
    assert (nothing.code, json.loads(nothing.out)["best"]) == (1, None)
    one = json.loads(run("fit", seeded_checkpoint, "--quant", "F16", "-c", 2048, "--json").out)
    assert list(one["quants"]) == ["F16"]


def test_convert_for_a_device(run, checkpoint, seeded_checkpoint, tmp_path):
    size = needed(checkpoint, "Q3_K_M").needs.n_bytes
    words = ("convert", seeded_checkpoint, "--vision", "fp32", "-o", tmp_path / "bundle")
    done = run(*words, "--for", f"{size / 1e6 + 0.001:.3f}MB")
    assert done.code == 0
    assert "Q3_K_M is the most exact quantization that fits" in done.err
    assert Bundle.open(tmp_path / "bundle").manifest.language.quant == "Q3_K_M"
    refused = run(*words, "--for", "1MB", "--force")
    assert (refused.code, refused.out) == (5, "")
    assert "does not fit into 0.0 GB, not even in Q2_K" in refused.err
    assert run(*words, "--for", "1MB", "--quant", "Q2_K").code == 2
    assert "write 8GB or 600MB" in run(*words, "--for", "much").err


def test_convert_chooses_less_where_the_usual_does_not_fit(run, checkpoint, seeded_checkpoint, tmp_path, monkeypatch):
    room = Room(needed(checkpoint, "Q2_K").needs.n_bytes)
    monkeypatch.setattr("edge_llava.fitting.room.read_room", lambda: room)
    done = run("convert", seeded_checkpoint, "--vision", "fp32")
    assert done.code == 0
    assert "Q2_K, because Q4_K_M does not fit" in done.err
    assert done.out.strip().endswith("-q2_k")

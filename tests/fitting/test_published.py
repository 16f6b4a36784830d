"""The table of `edge-llava models`: its sizes follow from published shapes, by the converters' own rules."""

from __future__ import annotations

import json
import os

import pytest

from edge_llava.cli import recommending
from edge_llava.fitting.published import PUBLISHED, QUANT
from edge_llava.fitting.room import Room

BY_NAME = {each.repository: each for each in PUBLISHED}
# billions of weights, as the hub counts them
COUNTED = {
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": 0.894,
    "qnguyen3/nanoLLaVA": 1.05,
    "llava-hf/llava-1.5-7b-hf": 7.06,
    "llava-hf/llava-v1.6-mistral-7b-hf": 7.57,
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": 8.03,
    "fancyfeast/llama-joycaption-beta-one-hf-llava": 8.48,
    "llava-hf/llava-1.5-13b-hf": 13.4,
}


@pytest.mark.convert
@pytest.mark.parametrize("each", PUBLISHED, ids=lambda each: each.repository)
def test_the_language_model_has_the_size_that_a_conversion_gives_it(each):
    pytest.importorskip("gguf")
    from edge_llava.converters.quant_types import QuantRules, choose_type, encoded_bytes

    shape = each.language
    rules = QuantRules(QUANT, shape.n_layer, shape.n_head // shape.n_head_kv, shape.tied, shape.architecture)
    assert shape.q4_bytes == sum(encoded_bytes(choose_type(rules, name, of), of) for name, of in shape.tensors())


@pytest.mark.parametrize("name", COUNTED)
def test_the_shapes_add_up_to_the_weights_that_are_published(name):
    assert BY_NAME[name].n_weights / 1e9 == pytest.approx(COUNTED[name], rel=0.02)


def test_a_13b_takes_more_than_a_7b_and_tiles_more_than_one_square():
    small, large, tiled = (
        BY_NAME[f"llava-hf/{name}"].needs().n_bytes
        for name in ("llava-1.5-7b-hf", "llava-1.5-13b-hf", "llava-v1.6-vicuna-7b-hf")
    )
    assert small < tiled < large


def test_models_recommends_what_fits(run, monkeypatch):
    needs = {name: each.needs() for name, each in BY_NAME.items()}
    middle = needs["llava-hf/llava-1.5-7b-hf"].n_bytes
    monkeypatch.setattr("edge_llava.fitting.room.read_room", lambda: Room(middle))
    monkeypatch.setenv("COLUMNS", "80")
    shown = run("models")
    assert shown.code == 0
    rows = [line.split() for line in shown.out.splitlines()[1:]]
    assert {row[-1] for row in rows} == set(BY_NAME)
    assert max(map(len, shown.out.splitlines())) <= 80
    verdicts = {row[-1]: row[3] for row in rows}
    for name, need in needs.items():
        expected = "yes" if need.n_bytes <= middle else "slow" if need.kept_bytes <= middle else "no"
        assert verdicts[name] == expected
    assert set(verdicts.values()) == {"yes", "slow"}
    monkeypatch.setattr("edge_llava.fitting.room.read_room", lambda: Room(10**9))
    facts = json.loads(run("models", "--json").out)
    assert facts["bundles"] == []
    assert "fits" not in {row["verdict"] for row in facts["checkpoints"]}
    monkeypatch.setattr("edge_llava.fitting.room.read_room", lambda: Room(None))
    assert {row.split()[3] for row in run("models").out.splitlines()[1:]} == {"?"}


def test_models_shows_what_is_here_first(run, seeded_q4, home, monkeypatch):
    import shutil

    from edge_llava.home.lock import hold

    shutil.copytree(seeded_q4, home / "bundles" / "mine")
    (home / "bundles" / "other.download.partial").mkdir()
    (home / "bundles" / "other.download.partial" / "language.gguf").write_bytes(b"x" * 2000)
    shown = run("models")
    assert shown.out.splitlines()[0].split()[:3] == ["*", "mine", "313.7"]
    assert "2.0 kB of an unfinished download: `edge-llava pull ADDRESS --name other` resumes it" in shown.err
    with hold(home / "bundles" / "other"):
        assert "unfinished" not in run("models").err
    assert run("models", "--json", "list").code == 2


def test_a_download_that_shrinks_while_its_size_is_read(run, home, monkeypatch):
    growing = home / "bundles" / "other.download.partial"
    growing.mkdir(parents=True)
    for name in ("a", "b"):
        (growing / name).write_bytes(b"x" * 1000)
    walk = os.walk

    def walk_and_delete(top):
        for found in walk(top):
            (growing / "a").unlink(missing_ok=True)
            yield found

    monkeypatch.setattr(os, "walk", walk_and_delete)
    shown = run("models")
    assert (shown.code, "1.0 kB of an unfinished download" in shown.err) == (0, True)


def test_seconds_are_those_of_this_devices_measurements(run, seeded_q4, home):
    import shutil

    from edge_llava.bundle.bundle import Bundle
    from edge_llava.device.facts import this_device
    from edge_llava.device.profile import DeviceSettings, Profile, save_profile

    shutil.copytree(seeded_q4, home / "bundles" / "mine")
    bundle = Bundle.open(home / "bundles" / "mine")
    assert recommending.tuned_seconds(bundle) is None
    files = bundle.manifest.files
    settings = DeviceSettings(1, False, 1, True, 512, None, "auto")
    digests = files["language"].sha256, files["vision"].sha256
    save_profile(Profile(settings, "total", this_device(), *digests, {"turn_s": 12.34}), bundle.manifest)
    assert "12.3 s an image" in run("models", "list").out

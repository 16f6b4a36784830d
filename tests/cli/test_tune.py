from __future__ import annotations

import dataclasses
import json
import os
import statistics
from pathlib import Path

import llama_cpp
import PIL.Image
import pytest

import edge_llava
from edge_llava.bundle.bundle import Bundle
from edge_llava.cli.options import EngineChoice
from edge_llava.device.facts import count_cpus, this_device
from edge_llava.device.profile import DeviceSettings, Profile, find_profile, profile_path, save_profile
from edge_llava.doctor.children import Outcome
from edge_llava.doctor.processor import Processor
from edge_llava.doctor.system import this_system

pytestmark = pytest.mark.convert
SETTINGS = DeviceSettings(3, False, 5, False, 96, False, "auto")


@pytest.fixture(autouse=True)
def one_cpu():
    """Tiny models gain nothing from a second CPU."""
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usable)})
    yield
    os.sched_setaffinity(0, usable)


@pytest.fixture
def profiled(seeded_q4, home):
    """The bundle's directory, and where a profile of it was written."""
    manifest = Bundle.open(seeded_q4).manifest
    digests = (manifest.files[role].sha256 for role in ("language", "vision"))
    return seeded_q4, save_profile(Profile(SETTINGS, "total", this_device(), *digests, {}), manifest)


def chosen(options):
    decoder = options.decoder
    return DeviceSettings(
        options.n_vision_threads,
        options.vision_spinning,
        decoder.n_threads,
        decoder.repack,
        decoder.n_batch,
        decoder.flash_attention,
        decoder.kv_type,
    )


@pytest.mark.parametrize("goal", ["total", "memory"])
def test_table_fits_80_columns_and_marks_the_choice(run, seeded_q4, goal):
    result = run("tune", "-m", seeded_q4, "--seconds", 2, "--goal", goal)
    assert result.code == 0
    lines = result.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.endswith(" *") for line in lines) == 2
    profile = find_profile(Bundle.open(seeded_q4).manifest)
    assert profile.goal == goal
    assert f"saved in {profile_path(Bundle.open(seeded_q4).manifest, profile.device)}" in result.err
    (row,) = [line.split() for line in lines if line.endswith(" *") and len(line.split()) > 6]
    assert row[:2] == [str(profile.settings.n_threads), "yes" if profile.settings.repack else "no"]


def test_widest_table_fits_80_columns(seeded_q4):
    from edge_llava.cli.tune import _format_table
    from edge_llava.measuring.stages import LanguageFigures, VisionFigures
    from edge_llava.measuring.trials import Trial
    from edge_llava.measuring.tuning import Tuning

    settings = dataclasses.replace(SETTINGS, n_threads=128, n_batch=1024, kv_type="q8_0", flash_attention=None)
    device = dataclasses.replace(this_device(), cpu="A very long name of a CPU " * 5, n_cpus=128)
    measured = dict.fromkeys(("vision_s", "projector_s", "prefill_tps", "decode_tps"), 1.0) | {"turn_s": 1234.5}
    tuning = Tuning(
        Profile(settings, "throughput", device, "", "", measured),
        (Trial(settings, (VisionFigures(1234.5, 0.1),) * 10),),
        (Trial(settings, (LanguageFigures(12345.6, 1234.5),) * 10),),
        {settings: 123_400_000_000},
        {2: 1.0},
        2930,
        3600.0,
    )
    lines = list(_format_table(tuning, "a-long-name" * 20))
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "There was no time to compare anything. Try again with --seconds 3600"


def test_json_is_one_object_and_the_choice_its_least(run, seeded_q4):
    result = run("tune", "-m", seeded_q4, "--seconds", 2, "--goal", "ttft", "--json")
    report = json.loads(result.out)
    assert set(report) == {
        "bundle", "goal", "device", "settings", "measured", "parallel", "steps", "n_positions", "trials", "seconds",
        "profile",
    }  # fmt: skip
    assert set(report["settings"]) == {field.name for field in dataclasses.fields(DeviceSettings)}
    trials = report["trials"]["language"]
    best = max(statistics.median(sample["prefill_tps"] for sample in trial["samples"]) for trial in trials)
    # what is chosen by is the median of the inverse, which differs for an even number of samples
    assert report["measured"]["prefill_tps"] >= 0.9 * best
    assert json.loads(Path(report["profile"]).read_text())["settings"] == report["settings"]


def test_commands_take_the_profile(profiled):
    bundle, _ = profiled
    options = EngineChoice(ctx=256, gpu_layers=0, provider="cpu").options(Bundle.open(bundle))
    assert chosen(options) == SETTINGS
    assert (options.decoder.n_ctx, options.decoder.n_gpu_layers, options.vision_provider) == (256, 0, "cpu")


def test_captions_are_computed_as_many_at_a_time_as_was_best(profiled, run, tmp_path, monkeypatch):
    """Unless the command says otherwise; and one at a time where other programs disturbed the measurement."""
    from edge_llava.cli import caption

    bundle, path = profiled
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    opened, open_model = [], caption.open_model
    monkeypatch.setattr(
        caption,
        "open_model",
        lambda bundle, how, **words: opened.append(how.parallel) or open_model(bundle, how, **words),
    )
    data = json.loads(path.read_text()) | {"parallel": 3}
    for measured, options in (({}, []), ({}, ["--parallel", 2]), ({}, ["--no-profile"]), ({"other_cpus": 2.0}, [])):
        path.write_text(json.dumps(data | {"measured": measured}))
        (tmp_path / "captions.jsonl").unlink(missing_ok=True)
        assert run("caption", tmp_path / "image.png", "-m", bundle, "-n", 2, *options).code == 0
    assert opened == [3, 2, 1, 1]


def test_explicit_options_win(profiled):
    options = EngineChoice(threads=2).options(Bundle.open(profiled[0]))
    assert chosen(options) == dataclasses.replace(SETTINGS, n_threads=2, n_vision_threads=2)


def test_no_profile_gives_the_defaults(profiled):
    options = EngineChoice(no_profile=True).options(Bundle.open(profiled[0]))
    assert options == edge_llava.EngineOptions()


def test_the_python_interface_takes_it_unless_options_are_given(profiled):
    bundle, _ = profiled
    assert chosen(edge_llava.tuned_options(bundle)) == SETTINGS
    for options, n_batch, n_threads in ((None, 96, min(5, count_cpus())), (edge_llava.EngineOptions(), 512, 1)):
        with edge_llava.load(bundle, options) as model:
            assert llama_cpp.llama_n_batch(model.engine.language.context) == n_batch
            assert llama_cpp.llama_n_threads(model.engine.language.context) == n_threads


def test_a_damaged_profile_is_reported_and_ignored(run, profiled, photo, tmp_path):
    bundle, path = profiled
    question = ("chat", photo, "-m", bundle, "-p", "What?", "-n", 2, "--temp", 0, "--json")
    assert "profile" not in run(*question).err
    path.write_text("{")
    result = run(*question)
    assert result.code == 0
    assert f"edge-llava: the profile {path} is ignored" in result.err
    assert json.loads(result.out)["tokens"]
    assert "profile" not in run(*question, "--no-profile").err
    embedded = run("embed", photo, "-m", bundle, "-o", tmp_path / "a.safetensors")
    assert (embedded.code, "is ignored" in embedded.err) == (0, True)


def test_answers_do_not_depend_on_it(run, profiled, seeded_q4, photo):
    question = ("chat", photo, "-m", seeded_q4, "-p", "What?", "-n", 1, "--temp", 0, "--json")
    ours, plain = (json.loads(run(*question, *more).out) for more in ((), ("--no-profile",)))
    assert ours["images"][0]["key"] == plain["images"][0]["key"]
    assert ours["timings"]["prefill_tokens"] == plain["timings"]["prefill_tokens"]


@pytest.mark.parametrize(
    ("arguments", "code"), [(("--goal", "fame"), 2), (("--seconds", "0"), 2), (("-m", "no-such-bundle"), 6)]
)
def test_bad_input(run, arguments, code):
    result = run("tune", *arguments)
    assert (result.code, result.out) == (code, "")


def test_says_that_another_build_would_be_faster(run, seeded_q4, monkeypatch):
    facts = {"version": "0.3.36", "features": ["AVX2", "OPENMP"], "gcc": "12.2", "amx_works": False}
    monkeypatch.setattr("edge_llava.doctor.children.run_probes", lambda *_, **__: {"llama.cpp": Outcome(facts)})
    system = dataclasses.replace(
        this_system(), processor=Processor("Xeon", frozenset({"AVX2", "AVX512_VNNI", "AMX_INT8"}), 0, 0)
    )
    monkeypatch.setattr("edge_llava.doctor.system.this_system", lambda: system)
    result = run("tune", "-m", str(seeded_q4), "--seconds", "1")
    assert result.code == 0
    assert "this processor has AMX_INT8, AVX512_VNNI, which llama.cpp was built without." in result.err
    assert 'CMAKE_ARGS="-DCMAKE_CXX_FLAGS=-fno-dse" pip install --force-reinstall' in result.err

"""What commands say and do about images that are cut into tiles."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.cli.tiles import describe_range, describe_tiles
from edge_llava.device.facts import this_device
from edge_llava.device.profile import DeviceSettings, Profile
from edge_llava.errors import ContextOverflow
from edge_llava.runtime.lifetime.cancel import Cancelled
from edge_llava.runtime.model import LlavaModel
from edge_llava.runtime.options import DecoderOptions, EngineOptions
from edge_llava.runtime.vision.image import Image
from edge_llava.runtime.vision.image_encoder import ImageEncoder

pytestmark = pytest.mark.convert


@pytest.fixture(scope="module")
def tiled(seeded_f32, tmp_path_factory):
    """The directory of the small bundle, with canvases of 1 to 36 tiles."""
    directory = tmp_path_factory.mktemp("tiled") / "tiled"
    shutil.copytree(seeded_f32, directory)
    manifest = Bundle.open(directory).manifest
    side = manifest.vision.image_size
    canvases = tuple((side * across, side * down) for down in range(1, 7) for across in range(1, 7))
    vision = replace(
        manifest.vision, aspect="anyres", grid_pinpoints=canvases, merge="spatial_unpad", merge_limit=9, ranking="none"
    )
    (directory / "manifest.json").write_text(replace(manifest, vision=vision, format_version=2).to_json())
    return directory


@pytest.fixture
def photograph(noise, tmp_path):
    """A file of 403 x 302 pixels: 31 tiles, as OneVision makes of a photograph of 12 megapixels."""
    from PIL import Image as Pillow

    Pillow.fromarray(noise(403, 302)).save(tmp_path / "photograph.png")
    return tmp_path / "photograph.png"


def test_what_an_image_takes_is_said_before_the_work(run, tiled, photograph):
    arguments = ("chat", photograph, "-m", tiled, "-p", "What?", "-n", 2, "-t", 1, "--json", "-c", 1024)
    whole = run(*arguments)
    assert whole.code == 0
    (image,) = json.loads(whole.out)["images"]
    fewer = json.loads(run(*arguments, "--max-tiles", 5).out)["images"][0]
    assert fewer["n_tokens"] < image["n_tokens"]
    assert fewer["key"] != image["key"]
    counts = image["n_tokens"], fewer["n_tokens"]
    said = "{}: 31 tiles, {:,} positions; --max-tiles 5: {:,} positions\n".format(photograph, *counts)
    assert said in whole.err


def test_the_time_is_what_was_measured_here(tiled):
    manifest = Bundle.open(tiled).manifest
    settings = DeviceSettings(1, True, 1, True, 512, None, "auto")
    measured = {"vision_s": 30.0, "projector_s": 1.0, "prefill_tps": 10.0}
    profile = Profile(settings, "total", this_device(), "0", "0", measured)
    size, form = (403, 302), manifest.vision
    n_positions = int(describe_tiles(size, manifest, form, None).split()[2].replace(",", ""))
    minutes = round((31 * 31 / 31 + n_positions / 10) / 60)  # what was measured has 31 tiles, too
    assert f"31 tiles, {n_positions} positions, about {minutes} minutes here; " in describe_tiles(
        size, manifest, form, profile
    )
    unknown = replace(profile, measured=measured | {"prefill_tps": None})
    assert "here" not in describe_tiles(size, manifest, form, unknown)
    assert describe_tiles((5, 5), manifest, replace(form, aspect="pad", merge="flat"), profile) == ""


def test_inspect_shows_the_range_and_the_limit(run, tiled):
    shown = run("inspect", tiled).out
    vision = Bundle.open(tiled).manifest.vision
    assert describe_range(vision) in shown
    assert "in up to 37 tiles" in shown
    assert describe_range(replace(vision, max_tiles=5)).endswith("in up to 5 tiles (limited to 5)")


def test_a_limit_without_tiles_is_refused(run, seeded_f32, photograph):
    refused = run("chat", photograph, "-m", seeded_f32, "-p", "What?", "--max-tiles", 5)
    assert (refused.code, refused.out) == (6, "")
    assert "does not cut images into tiles, so their number cannot be limited. Leave --max-tiles out." in refused.err


def test_a_context_too_small_says_how_many_tiles_fit(tiled, noise, home):
    options = EngineOptions(DecoderOptions(n_threads=1, n_ctx=512), n_vision_threads=1)
    with LlavaModel(Bundle.open(tiled), options) as model, pytest.raises(ContextOverflow) as caught:
        model.session().ask("What?", image=noise(403, 302))
    n = int(str(caught.value).split("--max-tiles ")[1].split(")")[0])
    options = replace(options, max_tiles=n)
    with LlavaModel(Bundle.open(tiled), options) as model:
        assert model.session().show_prompt("What?", image=noise(403, 302))


@pytest.mark.parametrize("n_at_once", [1, 4])
def test_tiles_are_encoded_in_batches_with_progress(tiled, noise, n_at_once):
    encoder, image = ImageEncoder(Bundle.open(tiled), EngineOptions(n_vision_threads=1)), Image.open(noise(403, 302))
    rows = encoder.encode(image, "key")
    encoder._n_at_once, done = n_at_once, []
    again = encoder.encode(image, "key", progress=lambda event: done.append((event.done, event.total)))
    assert done == [(min(n, 31), 31) for n in range(n_at_once, 31 + n_at_once, n_at_once)]
    assert np.isfinite(rows.data).all()
    assert np.abs(again.data - rows.data).max() < 1e-5
    encoder.close()


@pytest.mark.parametrize(("low_memory", "n_at_once"), [(False, 2), (True, 1)])
def test_few_tiles_are_encoded_at_once_on_a_cpu(tiled, noise, low_memory, n_at_once):
    encoder, done = ImageEncoder(Bundle.open(tiled), EngineOptions(n_vision_threads=1, low_memory=low_memory)), []
    encoder.encode(Image.open(noise(403, 302)), "key", progress=lambda event: done.append(event.done))
    assert done == [min(n, 31) for n in range(n_at_once, 31 + n_at_once, n_at_once)]
    encoder.close()


def test_cancel_between_batches(tiled, noise):
    encoder, cancel, done = ImageEncoder(Bundle.open(tiled), EngineOptions(n_vision_threads=1)), threading.Event(), []

    def progress(event):
        done.append(event.done)
        if event.done == 4:
            cancel.set()

    with pytest.raises(Cancelled):
        encoder.encode(Image.open(noise(403, 302)), "key", cancel, progress=progress)
    assert done == [2, 4]
    encoder.close()

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import signal
import threading
import time

import numpy as np
import PIL.Image
import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.errors import BackendError, EdgeLlavaError, ImageError
from edge_llava.runtime.language.decoder import Decoder
from edge_llava.runtime.lifetime.cancel import Cancelled
from edge_llava.runtime.model import LlavaModel
from edge_llava.runtime.options import DecoderOptions, EngineOptions, SamplingOptions
from edge_llava.runtime.runs import image_ends
from edge_llava.runtime.vision.image import Image
from edge_llava.runtime.vision.image_encoder import ImageEncoder
from edge_llava.runtime.vision.tower import Tower, wait_for

pytestmark = pytest.mark.convert
GREEDY = SamplingOptions(temperature=0, max_new_tokens=8)
SMALL = EngineOptions(DecoderOptions(n_threads=1), n_vision_threads=1)


@pytest.fixture
def opener(seeded_f32):
    """Opens the seeded tower; counts how often, and waits for `opener.go`."""

    def run():
        run.n_opened += 1
        assert run.go.wait(20)
        return ImageEncoder(Bundle.open(seeded_f32), SMALL)

    run.n_opened, run.go = 0, threading.Event()
    return run


@pytest.fixture
def square(noise):
    """An opened image."""
    return Image.open(noise(64, 64))


@pytest.fixture
def tower_with(seeded_f32):
    """tower_with(opener) -> a tower whose engines that opener opens."""
    towers = []

    def make(opener, *, low_memory=False):
        tower = Tower(Bundle.open(seeded_f32), dataclasses.replace(SMALL, low_memory=low_memory))
        tower._opener = opener
        towers.append(tower)
        return tower

    yield make
    for tower in towers:
        tower.close()


def test_opened_once_and_only_when_asked_for(opener, tower_with, square, noise):
    tower = tower_with(opener)
    assert (tower.is_open, tower.open_s, opener.n_opened) == (False, 0.0, 0)
    works = [tower.start(square), tower.start(square, "k"), tower.start_features(square)]
    assert not tower.is_open
    opener.go.set()
    first, second, features = (wait_for(work) for work in works)
    assert first.data.tobytes() == second.data.tobytes()
    assert (first.key, second.key, features.shape) == (tower.key(square), "k", (1, 64, 32))
    assert (tower.is_open, opener.n_opened) == (True, 1)
    assert tower.open_s > 0
    tower.close()
    tower.close()
    assert not tower.is_open


@pytest.mark.parametrize("on_gpu", [True, False])
def test_where_the_tower_runs_is_known_once_it_was_opened(opener, tower_with, square, on_gpu):
    def open_there():
        encoder = opener()
        encoder.on_gpu = on_gpu
        return encoder

    tower = tower_with(open_there, low_memory=True)
    assert not tower.on_gpu
    opener.go.set()
    wait_for(tower.start(square))
    assert (tower.on_gpu, tower.is_open) == (on_gpu, False)


def test_a_cancelled_wait_ends_and_the_opening_continues(opener, tower_with, square):
    tower, cancel = tower_with(opener), threading.Event()
    timer = threading.Timer(0.05, cancel.set)
    timer.start()
    work = tower.start(square)
    with pytest.raises(Cancelled):
        wait_for(work, cancel)
    timer.join()
    assert work.cancelled()
    assert (opener.n_opened, tower.is_open) == (1, False)
    opener.go.set()
    tower._thread.submit(int).result(20)  # the image is not encoded either
    assert (tower.is_open, tower.n_encoded) == (True, 0)
    assert wait_for(tower.start(square)).n_tokens == 64
    assert (opener.n_opened, tower.n_encoded) == (1, 1)


def test_an_opening_that_failed_is_tried_again(opener, tower_with, square):
    failures = [BackendError("no memory"), BackendError("still none")]

    def open_at_third():
        if failures:
            raise failures.pop(0)
        return opener()

    opener.go.set()
    tower = tower_with(open_at_third)
    for says in ("no memory", "still none"):
        with pytest.raises(BackendError, match=says):
            wait_for(tower.start(square))
    assert wait_for(tower.start(square)).n_tokens == 64


def test_closing_what_was_never_opened(opener, tower_with):
    tower_with(opener).close()
    assert opener.n_opened == 0


def test_opened_for_each_image_where_memory_is_short(opener, tower_with, noise):
    opener.go.set()
    tower, stays = tower_with(opener, low_memory=True), tower_with(opener)
    for n in (1, 2):
        image = Image.open(noise(64, 64, seed=n))
        rows = wait_for(tower.start(image)).data
        assert opener.n_opened == n
    assert not tower.is_open
    assert rows.tobytes() == wait_for(stays.start(image)).data.tobytes()


def test_one_encoding_for_all_who_ask_at_the_same_time(opener, tower_with, square, noise):
    tower = tower_with(opener)
    works = [tower.start(square), tower.start(Image.open(noise(64, 64)))]
    other = tower.start(square, identity="of another salt")
    opener.go.set()
    first, second = (work.result(20) for work in works)
    assert first is second
    assert other.result(20) is not first
    assert tower.n_encoded == 2
    assert tower.start(square).result(0) is first  # the rows are in use: nothing is computed
    del first, second, works
    gc.collect()
    assert wait_for(tower.start(square)).n_tokens == 64
    assert tower.n_encoded == 3


def test_an_encoding_stops_when_everyone_has_left(opener, tower_with, square):
    """The one that stays gets its rows; one that comes after all have left gets rows of another encoding."""
    tower = tower_with(opener)
    first, second, stays = (tower.start(square) for _ in range(3))
    assert first.cancel()
    assert second.cancel()
    gone = tower.start(square, "another")
    assert gone.cancel()
    again = tower.start(square, "another")
    opener.go.set()
    assert stays.result(20).n_tokens == again.result(20).n_tokens == 64
    assert first.cancelled()
    assert not stays.cancel()  # too late to leave
    assert gone.cancelled()
    assert tower.n_encoded == 2


def test_closing_drops_what_waits(opener, tower_with, square):
    tower, entered = tower_with(opener), threading.Event()
    tower._thread.submit(lambda: entered.set() or time.sleep(0.05))
    opener.go.set()
    work = tower.start(square)
    assert entered.wait(20)
    tower.close()
    assert work.cancelled()


def test_keys_tell_images_apart_and_not_their_sources(seeded_f32, noise, tmp_path):
    tower = Tower(Bundle.open(seeded_f32), SMALL)
    pixels, changed = noise(64, 48), noise(64, 48)
    changed[0, 0] ^= 255
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    sources = [pixels, tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), Image.open(pixels)]
    assert len({tower.place(source).key for source in sources}) == 1
    white = np.full((48, 64, 3), 255, np.uint8)  # of another size, with the same squares
    others = [changed, noise(64, 48, seed=1), pixels.transpose(1, 0, 2), white, white[:24, :32]]
    assert len({tower.place(source).key for source in (pixels, *others)}) == 6


def test_a_salt_changes_what_an_image_is_known_by(seeded_f32, noise):
    tower = Tower(Bundle.open(seeded_f32), SMALL)
    plain, salted, other = (tower.place(noise(64, 48), salt=salt) for salt in ("", "a", "b"))
    assert plain.key == salted.key == other.key == plain.identity
    assert len({plain.identity, salted.identity, other.identity}) == 3


def test_an_open_image_is_not_opened_again(seeded_f32, noise):
    tower = Tower(Bundle.open(seeded_f32), SMALL)
    image = Image.open(noise(64, 48))
    assert Image.open(image) is tower.open(image) is tower.place(image).image is image
    assert image.squares(tower.forms.alone) is image.squares(tower.forms.alone)
    assert [square.size for square in image.squares(tower.forms.alone)] == [(tower.forms.alone.image_size,) * 2]


def test_text_before_an_image_is_computed_while_the_tower_opens(model, opener, noise, ids, monkeypatch, forget):
    """The opener waits until the text is in the KV cache: the answer comes only if neither waits for the other."""
    language, n_spared, seen = model.engine.language, [0], []
    decode, spare = language.decode_tokens, language.spare_threads

    def watch(chunks):
        ends = decode(chunks)
        if sum(chunk.n_tokens for chunk in chunks) > 1:  # of a prompt
            seen.append(n_spared[-1])
        opener.go.set()
        return ends

    expected = ids(model.session(GREEDY).ask("What is this?", image=noise(64, 48)))
    forget(model)
    gc.collect()  # no session holds the rows
    monkeypatch.setattr(language, "decode_tokens", watch)
    monkeypatch.setattr(language, "spare_threads", lambda n: (n_spared.append(n), spare(n)))
    model.tower._thread.submit(model.tower._release).result(20)
    model.tower._opener = opener
    chat = model.session(GREEDY)
    assert ids(chat.ask("What is this?", image=noise(64, 48))) == expected
    assert seen == [1, 0]  # spared: one for the opening, none for the question
    assert (chat.timings.cached_tokens, chat.timings.prefill_tokens) == (0, chat.n_positions - len(expected))
    assert chat.timings.prefill_s + chat.timings.vision_s <= chat.timings.ttft_s


def test_a_first_image_is_encoded_while_the_language_model_loads(seeded_f32, home, noise, ids, monkeypatch):
    began = []
    encode, loaded, start_early = ImageEncoder.encode, Decoder.__init__, Tower.start_early
    monkeypatch.setattr(Tower, "start_early", lambda *given: (began.append("early"), start_early(*given)))
    monkeypatch.setattr(ImageEncoder, "encode", lambda *given: (began.append("encode"), encode(*given))[1])
    monkeypatch.setattr(
        Decoder, "__init__", lambda *given, **options: (began.append("language"), loaded(*given, **options))[1]
    )
    with LlavaModel(Bundle.open(seeded_f32), SMALL, first_images=[noise(64, 48)]) as model:
        assert [begun for begun in began if begun != "encode"] == ["early", "language"]
        chat = model.session(GREEDY)
        answer = ids(chat.ask("What is this?", image=noise(64, 48)))
        assert began.count("encode") == 1
        assert chat.timings.vision_s > 0
        ids(model.session(GREEDY).ask("What is this?", image=noise(64, 48, seed=1)))
        assert began.count("encode") == 2
    with LlavaModel(Bundle.open(seeded_f32), SMALL) as model:
        assert ids(model.session(GREEDY).ask("What is this?", image=noise(64, 48))) == answer


def test_a_first_image_that_is_kept_on_disk_is_not_encoded(seeded_f32, home, noise, ids):
    options = dataclasses.replace(SMALL, cache=True)
    for is_known in (False, True):
        with LlavaModel(Bundle.open(seeded_f32), options, first_images=[noise(64, 48)]) as model:
            chat = model.session(GREEDY)
            ids(chat.ask("What is this?", image=noise(64, 48)))
            assert (chat.timings.vision_s == 0) == is_known
            assert model.tower.is_open != is_known


def test_a_first_image_that_cannot_be_read(seeded_f32, home, tmp_path):
    (tmp_path / "not.jpg").write_text("no image")
    with pytest.raises(ImageError, match=r"not\.jpg"):
        LlavaModel(Bundle.open(seeded_f32), SMALL, first_images=[tmp_path / "not.jpg"])


def test_little_memory_gives_the_same_answer(seeded_f32, home, noise, ids):
    answers = []
    for low_memory in (False, True):
        options = dataclasses.replace(SMALL, low_memory=low_memory)
        with LlavaModel(Bundle.open(seeded_f32), options) as model:
            answers.append(ids(model.session(GREEDY).ask("What is this?", image=noise(64, 48))))
            assert model.tower.is_open != low_memory
    assert answers[0] == answers[1]


def test_cancel_while_the_tower_opens_leaves_the_session_usable(model, opener, noise, ids):
    model.tower._opener = opener
    chat = model.session()
    answer = chat.ask("What is this?", image=noise(64, 48))
    timer = threading.Timer(0.05, chat.cancel)
    timer.start()
    (token,) = answer
    timer.join()
    assert (token.id, token.finish_reason) == (None, "cancelled")
    assert (chat.n_positions, chat.images) == (0, [])
    opener.go.set()
    assert ids(chat.ask("What is this?", image=noise(64, 48)))
    assert model.load_s > model.tower.open_s > 0


@pytest.fixture
def busy_model(seeded_f32):
    """A model whose tower's thread does something else until `go` is set."""
    with LlavaModel(Bundle.open(seeded_f32), SMALL) as model:
        model.go = threading.Event()
        model.tower._thread.submit(model.go.wait, 60)
        yield model
        model.go.set()


def ask_on_a_thread(chat, image):
    tokens = []
    thread = threading.Thread(target=lambda: tokens.extend(chat.ask("What?", image=image)), daemon=True)
    thread.start()
    while chat._asked is None or not any(run.encoding for run, _ in image_ends(chat._asked.turns[-1].runs)):
        time.sleep(0.001)
    return thread, tokens


def test_an_image_that_was_left_is_not_encoded(busy_model, noise):
    """Asking again must not bring it back."""
    chat = busy_model.session(GREEDY)
    thread, tokens = ask_on_a_thread(chat, noise(64, 48))
    chat.cancel()
    thread.join(20)
    assert [token.finish_reason for token in tokens] == ["cancelled"]
    assert len(list(chat.ask("And now?"))) == 8
    busy_model.go.set()
    busy_model.tower._thread.submit(int).result(20)  # after all that was queued
    assert not busy_model.tower.is_open


def test_closing_does_not_wait_for_an_image_to_be_encoded(busy_model, noise):
    thread, tokens = ask_on_a_thread(busy_model.session(GREEDY), noise(64, 48))
    faults = []

    def embed():
        try:
            busy_model.embed_image(noise(30, 30))
        except EdgeLlavaError as error:
            faults.append(str(error))

    embedding = threading.Thread(target=embed, daemon=True)
    embedding.start()
    while busy_model.tower._thread.n_waiting < 2:
        time.sleep(0.001)
    closing = threading.Thread(target=busy_model.close, daemon=True)
    closing.start()
    thread.join(20)
    embedding.join(20)
    assert not busy_model.go.is_set()
    assert [token.finish_reason for token in tokens] == ["cancelled"]
    assert faults == ["this model is closed. Load it again."]
    busy_model.go.set()
    closing.join(20)
    assert not closing.is_alive()


def test_ctrl_c_in_the_log_of_llama_cpp_stops_loading(seeded_f32, caplog):
    """Python delivers it wherever the main thread runs Python, and ctypes swallows what a callback raises."""

    class Interrupts(logging.Handler):
        def handle(self, record):
            log.removeHandler(self)
            os.kill(os.getpid(), signal.SIGINT)

    log, bundle = logging.getLogger("edge_llava.llama_cpp"), Bundle.open(seeded_f32)
    caplog.set_level(logging.DEBUG, log.name)
    log.addHandler(Interrupts())
    with pytest.raises(KeyboardInterrupt):
        Decoder(bundle.file("language"), bundle.manifest.language, SMALL.decoder)
    assert not [handler for handler in log.handlers if isinstance(handler, Interrupts)]

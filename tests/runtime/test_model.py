from __future__ import annotations

import dataclasses
import shutil
import threading
import time

import numpy as np
import pytest
from PIL import Image

import edge_llava
from edge_llava.bundle.bundle import Bundle
from edge_llava.errors import BundleError, EdgeLlavaError, ImageError
from edge_llava.runtime.dialogue.messages import Message
from edge_llava.runtime.lifetime.cancel import Cancelled
from edge_llava.runtime.model import LlavaModel
from edge_llava.runtime.options import DecoderOptions, EngineOptions, SamplingOptions
from edge_llava.runtime.vision.image import Image as OpenedImage
from edge_llava.runtime.vision.image_embedding import ImageEmbedding
from edge_llava.runtime.vision.image_encoder import ImageEncoder, tower_digest

pytestmark = pytest.mark.convert
QUESTION = "What is this?"
GREEDY = SamplingOptions(temperature=0, max_new_tokens=8)
ONE_THREAD = EngineOptions(decoder=DecoderOptions(n_threads=1), n_vision_threads=1)


@pytest.fixture
def picture(noise):
    return noise(64, 48)


def changed_vision(path, **changes):
    bundle = Bundle.open(path)
    manifest = dataclasses.replace(bundle.manifest, vision=dataclasses.replace(bundle.manifest.vision, **changes))
    return LlavaModel(dataclasses.replace(bundle, manifest=manifest), ONE_THREAD)


def test_embedding(model, picture):
    embedding = model.embed_image(picture)
    assert embedding.data.shape == (64, 64)
    assert (embedding.grid, embedding.image_size) == ((8, 8), (64, 48))
    assert embedding.vision_sha256 == tower_digest(model.manifest)
    assert embedding.projector_sha256 == model.manifest.files["projector"].sha256
    assert model.embed_image(picture).data.tobytes() == embedding.data.tobytes()
    assert min(embedding.vision_s, embedding.projector_s) > 0


def test_patch_features_are_what_is_projected(model, picture):
    features = model.patch_features(picture)
    assert (features.shape, features.dtype) == ((64, 32), np.float32)
    rows = model.embed_image(picture).data
    assert model.tower._encoder._projector(features).tobytes() == rows.tobytes()


def test_key(model, picture, noise, seeded_f32):
    key = model.embed_image(picture).key
    assert len(bytes.fromhex(key)) == 32
    assert model.embed_image(Image.fromarray(picture)).key == key
    one_level = picture.copy()
    one_level[47, 63, 2] ^= 128
    others = [noise(64, 48, seed=1), one_level, picture.reshape(64, 48, 3), picture[:, ::-1], picture[:47]]
    keys = {key, *(model.embed_image(other).key for other in others)}
    mean = (0.5, 0.5, 0.5)
    for changes in ({"aspect": "crop"}, {"image_mean": mean}, {"image_std": mean}, {"n_blocks": 22}):
        with changed_vision(seeded_f32, **changes) as other:
            keys.add(other.embed_image(picture).key)
    assert len(keys) == 10


def test_key_of_another_quantization(model, open_model, seeded_q4, picture):
    """The projector differs, so must the key."""
    other = open_model(seeded_q4).embed_image(picture)
    assert other.key != model.embed_image(picture).key
    assert other.vision_sha256 == tower_digest(model.manifest)


def test_exif(model, picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.png"
    Image.fromarray(picture).save(path, exif=exif)
    upright, as_stored = model.embed_image(path), model.embed_image(path, apply_exif=False)
    assert (upright.image_size, as_stored.image_size) == ((48, 64), (64, 48))
    assert as_stored.key == model.embed_image(picture).key
    assert upright.key == model.embed_image(np.rot90(picture, -1)).key
    chat = model.session(SamplingOptions(max_new_tokens=1))
    list(chat.ask("What?", image=OpenedImage.open(path)))  # as `edge-llava chat` does: opened before, and turned once
    assert chat.images[0].key == upright.key
    assert np.abs(model.patch_features(path) - model.patch_features(path, apply_exif=False)).max() > 0


def test_saved_embedding(model, picture, ids, tmp_path):
    model.embed_image(picture).save(tmp_path / "a.safetensors")
    loaded = ImageEmbedding.load(tmp_path / "a.safetensors")
    expected = ids(model.session(GREEDY).ask(QUESTION, image=picture))
    assert ids(model.session(GREEDY).ask(QUESTION, image=loaded)) == expected


@pytest.mark.parametrize(("part", "name"), [("vision", "vision tower"), ("projector", "projector")])
def test_embedding_of_another_bundle(part, name, model, picture):
    foreign = dataclasses.replace(model.embed_image(picture), **{f"{part}_sha256": "0123456789abcdef" * 4})
    chat = model.session(GREEDY)
    with pytest.raises(ImageError) as caught:
        chat.ask(QUESTION, image=[picture, foreign])
    own = {"vision": tower_digest(model.manifest), "projector": model.manifest.files["projector"].sha256}[part][:12]
    assert str(caught.value) == (
        f"this image embedding was made by another {name} (0123456789ab...) than that of {model.bundle.name} "
        f"({own}...). Make it again: edge-llava embed IMAGE -o FILE.safetensors"
    )
    assert chat.n_positions == 0


def test_embedding_of_the_wrong_shape(model, picture):
    embedding = model.embed_image(picture)
    for data in (embedding.data[:63].copy(), np.zeros((64, 32), np.float32)):
        with pytest.raises(ImageError) as caught:
            model.session(GREEDY).ask(QUESTION, image=dataclasses.replace(embedding, data=data))
        assert str(caught.value) == (
            f"this image embedding has shape {data.shape}, expected (64, 64). Rows differ where the image and the "
            "question were given different --visual-tokens: use the same for both."
        )


def test_threads_get_the_answers_they_get_alone(model, noise, ids):
    def talk(n):
        chat = model.session(GREEDY)
        first = ids(chat.ask(QUESTION, image=noise(40 + n, 50, seed=n)))
        return first + ids(chat.ask("Why?")) + ids(chat.ask("And this?", image=noise(30, 30, seed=n)))

    alone, together = [talk(n) for n in range(4)], [None] * 4
    assert len({tuple(answer) for answer in alone}) == 4

    def run(n):
        together[n] = talk(n)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert together == alone


def test_closed(model, picture):
    chat = model.session(GREEDY)
    pending = [chat.ask(QUESTION), model.session(GREEDY).ask(QUESTION, image=picture)]
    assert not model.closed
    model.close()
    model.close()
    assert model.closed
    uses = [
        lambda: chat.ask(QUESTION),
        model.session,
        lambda: model.embed_image(picture),
        lambda: model.patch_features(picture),
        *(lambda answer=answer: next(answer) for answer in pending),
    ]
    for use in uses:
        with pytest.raises(EdgeLlavaError, match=r"^this model is closed. Load it again.$"):
            use()


def test_with(seeded_q4, ids):
    with edge_llava.load(seeded_q4, ONE_THREAD) as model:
        assert len(ids(model.session(GREEDY).ask(QUESTION))) == 8
    assert model.closed


def test_closing_under_an_open_answer(model):
    answer = model.session(GREEDY).ask(QUESTION)
    assert next(answer).finish_reason is None
    model.close()
    (token,) = answer
    assert (token.id, token.finish_reason) == (None, "cancelled")


def test_closing_under_an_open_answer_with_a_grammar(model):
    """The sampler outlives the vocabulary that it was made for."""
    answer = model.session(dataclasses.replace(GREEDY, grammar="root ::= [a-z]+", repeat_penalty=1.5)).ask(QUESTION)
    next(answer)
    model.close()
    answer.close()


def test_closing_from_another_thread(model):
    """close() waits until the answer has seen it."""
    answer = model.session(dataclasses.replace(GREEDY, max_new_tokens=500)).ask(QUESTION)
    next(answer)
    thread = threading.Thread(target=model.close)
    thread.start()
    tokens = list(answer)
    thread.join(20)
    assert not thread.is_alive()
    assert tokens[-1].finish_reason == "cancelled"
    assert len(tokens) < 499


def test_those_that_wait_when_the_model_closes(model):
    """On threads of their own, behind an answer that is being computed."""
    may_continue, began, ends = threading.Event(), threading.Event(), []
    long = dataclasses.replace(GREEDY, max_new_tokens=500)

    def hold(token):
        began.set()
        assert may_continue.wait(20)

    running = model.submit([Message("user", QUESTION)], long, hold)
    assert began.wait(20)
    waiting = [
        threading.Thread(target=lambda: ends.append([*model.session(long).ask(QUESTION)][-1].finish_reason))
        for _ in range(2)
    ]
    for thread in waiting:
        thread.start()
    while model.metrics.queued < 2:
        time.sleep(0.002)
    closing = threading.Thread(target=model.close)
    closing.start()
    while not model.closed:
        time.sleep(0.002)
    may_continue.set()
    for thread in (*waiting, closing):
        thread.join(20)
        assert not thread.is_alive()
    assert ends == ["cancelled"] * 2
    assert running.finish_reason == "cancelled"


@pytest.mark.parametrize("stage", ["encode", "decode"])
def test_closing_while_another_thread_reads(model, picture, stage, monkeypatch):
    """close() returns when the reader has its last token; what was begun of the image is left."""
    began, tokens = threading.Event(), []
    if stage == "encode":

        def hold(encoder, image, key, cancel=None, *rest):
            began.set()
            while not cancel.is_set():
                time.sleep(0.002)
            raise Cancelled

        monkeypatch.setattr(ImageEncoder, "encode", hold)

    def read():
        for token in model.session(dataclasses.replace(GREEDY, max_new_tokens=800)).ask(QUESTION, image=picture):
            tokens.append(token)
            began.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert began.wait(20)
    model.close()
    thread.join(20)
    assert not thread.is_alive()
    assert tokens[-1].finish_reason == "cancelled"
    assert (len(tokens) == 1) == (stage == "encode")


@pytest.mark.parametrize("parallel", [1, 3])
def test_load_says_how_many_are_answered_at_the_same_time(seeded_f32, noise, ids, parallel):
    """Threads ask a model that was loaded so, and get the answers they get alone."""
    with edge_llava.load(seeded_f32, ONE_THREAD, parallel=parallel) as model:
        assert model.metrics.n_parallel == model.options.parallel == parallel
        asked = [(f"What is this, {n}?", noise(40 + n, 50, seed=n % 2)) for n in range(6)]
        alone = [ids(model.session(GREEDY).ask(question, image=image)) for question, image in asked]
        n_running, together = [], {}

        def run(n):
            for token in model.session(GREEDY).ask(asked[n][0], image=asked[n][1]):
                n_running.append(model.metrics.running)
                together.setdefault(n, []).append(token.id)

        threads = [threading.Thread(target=run, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [together[n] for n in range(6)] == alone
        assert max(n_running) <= parallel


def test_closing_while_images_are_encoded(open_model, seeded_f32, picture):
    """The weights must not go while ggml reads them."""
    for _ in range(5):
        model, results, begun = open_model(seeded_f32), [], threading.Barrier(3)

        def encode(model=model, results=results, begun=begun):
            expected = model.embed_image(picture).data
            begun.wait(20)
            try:
                while True:
                    results.append(np.array_equal(model.embed_image(picture).data, expected))
            except EdgeLlavaError as error:
                results.append(str(error))

        threads = [threading.Thread(target=encode) for _ in range(2)]
        for thread in threads:
            thread.start()
        begun.wait(20)
        model.close()
        for thread in threads:
            thread.join(20)
        assert results.count("this model is closed. Load it again.") == 2
        assert set(results) <= {True, "this model is closed. Load it again."}


def test_changed_file(seeded_f32, tmp_path):
    path = tmp_path / "bundle"
    shutil.copytree(seeded_f32, path)
    data = bytearray((path / "projector.gguf").read_bytes())
    data[-1] ^= 1
    (path / "projector.gguf").write_bytes(data)
    with pytest.raises(BundleError, match=r"projector.gguf: its sha256 is"):
        edge_llava.load(path, ONE_THREAD)

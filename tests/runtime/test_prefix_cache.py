"""Reuse across conversations and processes: what may be taken for what, and that it gives the same tokens."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import shutil
import subprocess
import sys
import threading

import llama_cpp
import numpy as np
import pytest

import edge_llava
from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.template_spec import describe_template
from edge_llava.bundle.templates import TEMPLATES, with_image_marks
from edge_llava.ggml.devices import GgmlDevice, list_devices, offload_devices
from edge_llava.home.directories import cache_directory
from edge_llava.parity.one_sequence import OneSequence
from edge_llava.runtime.dialogue.messages import Message
from edge_llava.runtime.kv import disk_cache
from edge_llava.runtime.kv.disk_cache import PrefixStore
from edge_llava.runtime.language.decoder import Decoder
from edge_llava.runtime.model import LlavaModel
from edge_llava.runtime.options import DecoderOptions, EngineOptions, SamplingOptions
from edge_llava.runtime.vision.image_embedding import ImageEmbedding
from edge_llava.runtime.vision.image_encoder import ImageEncoder

QUESTION, OTHER = "What is this?", "How many are there?"
GREEDY = SamplingOptions(temperature=0, max_new_tokens=8)


@pytest.fixture
def picture(noise):
    return noise(64, 48)


@pytest.fixture
def open_caching(home):
    """open_caching(directory or Bundle, parallel=1, **DecoderOptions fields) -> LlavaModel that uses a disk."""
    opened = []

    def run(bundle, parallel=1, **options):
        bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        decoder = DecoderOptions(**({"n_threads": 1} | options))
        how = EngineOptions(decoder=decoder, n_vision_threads=1, cache=True, parallel=parallel)
        opened.append(LlavaModel(bundle, how))
        return opened[-1]

    yield run
    for model in opened:
        model.close()


def ask(model, question, image, options=GREEDY):
    """(ids, timings) of the first answer of a new conversation."""
    chat = model.session(options)
    return [token.id for token in chat.ask(question, image=image)], chat.timings


def entries():
    return [file.path for file in PrefixStore(cache_directory()).files()]


def changed(path, **changes):
    """A bundle whose manifest says something else; its files are not read again."""
    bundle = Bundle.open(path)
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, **changes))


def opened_tower(model):
    return model.tower.is_open


def n_until_picture_ends(model):
    return len(model.engine.language.tokenize(model._planner.template.opening[0], add_bos=True)) + 64


# In memory


def test_many_questions_share_one_picture(model, picture, ids, monkeypatch):
    """Each prefills its question only, and the tower runs once."""
    encode, n_encoded = ImageEncoder.encode, itertools.count()
    monkeypatch.setattr(ImageEncoder, "encode", lambda *arguments: (next(n_encoded), encode(*arguments))[1])
    n_shared = n_until_picture_ends(model)
    first, _ = ask(model, QUESTION, picture)
    for question in (OTHER, "Why?", QUESTION):
        _, timings = ask(model, question, picture)
        n_question = len(model.engine.language.tokenize(f"\n{question} ASSISTANT:", add_bos=False))
        assert timings.cached_tokens >= n_shared
        assert timings.cached_tokens + timings.prefill_tokens == n_shared + n_question
        assert (timings.vision_s, timings.projector_s) == (0, 0)
    assert next(n_encoded) == 1
    assert ask(model, QUESTION, picture)[0] == first


def test_an_image_is_encoded_when_its_place_was_taken(model, noise, ids, forget):
    """A conversation that has not needed the rows itself, since another had computed what it is about."""
    images = [noise(64, 48, seed=seed) for seed in range(2)]
    ask(model, QUESTION, images[1])
    chat = model.session(GREEDY)
    ids(chat.ask(QUESTION, image=images[1]))
    assert chat.images[0].embedding is None
    ask(model, QUESTION, images[0])
    forget(model)
    answer = ids(chat.ask(OTHER))
    assert chat.images[0].embedding is not None
    assert chat.images[0].image is None
    assert chat.timings.vision_s > 0
    forget(model)
    again = model.session(GREEDY)
    ids(again.ask(QUESTION, image=images[1]))
    assert ids(again.ask(OTHER)) == answer


def test_rows_that_only_claim_a_key_are_known_by_themselves(model, picture, tmp_path, forget, positions):
    """A file can name any picture; neither may its rows answer for the picture, nor the picture's for the file."""
    embedding = model.embed_image(picture)
    forged = dataclasses.replace(embedding, data=embedding.data[::-1].copy())
    forged.save(tmp_path / "forged.safetensors")
    loaded = ImageEmbedding.load(tmp_path / "forged.safetensors")
    assert loaded.key == forged.key == embedding.key == embedding.identity
    assert loaded.identity == forged.identity != embedding.identity
    answers = []
    for image in (loaded, picture, loaded, embedding):
        answers.append(ask(model, QUESTION, image)[0])
        assert len(positions(model)) > 64
    forget(model)
    assert answers[1] == answers[3] == ask(model, QUESTION, picture)[0]
    assert answers[0] == answers[2]
    _, timings = ask(model, QUESTION, loaded)
    assert timings.cached_tokens == n_until_picture_ends(model) - 64
    embedding.save(tmp_path / "own.safetensors")
    own = ImageEmbedding.load(tmp_path / "own.safetensors")
    assert own.identity == dataclasses.replace(own).identity
    assert ask(model, QUESTION, own)[0] == answers[1]


def test_same_tokens_before_another_image_or_shifted_rows(model):
    """Positions are equal one by one, or they are not reused."""
    decoder, n_embd = model.engine.language, model.manifest.language.n_embd
    one = OneSequence(decoder)
    one.prefill_tokens([1, 300])
    one.prefill_rows(np.random.default_rng(0).normal(size=(8, n_embd)).astype(np.float32))
    held, count = one._sequence.positions, decoder.sequences.count_known
    identity = held[-1][0]
    assert held == [1, 300, *((identity, row) for row in range(8))]
    assert count([*held, 5]) == 10
    assert count(held) == 9  # the last one must give logits
    assert count([1, 300, *((identity, row) for row in range(1, 9)), 5]) == 2
    assert count([1, 300, *(("another", row) for row in range(8)), 5]) == 2
    assert count([1, 301, *held[2:], 5]) == 1
    assert count([1, *held[2:], 5]) == 1
    assert count([1, 300, 300, *held[2:], 5]) == 2
    assert not decoder.sequences.copy_prefix(one._sequence, [*held[:-1], ("another", 7)])
    assert one.n_past == 10


# On disk


@pytest.mark.parametrize("bundle", ["seeded_f32", "seeded_q4"])
@pytest.mark.parametrize("settings", [{"kv_type": "f16"}, {"kv_type": "f32"}, {"flash_attention": True}, {}])
def test_a_restored_beginning_gives_the_tokens_of_a_computed_one(
    bundle, settings, request, open_caching, picture, forget
):
    path = request.getfixturevalue(bundle)
    first = open_caching(path, **settings)
    computed, timings = ask(first, QUESTION, picture)
    assert (timings.cached_tokens, len(entries())) == (0, 1)
    language = first.engine.language
    memory = llama_cpp.llama_get_memory(language.context)
    assert llama_cpp.llama_memory_seq_pos_max(memory, language.sequences._scratch) == -1  # its mark of the copy is gone
    first_logits = first.engine.language.logits()
    second = open_caching(path, **settings)
    restored, timings = ask(second, QUESTION, picture)
    assert restored == computed
    assert second.engine.language.logits().tobytes() == first_logits.tobytes()
    assert timings.cached_tokens == n_until_picture_ends(second)
    assert (timings.vision_s, timings.projector_s) == (0, 0)
    assert not opened_tower(second)
    assert len(entries()) == 1
    forget(first)
    fresh = open_caching(path, **settings)
    assert ask(fresh, OTHER, picture)[0] == ask(second, OTHER, picture)[0]


def test_a_conversation_goes_on_from_a_restored_beginning(open_caching, seeded_f32, noise, ids):
    pictures = [noise(64, 48, seed=seed) for seed in range(2)]

    def talk(model):
        chat = model.session(GREEDY)
        turns = [(QUESTION, pictures[0]), (OTHER, None), ("And this?", pictures[1]), ("Why?", None)]
        return [ids(chat.ask(question, image=image)) for question, image in turns]

    first, second = open_caching(seeded_f32), open_caching(seeded_f32)
    assert talk(first) == talk(second)
    assert len(entries()) == 1  # the second picture was not of the first question
    assert opened_tower(second)


def test_switching_between_pictures_comes_from_disk(open_caching, seeded_f32, noise):
    model, pictures = open_caching(seeded_f32), [noise(64, 48, seed=seed) for seed in range(3)]
    first = [ask(model, QUESTION, picture)[0] for picture in pictures]
    for picture, answer in zip(pictures, first, strict=True):
        again, timings = ask(model, QUESTION, picture)
        assert again == answer
        assert timings.cached_tokens == n_until_picture_ends(model)
        assert timings.vision_s == 0
    assert len(entries()) == 3


def test_several_pictures_share_the_first(open_caching, seeded_f32, noise, forget):
    model, pictures = open_caching(seeded_f32), [noise(64, 48, seed=seed) for seed in range(2)]
    both, _ = ask(model, QUESTION, pictures)
    ask(model, QUESTION, pictures[0])
    fresh = open_caching(seeded_f32)
    again, timings = ask(fresh, QUESTION, pictures)
    assert (again, opened_tower(fresh)) == (both, False)
    n_mark = len(fresh.engine.language.tokenize("\n", add_bos=False))
    assert timings.cached_tokens == n_until_picture_ends(fresh) + n_mark + 64
    swapped, timings = ask(fresh, QUESTION, pictures[::-1])
    assert swapped != both
    assert timings.cached_tokens == n_until_picture_ends(fresh) - 64
    other = [pictures[0], noise(64, 48, seed=2)]
    forget(fresh)
    _, timings = ask(fresh, QUESTION, other)
    assert timings.cached_tokens == n_until_picture_ends(fresh)


def test_without_a_picture_nothing_is_kept(open_caching, seeded_f32):
    ask(open_caching(seeded_f32), QUESTION, None)
    assert entries() == []


def test_the_library_keeps_nothing_unless_asked(model, picture):
    ask(model, QUESTION, picture)
    assert not cache_directory().exists()


@pytest.fixture
def kept(open_caching, seeded_f32, picture):
    """The store after one question about `picture`."""
    ask(open_caching(seeded_f32), QUESTION, picture)
    (path,) = entries()
    return path


@pytest.fixture
def n_restored(forget):
    """n_restored(model, image) -> positions that come from disk for a first question about an image."""

    def run(model, image):
        forget(model)
        return ask(model, QUESTION, image)[1].cached_tokens

    return run


def test_another_picture_is_not_restored(kept, open_caching, seeded_f32, picture, n_restored):
    one_level = picture.copy()
    one_level[20, 20, 1] ^= 1
    others = [one_level, picture[:, ::-1], picture[:47], picture.reshape(64, 48, 3), picture[:, :, ::-1]]
    model = open_caching(seeded_f32)
    assert [n_restored(model, np.ascontiguousarray(other)) for other in others] == [0] * 5
    assert n_restored(model, picture) == n_until_picture_ends(model)


@pytest.mark.parametrize("role", ["vision", "vision_data", "projector", "language"])
def test_another_part_is_not_restored(kept, open_caching, seeded_f32, picture, role, monkeypatch, n_restored):
    """The same bytes under another digest stand for weights that differ."""
    monkeypatch.setattr(Bundle, "verify_digests", lambda self, **options: None)
    files = Bundle.open(seeded_f32).manifest.files
    other = dataclasses.replace(files[role], sha256="0123456789abcdef" * 4)
    assert n_restored(open_caching(changed(seeded_f32, files={**files, role: other})), picture) == 0


def test_another_preparation_is_not_restored(kept, open_caching, seeded_f32, picture, n_restored):
    vision = Bundle.open(seeded_f32).manifest.vision
    for difference in ({"aspect": "crop"}, {"image_mean": (0.5, 0.5, 0.5)}, {"n_blocks": 22}):
        model = open_caching(changed(seeded_f32, vision=dataclasses.replace(vision, **difference)))
        assert n_restored(model, picture) == 0


def test_another_template_is_not_restored(kept, open_caching, seeded_f32, picture, n_restored):
    language = Bundle.open(seeded_f32).manifest.language
    marked = with_image_marks(TEMPLATES["llava_v1"])
    for template in (TEMPLATES["vicuna_v1"], TEMPLATES["llava_llama_2"], marked):
        spec = describe_template(template, {})
        model = open_caching(changed(seeded_f32, language=dataclasses.replace(language, template=spec)))
        assert n_restored(model, picture) == 0
        assert n_restored(model, picture) > 0  # its own was kept


def test_as_many_other_tokens_are_not_restored(kept, open_caching, seeded_f32, picture, n_restored):
    model = open_caching(seeded_f32)
    n_positions, template = n_until_picture_ends(model), model._planner.template
    model._planner.template = dataclasses.replace(
        template, opening=(template.opening[0].replace("helpful, detailed", "detailed, helpful"),)
    )
    assert n_until_picture_ends(model) == n_positions
    assert n_restored(model, picture) == 0
    model._planner.template = template
    assert n_restored(model, picture) == n_positions


@pytest.mark.parametrize(
    "settings", [{"kv_type": "f16"}, {"flash_attention": True}, {"n_batch": 32}, {"repack": False}]
)
def test_other_settings_are_not_restored(kept, open_caching, seeded_f32, picture, settings, n_restored):
    assert n_restored(open_caching(seeded_f32, **settings), picture) == 0


@pytest.mark.parametrize("settings", [{"n_gpu_layers": 0}, {"devices": ()}])
def test_whatever_computes_on_the_cpu_is_restored(kept, open_caching, seeded_f32, picture, settings, n_restored):
    if offload_devices(list_devices()):
        pytest.skip("llama.cpp sees a GPU here")
    assert n_restored(open_caching(seeded_f32, **settings), picture) > 0


@pytest.mark.parametrize("name", ["Vulkan0", "Vulkan1"])
def test_what_another_device_computed_is_not_restored(
    kept, open_caching, seeded_f32, picture, name, monkeypatch, n_restored
):
    """The decoder says that its blocks were on a GPU; what it computes on the CPU does not matter here."""

    class Elsewhere(Decoder):
        @property
        def devices(self):
            return (GgmlDevice(name, "A GPU", "Vulkan", "gpu", 0, 0),)

        @devices.setter
        def devices(self, value):
            pass

    monkeypatch.setattr("edge_llava.runtime.engine.engine.Decoder", Elsewhere)
    assert n_restored(open_caching(seeded_f32), picture) == 0
    assert n_restored(open_caching(seeded_f32), picture) > 0  # its own was kept


def test_another_build_is_not_restored(kept, open_caching, seeded_f32, picture, monkeypatch, n_restored):
    monkeypatch.setattr("edge_llava.runtime.engine.disk_prefixes.library_digest", lambda: "0" * 64)
    assert n_restored(open_caching(seeded_f32), picture) == 0


def test_the_context_length_does_not_matter(kept, open_caching, seeded_f32, picture, n_restored):
    model = open_caching(seeded_f32, n_ctx=256, n_threads=2)
    assert n_restored(model, picture) == n_until_picture_ends(model)


def test_an_embedding_file_with_a_stolen_key_is_not_kept_as_the_picture(
    open_caching, seeded_f32, picture, tmp_path, n_restored
):
    model = open_caching(seeded_f32)
    embedding = model.embed_image(picture)
    dataclasses.replace(embedding, data=embedding.data[::-1].copy()).save(tmp_path / "forged.safetensors")
    ask(model, QUESTION, ImageEmbedding.load(tmp_path / "forged.safetensors"))
    fresh = open_caching(seeded_f32)
    assert n_restored(fresh, picture) == 0
    assert n_restored(fresh, ImageEmbedding.load(tmp_path / "forged.safetensors")) == n_until_picture_ends(fresh)


def test_damaged_entries_are_ignored_and_made_anew(kept, open_caching, seeded_f32, picture, caplog, forget):
    whole, model = kept.read_bytes(), open_caching(seeded_f32)
    expected, _ = ask(model, QUESTION, picture)

    def flipped(at):
        return whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]

    faults = [
        (b"", "truncated"),
        (whole[:50], "truncated"),
        (whole[:-1], "size is wrong"),
        (whole + b"\0", "size is wrong"),
        (flipped(0), "not an entry of this version"),
        (flipped(16), "not an entry of this version"),
        (flipped(24), "another entry's file"),
        (flipped(56), "size is wrong"),
        (flipped(64), "sha256 is wrong"),
        (flipped(len(whole) // 2), "sha256 is wrong"),
        (flipped(len(whole) - 1), "sha256 is wrong"),
        (b"GGUF" + bytes(200), "not an entry of this version"),
    ]
    for data, says in faults:
        kept.write_bytes(data)
        forget(model)
        with caplog.at_level(logging.WARNING, "edge_llava.cache"):
            answer, timings = ask(model, QUESTION, picture)
        assert (answer, timings.cached_tokens) == (expected, 0)
        assert says in caplog.text
        assert str(kept) in caplog.text
        caplog.clear()
        assert kept.read_bytes() == whole


def test_a_state_that_llama_cpp_refuses_is_computed_again(kept, open_caching, seeded_f32, picture, caplog, forget):
    """Its digest is right, its contents are not a state."""
    store, key, never = PrefixStore(kept.parent), kept.stem, threading.Event()
    state, model = store.load(key, never), open_caching(seeded_f32)
    expected, _ = ask(model, QUESTION, picture)
    for wrong in (state[:-4], bytearray(len(state)), state + b"\0", bytearray(b"\xff" * 64), state[: len(state) // 2]):
        store.save(key, wrong, never)
        forget(model)
        answer, timings = ask(model, QUESTION, picture)
        assert (answer, timings.cached_tokens) == (expected, 0)
        assert "llama.cpp refused" in caplog.text
        caplog.clear()
        assert store.load(key, never) == state


def test_an_entry_of_another_name_is_foreign(kept, open_caching, seeded_f32, noise, picture, caplog, n_restored):
    """A file that was renamed to another picture's key."""
    model, other = open_caching(seeded_f32), noise(64, 48, seed=1)
    ask(model, QUESTION, other)
    (name,) = {path.name for path in entries()} - {kept.name}
    shutil.copy(kept, kept.with_name(name))
    assert n_restored(model, other) == 0
    assert "another entry's file" in caplog.text


def test_an_entry_that_cannot_be_read_is_computed(kept, open_caching, seeded_f32, picture, forget, caplog, monkeypatch):
    """It stays on disk: what is wrong may be another program's doing, or pass."""
    model = open_caching(seeded_f32)
    expected, _ = ask(model, QUESTION, picture)
    forget(model)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(disk_cache, "open_regular", refuse)
    answer, timings = ask(model, QUESTION, picture)
    assert (answer, timings.cached_tokens) == (expected, 0)
    assert caplog.text.count("cannot be read: Permission denied") == 1
    assert entries() == [kept]


def test_a_damaged_entry_falls_back_to_a_shorter_one(kept, open_caching, seeded_f32, picture, noise, forget, caplog):
    """Of two images, the first alone."""
    model, images = open_caching(seeded_f32), [picture, noise(64, 48, seed=1)]
    expected, _ = ask(model, QUESTION, images)
    (longer,) = set(entries()) - {kept}
    longer.write_bytes(longer.read_bytes()[:-1])
    forget(model)
    answer, timings = ask(model, QUESTION, images)
    assert (answer, timings.cached_tokens) == (expected, n_until_picture_ends(model))
    assert "size is wrong" in caplog.text


@pytest.mark.parametrize("parallel", [1, 2])
def test_what_a_session_kept_serves_other_conversations(kept, open_caching, seeded_f32, picture, parallel):
    """Of another process, as this model stands for, that answers several at a time."""
    model, tokens = open_caching(seeded_f32, parallel), []
    answer = model.submit([Message("user", QUESTION, (picture,))], GREEDY, tokens.append)
    assert answer.wait(20)
    assert answer.n_cached_tokens == n_until_picture_ends(model)
    assert (answer.timings().vision_s, opened_tower(model)) == (0, False)
    assert [token.id for token in tokens] == ask(open_caching(seeded_f32), QUESTION, picture)[0]


def test_what_other_conversations_kept_serves_a_session(open_caching, seeded_f32, picture, noise):
    """The first question's images are kept, as a session keeps them."""
    several, other = open_caching(seeded_f32, 2), noise(64, 48, seed=1)
    said = [
        Message("user", QUESTION, (picture,)),
        Message("assistant", "A circle."),
        Message("user", OTHER, (other,)),
    ]
    answers = [several.submit(said, GREEDY, lambda _: None), several.submit(said[:1], GREEDY, lambda _: None)]
    assert all(answer.wait(20) for answer in answers)
    assert len(entries()) == 1
    model = open_caching(seeded_f32)
    _, timings = ask(model, QUESTION, picture)
    assert timings.cached_tokens == n_until_picture_ends(model)
    assert not opened_tower(model)


def test_cancel_while_restoring_leaves_the_session_usable(
    kept, open_caching, seeded_f32, picture, monkeypatch, forget, positions
):
    model = open_caching(seeded_f32)
    expected, _ = ask(model, OTHER, picture)
    monkeypatch.setattr(disk_cache, "_CHUNK_BYTES", 4096)
    n_looks = 10
    for n in range(1, n_looks):
        forget(model)
        chat, n_left = model.session(GREEDY), [n]

        def chunks(state, cancel, chunks=disk_cache._chunks, chat=chat, n_left=n_left):
            for chunk in chunks(state, cancel):
                n_left[0] -= 1
                if n_left[0] == 0:
                    chat.cancel()
                yield chunk

        with monkeypatch.context() as patch:
            patch.setattr(disk_cache, "_chunks", chunks)
            (token,) = chat.ask(QUESTION, image=picture)
        assert n_left[0] <= 0
        assert (token.id, token.finish_reason) == (None, "cancelled")
        assert (chat.n_positions, chat.images, positions(model)) == (0, [], [])
        assert [token.id for token in chat.ask(OTHER, image=picture)] == expected
        assert chat.timings.cached_tokens == n_until_picture_ends(model)


def test_a_stopped_answer_is_kept_with_the_next_one(open_caching, seeded_f32, picture, ids, n_restored):
    model = open_caching(seeded_f32)
    chat = model.session(dataclasses.replace(GREEDY, max_new_tokens=500))
    answer = chat.ask(QUESTION, image=picture)
    next(answer)
    chat.cancel()
    assert ids(answer)[-1] is None
    assert entries() == []
    chat.options = GREEDY
    ids(chat.ask(OTHER))
    assert len(entries()) == 1
    assert n_restored(open_caching(seeded_f32), picture) == n_until_picture_ends(model)


@pytest.fixture
def slow_disk(monkeypatch):
    """A disk that takes one part of an entry, and the next once `slow_disk.go` is set, or the model is closed."""

    class Disk:
        go, entered = threading.Event(), threading.Event()

    def hold(state, cancel, chunks=disk_cache._chunks):
        Disk.entered.set()
        while not Disk.go.wait(0.005) and not cancel.is_set():
            pass
        yield from chunks(state, cancel)

    monkeypatch.setattr(disk_cache, "_chunks", hold)
    return Disk


def test_closing_while_a_beginning_is_kept_leaves_nothing(open_caching, seeded_f32, picture, slow_disk):
    """The last token comes before it is written, and the answer is not over before it was, or was dropped."""
    model = open_caching(seeded_f32)
    tokens = []
    for token in model.session(GREEDY).ask(QUESTION, image=picture):
        tokens.append(token)
        if token.finish_reason:
            assert slow_disk.entered.wait(20)
            model.close()
    assert model.closed
    assert [token.finish_reason for token in tokens] == [None] * 7 + ["length"]
    assert not list(cache_directory().iterdir())


def test_cancel_while_keeping_does_not_change_the_answer(open_caching, seeded_f32, picture, ids, slow_disk):
    model = open_caching(seeded_f32)
    chat = model.session(GREEDY)
    tokens = []
    for token in chat.ask(QUESTION, image=picture):
        tokens.append(token)
        if token.finish_reason:
            assert slow_disk.entered.wait(20)
            chat.cancel()
            slow_disk.go.set()
    assert len(tokens) == 8
    assert tokens[-1].finish_reason == "length"
    assert len(entries()) == 1
    assert len(ids(chat.ask(OTHER))) == 8
    assert len(entries()) == 1


def test_a_damaged_tower_is_reported_where_it_is_needed(
    kept, open_caching, seeded_f32, picture, noise, tmp_path, n_restored
):
    """Digests are compared when the bundle is opened; what ONNX Runtime refuses, when a picture is encoded."""
    path = tmp_path / "bundle"
    shutil.copytree(seeded_f32, path)
    bundle = Bundle.open(path)
    (path / "vision.onnx").write_bytes(b"\0" * bundle.manifest.files["vision"].bytes)
    with pytest.raises(edge_llava.BundleError, match=r"vision.onnx: its sha256 is"):
        open_caching(path)
    bundle.remember_digests()  # as if it had been checked before
    model = open_caching(path)
    with pytest.raises(edge_llava.BundleError, match=r"vision\.onnx"):
        ask(model, QUESTION, noise(64, 48, seed=1))
    assert n_restored(model, picture) == n_until_picture_ends(model)


def test_a_new_process_needs_no_onnx_runtime(kept, seeded_f32, picture, tmp_path):
    np.save(tmp_path / "picture.npy", picture)
    script = (
        "import json, sys, numpy, edge_llava\n"
        "options = edge_llava.EngineOptions(edge_llava.DecoderOptions(n_threads=1), cache=True)\n"
        "with edge_llava.load(sys.argv[1], options) as model:\n"
        "    chat = model.session(edge_llava.SamplingOptions(temperature=0, max_new_tokens=2))\n"
        "    list(chat.ask('Why?', image=numpy.load(sys.argv[2])))\n"
        "print(json.dumps([chat.timings.cached_tokens, 'onnxruntime' in sys.modules]))\n"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(seeded_f32), str(tmp_path / "picture.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    n_cached, has_onnx_runtime = json.loads(done.stdout)
    assert n_cached > 64
    assert not has_onnx_runtime

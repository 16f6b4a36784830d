"""What someone who waits for an answer can be shown."""

from __future__ import annotations

from edge_llava.runtime.answer import AnswerProgress
from edge_llava.runtime.options import SamplingOptions

GREEDY = SamplingOptions(temperature=0, max_new_tokens=4)


def watch(model, monkeypatch, chat, names=("decode_tokens", "decode_rows")):
    """What the answer's progress is before each batch that is computed, in order."""
    seen = []

    def spied(decode):
        def run(chunks):
            seen.append(chat.progress)
            return decode(chunks)

        return run

    for name in names:
        monkeypatch.setattr(model.engine.language, name, spied(getattr(model.engine.language, name)))
    return seen


def test_reading_and_writing(open_model, seeded_f32, ids, monkeypatch):
    model = open_model(seeded_f32, n_batch=32)
    chat = model.session(GREEDY)
    seen = watch(model, monkeypatch, chat)
    assert chat.progress is None
    n_tokens = len(ids(chat.ask("word " * 150)))
    n_prompt = chat.timings.prefill_tokens
    reading = [each for each in seen if each.stage == "reading"]
    assert [each.n_read for each in reading] == list(range(0, n_prompt, 32))
    assert [each.n_computed for each in reading] == [each.n_read for each in reading]
    assert {(each.n_prompt, each.n_images, each.n_tokens) for each in reading} == {(n_prompt, 0, 0)}
    assert [each.position_s for each in reading[:2]] == [None, None]
    assert all(each.position_s == each.computed_s / each.n_computed > 0 for each in reading[2:])
    writing = seen[len(reading) :]
    assert [(each.stage, each.n_tokens) for each in writing] == [("writing", n) for n in range(1, n_tokens)]
    assert {each.n_read for each in writing} == {n_prompt}
    assert chat.progress is None, "the answer is over"


def test_what_was_read_before_counts_as_read(open_model, seeded_f32, ids, monkeypatch):
    model = open_model(seeded_f32, n_batch=32)
    chat = model.session(GREEDY)
    ids(chat.ask("word " * 50))
    seen = watch(model, monkeypatch, chat)
    ids(chat.ask("word " * 50))
    first = seen[0]
    assert (first.stage, first.n_read, first.n_computed) == ("reading", chat.timings.cached_tokens, 0)
    assert first.n_prompt == chat.timings.cached_tokens + chat.timings.prefill_tokens


def test_images_are_encoded_before_they_are_read(open_model, seeded_f32, ids, noise, monkeypatch):
    model = open_model(seeded_f32)
    chat = model.session(GREEDY)
    encoded, rows = [], watch(model, monkeypatch, chat, ("decode_rows",))
    open_tower = model.tower._opener

    def spied():
        encoder = open_tower()
        encode = encoder.encode
        encoder.encode = lambda *of: (encoded.append(chat.progress), encode(*of))[1]
        return encoder

    monkeypatch.setattr(model.tower, "_opener", spied)
    ids(chat.ask("What differs?", image=[noise(64, 48), noise(64, 48, seed=1)]))
    assert encoded[0].stage == "encoding"
    assert encoded[0].n_images == 2
    assert (rows[-1].stage, rows[-1].n_images) == ("reading", 0)


def test_few_positions_tell_no_pace():
    few, enough = (AnswerProgress("reading", 0, n, 100, 0, n, 1.0) for n in (63, 80))
    assert (few.position_s, enough.position_s) == (None, 0.0125)

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from edge_llava.errors import BackendError, ContextOverflow, EdgeLlavaError, ImageError
from edge_llava.runtime.dialogue.messages import Message
from edge_llava.runtime.engine import answer as engine_answer
from edge_llava.runtime.options import SamplingOptions
from edge_llava.runtime.vision.projector import Projector

pytestmark = pytest.mark.convert
QUESTION = "What is this?"
GREEDY = SamplingOptions(temperature=0, max_new_tokens=8)


def greedy(n):
    return dataclasses.replace(GREEDY, max_new_tokens=n)


def text(tokens):
    return "".join(token.text for token in tokens)


@pytest.fixture
def pictures(noise):
    return [noise(64, 48, seed=seed) for seed in range(3)]


@pytest.fixture
def replay(forget, ids):
    """replay(model, turns) -> the last answer's ids when every turn is prefilled from nothing."""

    def run(model, turns):
        chat = model.session(GREEDY)
        for question, image in turns:
            forget(model)
            answer = ids(chat.ask(question, image=image))
            assert chat.timings.cached_tokens == 0
        return answer

    return run


def test_second_turn_prefills_only_what_is_new(model, ids, pictures, positions):
    chat = model.session(GREEDY)
    assert len(ids(chat.ask(QUESTION, image=pictures[0]))) == 8
    n_prompt = 1 + len(model.engine.language.tokenize("".join(model._planner.template.opening), add_bos=False)) + 64
    n_prompt += len(model.engine.language.tokenize(f"\n{QUESTION} ASSISTANT:", add_bos=False))
    assert (chat.timings.cached_tokens, chat.timings.prefill_tokens) == (0, n_prompt)
    assert chat.n_positions == n_prompt + 8
    in_cache = len(positions(model))
    assert in_cache == n_prompt + 7  # the last token was not needed yet
    ids(chat.ask("And now?"))
    n_new = len(model.engine.language.tokenize("</s>USER: And now? ASSISTANT:", add_bos=False))
    assert chat.timings.cached_tokens == in_cache
    assert chat.timings.prefill_tokens == 1 + n_new
    assert chat.n_positions == n_prompt + 8 + n_new + 8


def test_timings(model, ids, pictures):
    chat = model.session(GREEDY)
    assert chat.timings is None
    ids(chat.ask(QUESTION, image=pictures[0]))
    timings = chat.timings
    assert timings.load_s == model.load_s
    assert timings.decode_tokens == 8
    # not their sum: text before the image is computed while the tower works
    assert max(timings.vision_s + timings.projector_s, timings.prefill_s) <= timings.ttft_s
    assert min(timings.vision_s, timings.projector_s, timings.prefill_s, timings.decode_s) > 0
    assert timings.peak_rss_bytes > 1 << 20
    embedding = model.embed_image(pictures[0])
    ids(chat.ask(QUESTION, image=embedding))
    assert (chat.timings.vision_s, chat.timings.projector_s) == (0, 0)


def test_reuse_gives_the_same_answers(model, ids, pictures, replay):
    turns = [(QUESTION, pictures[0]), ("And more?", None), ("Why?", pictures[1]), ("How many?", None)]
    chat = model.session(GREEDY)
    for n, (question, image) in enumerate(turns):
        answer = ids(chat.ask(question, image=image))
        assert (chat.timings.cached_tokens > 60) == (n > 0)
        assert answer == replay(model, turns[: n + 1])


def test_two_sessions_in_turns(model, ids, pictures, replay):
    turns = [[(QUESTION, pictures[n]), ("And more?", None), ("Why?", pictures[2])] for n in range(2)]
    alone = [replay(model, turn) for turn in turns]
    chats = [model.session(GREEDY) for _ in turns]
    for step in range(3):
        answers = [ids(chat.ask(turn[step][0], image=turn[step][1])) for chat, turn in zip(chats, turns, strict=True)]
    assert answers == alone
    assert alone[0] != alone[1]


def test_several_pictures(model, ids, pictures, replay):
    chat = model.session(GREEDY)
    first = ids(chat.ask(QUESTION, image=pictures[:2]))
    assert [image.key for image in chat.images] == [model.embed_image(picture).key for picture in pictures[:2]]
    assert chat.timings.prefill_tokens > 128
    assert ids(model.session(GREEDY).ask(QUESTION, image=tuple(pictures[:2]))) == first
    assert ids(model.session(GREEDY).ask(QUESTION, image=pictures[1::-1])) != first
    assert first == replay(model, [(QUESTION, pictures[:2])])
    ids(chat.ask("Now?", image=pictures[2]))
    assert len(chat.images) == 3
    assert ids(model.session(GREEDY).ask(QUESTION, image=[])) == ids(model.session(GREEDY).ask(QUESTION))


def test_ways_to_give_a_picture(model, ids, pictures, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(pictures[0]).save(path)
    sources = [pictures[0], path, str(path), path.read_bytes(), Image.open(path), model.embed_image(path)]
    answers = [ids(model.session(GREEDY).ask(QUESTION, image=source)) for source in sources]
    assert answers == [answers[0]] * 6


def test_same_picture_again(model, ids, pictures, replay):
    first = model.session(GREEDY)
    ids(first.ask(QUESTION, image=pictures[0]))
    n_prompt = first.timings.prefill_tokens
    again = model.session(GREEDY)
    ids(again.ask(QUESTION, image=pictures[0]))
    assert (again.timings.cached_tokens, again.timings.prefill_tokens) == (n_prompt - 1, 1)
    turns = [(QUESTION, pictures[0]), ("Again?", pictures[0])]
    assert ids(again.ask("Again?", image=pictures[0])) == replay(model, turns)
    assert again.images[0].key == again.images[1].key


def test_another_picture_is_never_taken_for_the_first(model, pictures, forget):
    """One pixel differs by one level; all before the picture may be reused, nothing of it."""
    other = pictures[0].copy()
    other[20, 20, 1] ^= 1
    logits, cached = [], []
    for picture in (pictures[0], other):
        chat = model.session(greedy(1))
        list(chat.ask(QUESTION, image=picture))
        logits.append(model.engine.language.logits())
        cached.append(chat.timings.cached_tokens)
    n_opening = len(model.engine.language.tokenize(model._planner.template.opening[0], add_bos=True))
    assert cached == [0, n_opening]
    assert np.abs(logits[0] - logits[1]).max() > 0
    forget(model)
    list(model.session(greedy(1)).ask(QUESTION, image=other))
    assert np.abs(model.engine.language.logits() - logits[1]).max() < 1e-3


def test_clear(model, ids, pictures):
    chat = model.session(GREEDY)
    first = ids(chat.ask(QUESTION, image=pictures[0]))
    chat.clear()
    assert (chat.n_positions, chat.images) == (0, [])
    assert ids(chat.ask(QUESTION, image=pictures[0])) == first


def test_overflow_before_any_work(open_model, seeded_f32, ids, pictures, positions):
    model = open_model(seeded_f32, n_ctx=256)
    chat, untouched = model.session(GREEDY), model.session(GREEDY)
    first = ids(chat.ask(QUESTION, image=pictures[0]))
    n_positions, in_cache, timings = chat.n_positions, len(positions(model)), chat.timings
    n_text = len(model.engine.language.tokenize("</s>USER: ", add_bos=False))
    n_text += 2 * len(model.engine.language.tokenize("\n", add_bos=False))
    n_text += len(model.engine.language.tokenize(f"\n{QUESTION} ASSISTANT:", add_bos=False))
    with pytest.raises(ContextOverflow) as caught:
        chat.ask(QUESTION, image=[pictures[1], model.embed_image(pictures[1]), pictures[2]])
    n_needed = n_positions + n_text + 192 + 1
    assert (caught.value.n_needed, caught.value.n_ctx) == (n_needed, 256)
    assert str(caught.value) == (
        f"the prompt needs {n_needed} positions ({n_positions} earlier, {n_text} text, 192 for 3 images, 1 answer) "
        f"and the context has 256. Use a larger context (-c {n_needed + 512}), a shorter prompt, fewer images, "
        "or begin a new conversation."
    )
    assert (chat.n_positions, len(positions(model)), chat.timings) == (n_positions, in_cache, timings)
    assert len(chat.images) == 1
    second = ids(chat.ask("And now?"))
    assert [first, second] == [ids(untouched.ask(QUESTION, image=pictures[0])), ids(untouched.ask("And now?"))]


def test_text_too_long(model, ids):
    chat = model.session(GREEDY)
    with pytest.raises(ContextOverflow) as caught:
        chat.ask("word " * 20_000)
    assert caught.value.n_needed > 20_000
    assert caught.value.n_ctx == 1024
    assert "Use a shorter prompt" in str(caught.value)  # a larger context than the trained one is no advice
    assert len(ids(chat.ask(QUESTION))) == 8


@pytest.mark.parametrize("character", ["a", "\0", "\N{GRINNING FACE}", " "])
def test_text_much_too_long_is_refused_unread(model, character):
    """A million characters would be tokenized for a minute."""
    with pytest.raises(ContextOverflow, match="or more, of text alone") as caught:
        model.session(GREEDY).ask(character * 1_000_000)
    n_least = caught.value.n_needed - 1
    short = character * 10_000
    assert model.engine.language.count_at_least(short) <= len(model.engine.language.tokenize(short, add_bos=False))
    assert n_least == model.engine.language.count_at_least(character * 1_000_000) > 1024


def test_exactly_full(open_model, seeded_f32):
    model = open_model(seeded_f32, n_ctx=256)
    n_fixed = len(model.engine.language.tokenize(f"{model._planner.template.opening[0]}x ASSISTANT:", add_bos=True))
    question = "x" + "\x01" * (255 - n_fixed)  # each is one byte token
    chat = model.session(GREEDY)
    tokens = list(chat.ask(question))
    assert chat.timings.prefill_tokens == 255
    assert tokens[-1].finish_reason == "length"
    assert len(tokens) == 2  # one from the prompt's logits, one from the last position
    with pytest.raises(ContextOverflow) as caught:
        model.session(GREEDY).ask(question + "\x01")
    assert caught.value.n_needed == 257
    with pytest.raises(ContextOverflow):
        chat.ask(QUESTION)


def test_context_ends_the_answer(open_model, seeded_f32, positions):
    model = open_model(seeded_f32, n_ctx=256)
    chat = model.session(greedy(10_000))
    tokens = list(chat.ask(QUESTION))
    assert tokens[-1].finish_reason == "length"
    assert len(positions(model)) == model.engine.language.n_ctx == 256
    assert len(tokens) == 256 - chat.timings.prefill_tokens + 1


@pytest.mark.parametrize("n", [1, 2, 5])
def test_max_new_tokens(model, n):
    chat = model.session(greedy(n))
    tokens = list(chat.ask(QUESTION))
    assert [token.finish_reason for token in tokens] == [None] * (n - 1) + ["length"]
    assert chat.timings.decode_tokens == n


def test_end_of_sequence(model):
    chat = model.session(dataclasses.replace(GREEDY, grammar='root ::= " yes"'))
    tokens = list(chat.ask(QUESTION))
    assert text(tokens) == "yes"
    assert (tokens[-1].id, tokens[-1].finish_reason) == (2, "stop")
    assert {token.finish_reason for token in tokens[:-1]} == {None}
    assert chat.timings.decode_tokens == len(tokens) - 1


def test_user_stop_texts(model, ids):
    whole = text(model.session(greedy(40)).ask(QUESTION))
    for start, length in ((6, 3), (10, 1), (2, 8)):
        stop = whole[start : start + length]
        chat = model.session(dataclasses.replace(greedy(40), stop=("never said", stop)))
        tokens = list(chat.ask(QUESTION))
        assert text(tokens) == whole[: whole.index(stop)]
        assert tokens[-1].finish_reason == "stop"
        assert len(ids(chat.ask("Go on."))) > 0


def test_stopped_answer_stays_as_it_was_shown(model, positions):
    """What was cut from the answer is not in the conversation either."""
    grammar = 'root ::= "one two###three"'
    chat = model.session(SamplingOptions(temperature=0, grammar=grammar, stop=("###",)))
    assert text(chat.ask(QUESTION)) == "one two"
    chat.options = greedy(1)
    list(chat.ask("Go on."))
    said = [token for token in positions(model) if isinstance(token, int)]
    spoken = b"".join(b"</s>" if token == 2 else model.engine.language.piece(token) for token in said).decode()
    assert spoken.replace(" ", "").endswith("ASSISTANT:onetwo</s>USER:Goon.ASSISTANT:")


def test_stop_text_that_begins_inside_a_token(model, ids, positions):
    """The part of the token that was shown stays in the conversation."""
    answer = ids(model.session(greedy(80)).ask("Where is it?"))
    pieces = [model.engine.language.piece(token) for token in answer]
    n = next(n for n, piece in enumerate(pieces) if len(piece) > 3 and piece.isalpha() and piece[-2:] not in pieces)
    before, shown, stop = b"".join(pieces[:n]), pieces[n][:-2].decode(), pieces[n][-2:].decode()
    assert pieces[n][-2:] not in before + pieces[n][:-1]
    chat = model.session(dataclasses.replace(greedy(80), stop=(stop,)))
    assert text(chat.ask("Where is it?")) == before.decode(errors="replace").lstrip() + shown
    n_prompt = chat.timings.cached_tokens + chat.timings.prefill_tokens
    assert chat.n_positions == n_prompt + n
    chat.options = greedy(1)
    list(chat.ask("Go on."))
    said = positions(model)[n_prompt:]
    assert said[:n] == answer[:n]
    rest = b"".join(b"</s>" if token == 2 else model.engine.language.piece(token) for token in said[n:]).decode()
    assert rest.replace(" ", "") == f"{shown}</s>USER:Goon.ASSISTANT:"


def test_template_stop_ends_the_answer(model):
    """Written out in pieces, it is as good as the token."""
    chat = model.session(SamplingOptions(temperature=0, grammar='root ::= "a<" "/s>" "b"'))
    tokens = list(chat.ask(QUESTION))
    assert text(tokens) == "a"
    assert tokens[-1].finish_reason == "stop"


def test_cancel_before_reading(model, ids, pictures):
    chat = model.session(GREEDY)
    answer = chat.ask(QUESTION, image=pictures[0])
    chat.cancel()
    (token,) = answer
    assert (token.id, token.text, token.finish_reason) == (None, "", "cancelled")
    assert (chat.n_positions, chat.images, chat.timings.prefill_tokens) == (0, [], 0)
    assert ids(chat.ask(QUESTION)) == ids(model.session(GREEDY).ask(QUESTION))


def cancelled_at(model, monkeypatch, chat, n):
    """Another thread cancels the session when the language model computes for the nth time."""
    decode, n_left = model.engine.language.decode_tokens, [n]

    def cancel_first(chunks):
        n_left[0] -= 1
        if n_left[0] == 0:
            thread = threading.Thread(target=chat.cancel)
            thread.start()
            thread.join()
        return decode(chunks)

    monkeypatch.setattr(model.engine.language, "decode_tokens", cancel_first)


@pytest.mark.parametrize("n_batches", [1, 3, 8])
def test_cancel_during_prefill(open_model, seeded_f32, ids, n_batches, positions, replay, monkeypatch):
    """What was computed of the question stays in the cache, and the batch that was being computed is dropped."""
    model = open_model(seeded_f32, n_batch=32)
    chat, long = model.session(GREEDY), "word " * 150
    cancelled_at(model, monkeypatch, chat, n_batches)
    (token,) = chat.ask(long)
    assert (token.id, token.finish_reason) == (None, "cancelled")
    assert chat.n_positions == 0
    assert len(positions(model)) == 32 * (n_batches - 1)
    answer = ids(chat.ask(long))
    assert chat.timings.cached_tokens == 32 * (n_batches - 1)
    assert answer == replay(model, [(long, None)])


def wait_until_held(chat):
    """Returns when the answer is computed as far ahead of its reader as it may be."""
    deadline = time.monotonic() + 20
    while not chat._asked.answer.is_held:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("is_behind", [True, False])
def test_cancel_during_decode(model, ids, forget, is_behind):
    """The next token is the last one, also where the engine has computed more: only what was read was said."""
    chat = model.session(greedy(500))
    tokens = []
    for token in chat.ask(QUESTION):
        tokens.append(token)
        if len(tokens) == 5:
            if is_behind:
                wait_until_held(chat)
            thread = threading.Thread(target=chat.cancel)
            thread.start()
            thread.join()
    assert len(tokens) == 6
    assert (tokens[-1].id, tokens[-1].finish_reason) == (None, "cancelled")
    assert 5 <= chat.timings.decode_tokens <= 5 + 32
    assert chat.n_positions == chat.timings.prefill_tokens + 5
    chat.options = GREEDY
    answer = ids(chat.ask("Go on."))
    other = model.session(greedy(5))
    assert ids(other.ask(QUESTION)) == [token.id for token in tokens[:5]]
    other.options = GREEDY
    forget(model)
    assert ids(other.ask("Go on.")) == answer


def test_cancel_where_all_is_computed_already(model, ids):
    chat = model.session(GREEDY)
    answer = chat.ask(QUESTION)
    first = next(answer)
    assert chat._asked.answer.wait(20)
    chat.cancel()
    assert [(token.id, token.finish_reason) for token in answer] == [(None, "cancelled")]
    assert chat.n_positions == chat.timings.prefill_tokens + 1
    assert first.id == ids(model.session(GREEDY).ask(QUESTION))[0]


def test_cancel_while_waiting_for_a_place(model, ids):
    may_continue, began, waiter = threading.Event(), threading.Event(), model.session(GREEDY)
    result, held = [], []

    def hold(token):
        held.append(token.id)
        began.set()
        assert may_continue.wait(20)

    holder = model.submit([Message("user", QUESTION)], GREEDY, hold)
    assert began.wait(20)  # before that, it is itself among the queued
    thread = threading.Thread(target=lambda: result.extend(waiter.ask("Why?")))
    thread.start()
    while not model.metrics.queued:
        thread.join(0.002)
    waiter.cancel()
    while model.metrics.queued:  # whatever is being computed
        thread.join(0.002)
    assert not may_continue.is_set()
    may_continue.set()
    thread.join(20)
    (token,) = result
    assert (token.id, token.text, token.finish_reason) == (None, "", "cancelled")
    assert waiter.n_positions == 0
    assert holder.wait(20)
    assert held == ids(model.session(GREEDY).ask(QUESTION))


def test_closing_an_answer_early(model, ids, answer_after):
    chat = model.session(GREEDY)
    answer = chat.ask(QUESTION)
    said = [next(answer).id, next(answer).id]
    answer.close()
    assert chat.n_positions == chat.timings.prefill_tokens + 2
    assert ids(chat.ask("Go on.")) == answer_after(model, said)


@pytest.fixture
def answer_after(forget, ids):
    """answer_after(model, said) -> the answer to a second question where the first answer was cut after these ids."""

    def run(model, said):
        other = model.session(greedy(len(said)))
        assert ids(other.ask(QUESTION)) == said
        other.options = GREEDY
        forget(model)
        return ids(other.ask("Go on."))

    return run


def test_breaking_out_of_a_loop(model, ids, answer_after):
    chat = model.session(GREEDY)
    for token in chat.ask(QUESTION):
        said = [token.id]
        break
    assert ids(chat.ask("Go on.")) == answer_after(model, said)


def test_busy(model, ids):
    chat = model.session(GREEDY)
    answer = chat.ask(QUESTION)
    next(answer)
    for forbidden in (lambda: chat.ask("Why?"), chat.clear):
        with pytest.raises(EdgeLlavaError, match=r"^this session is still answering."):
            forbidden()
    assert len(ids(answer)) == 7
    assert len(ids(chat.ask("Why?"))) == 8


@pytest.mark.parametrize("kept_back_s", [0, 0.002, 60])
@pytest.mark.parametrize("parallel", [1, 2])
def test_two_open_answers_on_one_thread(open_engine, seeded_f32, ids, parallel, kept_back_s, monkeypatch):
    """Token by token in turns, and one to its end while the others are open: each is answered as if it were alone.

    However long tokens are kept back: nothing waits for one that is.
    """
    monkeypatch.setattr(engine_answer, "_KEPT_BACK_S", kept_back_s)
    model = open_engine(seeded_f32, parallel=parallel)
    alone = [ids(model.session(greedy(90)).ask(question)) for question in (QUESTION, "Why?")]
    first, second = (model.session(greedy(90)).ask(question) for question in (QUESTION, "Why?"))
    in_turns = [(a.id, b.id) for a, b in zip(first, second, strict=True)]
    assert [list(answer) for answer in zip(*in_turns, strict=True)] == alone
    chats = [model.session(greedy(90)) for _ in range(3)]
    first, second, third = (
        chat.ask(question) for chat, question in zip(chats, (QUESTION, "Why?", QUESTION), strict=True)
    )
    began = [next(first).id, next(second).id, next(third).id]
    assert [began[1], *ids(second)] == alone[1]
    assert [began[2], *ids(third)] == alone[0]
    assert [began[0], *ids(first)] == alone[0]
    assert [len(ids(chat.ask("And?"))) for chat in chats] == [90] * 3


def test_an_answer_that_is_not_read_is_computed_a_little_ahead(model, ids):
    chat = model.session(greedy(300))
    answer = chat.ask(QUESTION)
    assert model.metrics.steps_total == 0  # it begins when it is first read
    said = [next(answer).id]
    wait_until_held(chat)
    n_computed = model.metrics.tokens_total
    assert n_computed == 1 + 32
    time.sleep(0.05)
    assert (model.metrics.tokens_total, model.metrics.running) == (n_computed, 1)
    said += [next(answer).id for _ in range(100)]
    assert n_computed < model.metrics.tokens_total <= 101 + 32
    assert said == ids(model.session(greedy(101)).ask(QUESTION))
    answer.close()


@pytest.mark.parametrize("how", ["close", "drop", "break"])
def test_an_answer_that_is_left_frees_its_place(model, ids, how):
    chat = model.session(greedy(300))
    if how == "break":
        for _ in chat.ask(QUESTION):
            break
    else:
        answer = chat.ask(QUESTION)
        next(answer)
        if how == "close":
            answer.close()
        del answer
    assert (model.metrics.running, model.metrics.queued, model.metrics.cancelled_total) == (0, 0, 1)
    assert chat.n_positions == chat.timings.prefill_tokens + 1  # what was read
    assert model.metrics.tokens_total <= 1 + 32
    assert len(ids(model.session(GREEDY).ask("Why?"))) == 8


def test_a_session_beside_what_is_submitted(open_engine, seeded_f32, ids, ask, pictures):
    """One engine answers both kinds at the same time, and they share what was computed of an image."""
    model = open_engine(seeded_f32, parallel=2)
    alone = [ids(model.session(greedy(60)).ask(question, image=pictures[0])) for question in (QUESTION, "Why?")]
    for _ in range(2):
        answer = model.session(greedy(60)).ask(QUESTION, image=pictures[0])
        first = next(answer)
        submitted = ask(model, "Why?", greedy(60), pictures[0])
        assert [first.id, *ids(answer)] == alone[0]
        assert submitted.wait().ids == alone[1]
        assert submitted.answer.n_cached_tokens > 64
    assert model.metrics.images_encoded_total == 1


def talk_in_turns(model, pictures, ids):
    """Two sessions with an image each, asked in turns: their answers, and what was cached of each second question."""
    chats, answers, cached = [model.session(GREEDY) for _ in range(2)], [], []
    for n in range(3):
        for chat, image in zip(chats, pictures, strict=False):
            n_known = chat.n_positions - 1 if n else None  # the last token was not needed yet
            answers.append(ids(chat.ask(f"What is this, {n}?", image=None if n else image)))
            cached.append((chat.timings.cached_tokens, n_known))
    return answers, cached[2:]


@pytest.mark.parametrize("n_ctx", [1024, 256])
def test_sessions_in_turns_compute_only_what_is_new(open_model, open_engine, seeded_f32, ids, pictures, n_ctx):
    """In the KV cache where it has room for both, and otherwise in memory; without that, one is computed anew."""
    model = open_model(seeded_f32, n_ctx=n_ctx)
    answers, cached = talk_in_turns(model, pictures, ids)
    assert all(n_cached == n_known for n_cached, n_known in cached)
    assert model.metrics.images_encoded_total == 2
    assert (model.metrics.kept_conversations > 0) == (n_ctx == 256)
    forgetful = open_engine(seeded_f32, {"n_ctx": n_ctx}, parallel=1, host_bytes=0)
    again, cached = talk_in_turns(forgetful, pictures, ids)
    assert again == answers
    assert all(n_cached == n_known for n_cached, n_known in cached) == (n_ctx == 1024)


def test_asked_twice_before_reading(model, ids):
    """The second question was planned without an answer to the first: only it counts."""
    chat = model.session(GREEDY)
    first, second = chat.ask(QUESTION), chat.ask("Why?")
    with pytest.raises(EdgeLlavaError, match=r"^this question was superseded"):
        next(first)
    assert ids(second) == ids(model.session(GREEDY).ask("Why?"))
    third = chat.ask("And?")
    chat.clear()
    with pytest.raises(EdgeLlavaError, match=r"^this question was superseded"):
        next(third)
    assert chat.n_positions == 0


def test_picture_that_cannot_be_read(model, ids):
    chat = model.session(GREEDY)
    ids(chat.ask(QUESTION))
    n_positions = chat.n_positions
    for source in (b"nothing", "missing.png", np.zeros((2, 2), np.int32)):
        with pytest.raises(ImageError):
            chat.ask("And this?", image=source)
    assert chat.n_positions == n_positions
    assert len(ids(chat.ask("Go on."))) == 8


def test_damaged_numbers_change_nothing(model, ids, pictures, monkeypatch):
    chat = model.session(GREEDY)
    monkeypatch.setattr(Projector, "__call__", lambda self, features: features * np.float32(np.nan))
    with pytest.raises(BackendError, match=r"^the tower gave infinite or undefined numbers"):
        list(chat.ask(QUESTION, image=pictures[0]))
    assert chat.n_positions == 0
    monkeypatch.undo()
    assert len(ids(chat.ask(QUESTION, image=pictures[0]))) == 8


def test_question_is_taken_literally(model, ids):
    chat = model.session(GREEDY)
    assert len(ids(chat.ask(""))) == 8
    assert len(ids(chat.ask("<image>\n\0 😀"))) == 8
    assert chat.images == []


def test_options_may_be_replaced(model):
    chat = model.session(greedy(2))
    list(chat.ask(QUESTION))
    chat.options = greedy(3)
    assert len(list(chat.ask("Why?"))) == 3


def test_ctrl_c_in_a_prefill_reaches_the_program(seeded_f32):
    """Python may deliver it inside llama.cpp's callback, where ctypes would swallow it."""
    script = (
        "import os, signal, threading, edge_llava\n"
        f"with edge_llava.load({str(seeded_f32)!r}) as model:\n"
        "    chat = model.session(edge_llava.SamplingOptions(max_new_tokens=900))\n"
        "    threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "    try:\n"
        "        for token in chat.ask('word ' * 150): pass\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "interrupted\n"
    assert done.stderr == ""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from edge_llava.errors import BackendError, ContextOverflow, EdgeLlavaError, ImageError
from edge_llava.runtime.options import SamplingOptions
from edge_llava.runtime.vision.projector import Projector

pytestmark = pytest.mark.convert
QUESTION = "What is this?"
GREEDY = SamplingOptions(temperature=0, max_new_tokens=8)


def greedy(n):
    return dataclasses.replace(GREEDY, max_new_tokens=n)


def text(tokens):
    return "".join(token.text for token in tokens)


class CancelledByAnother(threading.Event):
    """Looked at for the nth time, it lets another thread call `cancel`, and waits until that was done."""

    def __init__(self, cancel, n):
        super().__init__()
        self.cancel, self.n_left = cancel, n

    def is_set(self):
        self.n_left -= 1
        if self.n_left == 0:
            thread = threading.Thread(target=self.cancel)
            thread.start()
            thread.join()
        return super().is_set()


@pytest.fixture
def pictures(noise):
    return [noise(64, 48, seed=seed) for seed in range(3)]


def replay(model, turns, ids):
    """The last answer's ids when every turn is prefilled from nothing."""
    chat = model.session(GREEDY)
    for question, image in turns:
        model.decoder.truncate(0)
        answer = ids(chat.ask(question, image=image))
        assert chat.timings.cached_tokens == 0
    return answer


def test_second_turn_prefills_only_what_is_new(model, ids, pictures):
    chat = model.session(GREEDY)
    assert len(ids(chat.ask(QUESTION, image=pictures[0]))) == 8
    n_prompt = 1 + len(model.decoder.tokenize(f"{model.template.opening}", add_bos=False)) + 64
    n_prompt += len(model.decoder.tokenize(f"\n{QUESTION} ASSISTANT:", add_bos=False))
    assert (chat.timings.cached_tokens, chat.timings.prefill_tokens) == (0, n_prompt)
    assert chat.n_positions == n_prompt + 8
    in_cache = model.decoder.n_past
    assert in_cache == n_prompt + 7  # the last token was not needed yet
    ids(chat.ask("And now?"))
    n_new = len(model.decoder.tokenize("</s>USER: And now? ASSISTANT:", add_bos=False))
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


def test_reuse_gives_the_same_answers(model, ids, pictures):
    turns = [(QUESTION, pictures[0]), ("And more?", None), ("Why?", pictures[1]), ("How many?", None)]
    chat = model.session(GREEDY)
    for n, (question, image) in enumerate(turns):
        answer = ids(chat.ask(question, image=image))
        assert (chat.timings.cached_tokens > 60) == (n > 0)
        assert answer == replay(model, turns[: n + 1], ids)


def test_two_sessions_in_turns(model, ids, pictures):
    turns = [[(QUESTION, pictures[n]), ("And more?", None), ("Why?", pictures[2])] for n in range(2)]
    alone = [replay(model, turn, ids) for turn in turns]
    chats = [model.session(GREEDY) for _ in turns]
    for step in range(3):
        answers = [ids(chat.ask(turn[step][0], image=turn[step][1])) for chat, turn in zip(chats, turns, strict=True)]
    assert answers == alone
    assert alone[0] != alone[1]


def test_several_pictures(model, ids, pictures):
    chat = model.session(GREEDY)
    first = ids(chat.ask(QUESTION, image=pictures[:2]))
    assert [image.key for image in chat.images] == [model.embed_image(picture).key for picture in pictures[:2]]
    assert chat.timings.prefill_tokens > 128
    assert ids(model.session(GREEDY).ask(QUESTION, image=tuple(pictures[:2]))) == first
    assert ids(model.session(GREEDY).ask(QUESTION, image=pictures[1::-1])) != first
    assert first == replay(model, [(QUESTION, pictures[:2])], ids)
    ids(chat.ask("Now?", image=pictures[2]))
    assert len(chat.images) == 3
    assert ids(model.session(GREEDY).ask(QUESTION, image=[])) == ids(model.session(GREEDY).ask(QUESTION))


def test_ways_to_give_a_picture(model, ids, pictures, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(pictures[0]).save(path)
    sources = [pictures[0], path, str(path), path.read_bytes(), Image.open(path), model.embed_image(path)]
    answers = [ids(model.session(GREEDY).ask(QUESTION, image=source)) for source in sources]
    assert answers == [answers[0]] * 6


def test_same_picture_again(model, ids, pictures):
    first = model.session(GREEDY)
    ids(first.ask(QUESTION, image=pictures[0]))
    n_prompt = first.timings.prefill_tokens
    again = model.session(GREEDY)
    ids(again.ask(QUESTION, image=pictures[0]))
    assert (again.timings.cached_tokens, again.timings.prefill_tokens) == (n_prompt - 1, 1)
    turns = [(QUESTION, pictures[0]), ("Again?", pictures[0])]
    assert ids(again.ask("Again?", image=pictures[0])) == replay(model, turns, ids)
    assert again.images[0].key == again.images[1].key


def test_another_picture_is_never_taken_for_the_first(model, pictures):
    """One pixel differs by one level; all before the picture may be reused, nothing of it."""
    other = pictures[0].copy()
    other[20, 20, 1] ^= 1
    logits, cached = [], []
    for picture in (pictures[0], other):
        chat = model.session(greedy(1))
        list(chat.ask(QUESTION, image=picture))
        logits.append(model.decoder.logits())
        cached.append(chat.timings.cached_tokens)
    n_opening = len(model.decoder.tokenize(model.template.opening, add_bos=True))
    assert cached == [0, n_opening]
    assert np.abs(logits[0] - logits[1]).max() > 0
    model.decoder.truncate(0)
    list(model.session(greedy(1)).ask(QUESTION, image=other))
    assert np.abs(model.decoder.logits() - logits[1]).max() < 1e-3


def test_clear(model, ids, pictures):
    chat = model.session(GREEDY)
    first = ids(chat.ask(QUESTION, image=pictures[0]))
    chat.clear()
    assert (chat.n_positions, chat.images) == (0, [])
    assert ids(chat.ask(QUESTION, image=pictures[0])) == first


def test_overflow_before_any_work(open_model, seeded_f32, ids, pictures):
    model = open_model(seeded_f32, n_ctx=256)
    chat, untouched = model.session(GREEDY), model.session(GREEDY)
    first = ids(chat.ask(QUESTION, image=pictures[0]))
    n_positions, in_cache, timings = chat.n_positions, model.decoder.n_past, chat.timings
    n_text = len(model.decoder.tokenize("</s>USER: ", add_bos=False))
    n_text += 2 * len(model.decoder.tokenize("\n", add_bos=False))
    n_text += len(model.decoder.tokenize(f"\n{QUESTION} ASSISTANT:", add_bos=False))
    with pytest.raises(ContextOverflow) as caught:
        chat.ask(QUESTION, image=[pictures[1], model.embed_image(pictures[1]), pictures[2]])
    n_needed = n_positions + n_text + 192 + 1
    assert (caught.value.n_needed, caught.value.n_ctx) == (n_needed, 256)
    assert str(caught.value) == (
        f"the prompt needs {n_needed} positions ({n_positions} earlier, {n_text} text, 192 for 3 images, 1 answer) "
        f"and the context has 256. Use a larger context (-c {n_needed + 512}), a shorter prompt, fewer pictures, "
        "or begin a new conversation."
    )
    assert (chat.n_positions, model.decoder.n_past, chat.timings) == (n_positions, in_cache, timings)
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
    assert model.decoder.count_at_least(short) <= len(model.decoder.tokenize(short, add_bos=False))
    assert n_least == model.decoder.count_at_least(character * 1_000_000) > 1024


def test_exactly_full(open_model, seeded_f32, ids):
    model = open_model(seeded_f32, n_ctx=256)
    n_fixed = len(model.decoder.tokenize(f"{model.template.opening}x ASSISTANT:", add_bos=True))
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


def test_context_ends_the_answer(open_model, seeded_f32):
    model = open_model(seeded_f32, n_ctx=256)
    chat = model.session(greedy(10_000))
    tokens = list(chat.ask(QUESTION))
    assert tokens[-1].finish_reason == "length"
    assert model.decoder.n_past == model.decoder.n_ctx == 256
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


def test_stopped_answer_stays_as_it_was_shown(model):
    """What was cut from the answer is not in the conversation either."""
    grammar = 'root ::= "one two###three"'
    chat = model.session(SamplingOptions(temperature=0, grammar=grammar, stop=("###",)))
    assert text(chat.ask(QUESTION)) == "one two"
    chat.options = greedy(1)
    list(chat.ask("Go on."))
    said = [token for token in model.decoder._positions if isinstance(token, int)]
    spoken = b"".join(b"</s>" if token == 2 else model.decoder.piece(token) for token in said).decode()
    assert spoken.replace(" ", "").endswith("ASSISTANT:onetwo</s>USER:Goon.ASSISTANT:")


def test_stop_text_that_begins_inside_a_token(model, ids):
    """The part of the token that was shown stays in the conversation."""
    answer = ids(model.session(greedy(80)).ask(QUESTION))
    pieces = [model.decoder.piece(token) for token in answer]
    n = next(n for n, piece in enumerate(pieces) if len(piece) > 3 and piece.isalpha() and piece[-2:] not in pieces)
    before, shown, stop = b"".join(pieces[:n]), pieces[n][:-2].decode(), pieces[n][-2:].decode()
    assert pieces[n][-2:] not in before + pieces[n][:-1]
    chat = model.session(dataclasses.replace(greedy(80), stop=(stop,)))
    assert text(chat.ask(QUESTION)) == before.decode(errors="replace").lstrip() + shown
    n_prompt = chat.timings.cached_tokens + chat.timings.prefill_tokens
    assert chat.n_positions == n_prompt + n
    chat.options = greedy(1)
    list(chat.ask("Go on."))
    said = model.decoder._positions[n_prompt:]
    assert said[:n] == answer[:n]
    rest = b"".join(b"</s>" if token == 2 else model.decoder.piece(token) for token in said[n:]).decode()
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


@pytest.mark.parametrize("n_looks", [3, 100, 400])
def test_cancel_during_prefill(open_model, seeded_f32, ids, n_looks):
    model = open_model(seeded_f32, n_batch=32)
    chat, long = model.session(GREEDY), "word " * 150
    answer = chat.ask(long)
    chat._cancel = CancelledByAnother(chat.cancel, n_looks)
    (token,) = answer
    assert (token.id, token.finish_reason) == (None, "cancelled")
    assert chat.n_positions == 0
    assert model.decoder.n_past < 300
    assert ids(chat.ask(long)) == replay(model, [(long, None)], ids)


def test_cancel_during_decode(model, ids):
    chat = model.session(greedy(500))
    tokens = []
    for token in chat.ask(QUESTION):
        tokens.append(token)
        if len(tokens) == 5:
            thread = threading.Thread(target=chat.cancel)
            thread.start()
            thread.join()
    assert len(tokens) == 6
    assert (tokens[-1].id, tokens[-1].finish_reason) == (None, "cancelled")
    assert chat.timings.decode_tokens == 5
    assert chat.n_positions == chat.timings.prefill_tokens + 5
    chat.options = GREEDY
    answer = ids(chat.ask("Go on."))
    other = model.session(greedy(5))
    assert ids(other.ask(QUESTION)) == [token.id for token in tokens[:5]]
    other.options = GREEDY
    model.decoder.truncate(0)
    assert ids(other.ask("Go on.")) == answer


def test_cancel_while_waiting_for_a_turn(model, ids):
    holder, waiter, result = model.session(GREEDY), model.session(GREEDY), []
    answer = holder.ask(QUESTION)
    first = next(answer)
    thread = threading.Thread(target=lambda: result.extend(waiter.ask("Why?")))
    thread.start()
    while not model.turns._queue:
        thread.join(0.002)
    waiter.cancel()
    thread.join(20)
    (token,) = result
    assert (token.id, token.text, token.finish_reason) == (None, "", "cancelled")
    assert waiter.n_positions == 0
    assert [first.id, *ids(answer)] == ids(model.session(GREEDY).ask(QUESTION))


def test_closing_an_answer_early(model, ids):
    chat = model.session(GREEDY)
    answer = chat.ask(QUESTION)
    said = [next(answer).id, next(answer).id]
    answer.close()
    assert chat.n_positions == chat.timings.prefill_tokens + 2
    assert ids(chat.ask("Go on.")) == answer_after(model, said, ids)


def answer_after(model, said, ids):
    other = model.session(greedy(len(said)))
    assert ids(other.ask(QUESTION)) == said
    other.options = GREEDY
    model.decoder.truncate(0)
    return ids(other.ask("Go on."))


def test_breaking_out_of_a_loop(model, ids):
    chat = model.session(GREEDY)
    for token in chat.ask(QUESTION):
        said = [token.id]
        break
    assert ids(chat.ask("Go on.")) == answer_after(model, said, ids)


def test_busy(model, ids):
    chat = model.session(GREEDY)
    answer = chat.ask(QUESTION)
    next(answer)
    for forbidden in (lambda: chat.ask("Why?"), chat.clear):
        with pytest.raises(EdgeLlavaError, match=r"^this session is still answering."):
            forbidden()
    assert len(ids(answer)) == 7
    assert len(ids(chat.ask("Why?"))) == 8


def test_another_session_on_the_same_thread(model, ids):
    first, second = model.session(GREEDY), model.session(GREEDY)
    answer = first.ask(QUESTION)
    next(answer)
    with pytest.raises(EdgeLlavaError, match=r"^another answer is still open on this thread."):
        ids(second.ask("Why?"))
    answer.close()
    assert len(ids(second.ask("Why?"))) == 8


def test_asked_twice_before_reading(model, ids):
    """The second question was planned without an answer to the first: only it counts."""
    chat = model.session(GREEDY)
    first, second = chat.ask(QUESTION), chat.ask("Why?")
    with pytest.raises(EdgeLlavaError, match=r"^this question was given up"):
        next(first)
    assert ids(second) == ids(model.session(GREEDY).ask("Why?"))
    third = chat.ask("And?")
    chat.clear()
    with pytest.raises(EdgeLlavaError, match=r"^this question was given up"):
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

"""Many conversations at once: each is answered as if it were alone."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.errors import BackendError, BundleError, ContextOverflow, EdgeLlavaError, ImageError, QueueFull
from edge_llava.runtime.answer import Opened
from edge_llava.runtime.dialogue.messages import Message
from edge_llava.runtime.model import LlavaModel
from edge_llava.runtime.options import DecoderOptions, EngineOptions, SamplingOptions

pytestmark = pytest.mark.convert
GREEDY = SamplingOptions(temperature=0, max_new_tokens=12)


@pytest.fixture
def pictures(noise):
    return [noise(64, 48, seed=seed) for seed in range(3)]


def options(n=12, **fields):
    return dataclasses.replace(GREEDY, max_new_tokens=n, **fields)


def questions(pictures):
    """Of every kind: with a picture, without, with two, the same as another, long."""
    return [
        ("What is this?", pictures[:1]),
        ("Why?", []),
        ("How many?", pictures[1:2]),
        ("What is this?", pictures[:1]),
        ("Compare them.", pictures[:2]),
        ("And this? " * 30, pictures[2:]),
        ("word " * 150, []),
        ("Why not?", pictures[:1]),
    ]


@pytest.fixture
def answered_alone(forget):
    """answered_alone(model, asked, options=GREEDY) -> ids of answers of sessions, each computed from nothing."""

    def run(model, asked, how=GREEDY):
        answers = []
        for question, images in asked:
            forget(model)
            answers.append([token.id for token in model.session(how).ask(question, image=list(images))])
        return answers

    return run


# As alone


@pytest.mark.parametrize(("n_parallel", "n_batch"), [(1, 512), (4, 512), (8, 64), (3, 32)])
def test_answers_are_those_of_a_session(
    open_engine, seeded_f32, model, ask, pictures, n_parallel, n_batch, answered_alone
):
    asked = questions(pictures)
    engine = open_engine(seeded_f32, {"n_batch": n_batch}, parallel=n_parallel)
    alone = answered_alone(model, asked)
    for _ in range(2):
        answers = [ask(engine, question, GREEDY, *images) for question, images in asked]
        assert [answer.wait().ids for answer in answers] == alone
    assert engine.metrics.answers_total == 2 * len(asked)


def test_logprobs_side_by_side_are_those_of_a_session(open_engine, seeded_f32, model, ask, pictures, forget):
    asked, how = questions(pictures), options(5, logprobs=3)
    engine = open_engine(seeded_f32, parallel=8)
    answers = [ask(engine, question, how, *images) for question, images in asked]
    for answer, (question, images) in zip(answers, asked, strict=True):
        forget(model)
        alone = list(model.session(how).ask(question, image=list(images)))
        assert [token.piece for token in answer.wait().tokens] == [token.piece for token in alone]
        for token, other in zip(answer.tokens, alone, strict=True):
            assert token.logprob == pytest.approx(other.logprob, abs=1e-3)
            assert [top.logprob for top in token.top_logprobs] == pytest.approx(
                [top.logprob for top in other.top_logprobs], abs=1e-3
            )


def test_each_with_its_own_options(engine, model, ask, pictures, answered_alone):
    asked = [
        ("What is this?", options(40, temperature=1, seed=5)),
        ("What is this?", options(40, temperature=1, seed=5)),
        ("What is this?", options(40, temperature=1, seed=6)),
        ("What is this?", options(3)),
        ("What is this?", options(60, grammar='root ::= (" yes" | " no") [0-9] [0-9]')),
        ("What is this?", options(40, temperature=0.8, top_k=20, top_p=0.9, min_p=0.01, repeat_penalty=1.3, seed=1)),
    ]
    answers = [ask(engine, question, how, pictures[0]) for question, how in asked]
    ids = [answer.wait().ids for answer in answers]
    for (question, how), answer in zip(asked, ids, strict=True):
        assert answer == answered_alone(model, [(question, pictures[:1])], how)[0]
    assert ids[0] == ids[1] != ids[2]
    assert answers[3].reason == "length"
    assert answers[4].reason == "stop"
    assert answers[4].text[-2:].isdigit()


def test_stop_texts(engine, model, ask):
    whole = "".join(token.text for token in model.session(options(40)).ask("What is this?"))
    stops = [(whole[start : start + length],) for start, length in ((6, 3), (10, 1), (2, 8))]
    answers = [ask(engine, "What is this?", options(40, stop=stop)) for stop in stops]
    for answer, (stop,) in zip(answers, stops, strict=True):
        assert answer.wait().text == whole[: whole.index(stop)]
        assert answer.reason == "stop"


def test_the_context_ends_an_answer(open_engine, seeded_f32, ask):
    engine = open_engine(seeded_f32, {"n_ctx": 128})
    answer = ask(engine, "What is this?", options(10_000)).wait()
    assert answer.reason == "length"
    assert len(answer.tokens) == 128 - answer.answer.n_prompt_tokens + 1


def test_turns_of_a_conversation(engine, model, ask, pictures):
    """The client sends back what was shown, and the engine goes on where it stopped: noise that no tokenizer writes."""
    chat, messages = model.session(options(20, temperature=1, seed=4, stop=("e",))), []
    for n, (question, images) in enumerate([("What is this?", (pictures[0],)), ("And?", (pictures[1],)), ("Why?", ())]):
        expected = [token.id for token in chat.ask(question, image=images)]
        messages.append(Message("user", question, images))
        asked = ask(engine, messages, chat.options).wait()
        assert asked.ids == expected
        assert asked.answer.n_prompt_tokens == chat.timings.cached_tokens + chat.timings.prefill_tokens
        assert asked.answer.n_cached_tokens == chat.timings.cached_tokens
        assert asked.answer.n_image_tokens == (64, 128, 128)[n]
        messages.append(Message("assistant", asked.text))


def test_fewer_visual_tokens(open_engine, seeded_f32, home, ask, pictures, answered_alone):
    """Of a tower that is opened for every picture, too."""
    fewer = {"visual_tokens": 16, "low_memory": True}
    engine = open_engine(seeded_f32, **fewer)
    answers = [ask(engine, "What is this?", GREEDY, picture).wait() for picture in pictures[:2]]
    assert [one.answer.n_image_tokens for one in answers] == [16, 16]
    options = EngineOptions(DecoderOptions(n_threads=1), n_vision_threads=1, **fewer)
    with LlavaModel(Bundle.open(seeded_f32), options) as model:
        assert [one.ids for one in answers] == answered_alone(model, [("What is this?", [p]) for p in pictures[:2]])
        whole = open_engine(seeded_f32)
        with pytest.raises(ImageError, match="--visual-tokens"):
            ask(whole, "What?", GREEDY, model.embed_image(pictures[0]))
    with pytest.raises(BundleError):
        open_engine(seeded_f32, visual_tokens=1000)


# What is shared


def test_a_picture_that_many_ask_about_is_encoded_and_computed_once(engine, ask, pictures):
    asked = [ask(engine, f"Question {n}?", GREEDY, pictures[0]) for n in range(4)]
    answers = [one.wait().answer for one in asked]
    n_shared = len(engine.engine.language.tokenize(engine._planner.template.opening[0], add_bos=True)) + 64
    assert answers[0].n_cached_tokens == 0
    assert all(answer.n_cached_tokens >= n_shared for answer in answers[1:])
    metrics = engine.metrics
    assert metrics.images_encoded_total == 1
    assert metrics.prompt_tokens_total == sum(answer.n_prompt_tokens for answer in answers)
    assert metrics.cached_tokens_total == sum(answer.n_cached_tokens or 0 for answer in answers)


def test_a_picture_in_conversations_that_begin_otherwise_is_encoded_once(engine, ask, pictures):
    """Its rows are computed in each, since they follow something else; the tower runs once."""
    asked = [
        ask(engine, [Message("system", f"You are {name}."), Message("user", "What?", (pictures[0],))], GREEDY)
        for name in ("Ann", "Bob", "Cid")
    ]
    for one in asked:
        assert one.wait().answer.n_cached_tokens < 20
    assert engine.metrics.images_encoded_total == 1


def test_the_next_question_waits_for_nothing(engine, ask, pictures):
    """Neither tower nor prefill: of a picture that was asked about before, only the question is computed."""
    first = ask(engine, "What is this?", GREEDY, pictures[0]).wait().answer
    second = ask(engine, "Why?", GREEDY, pictures[0]).wait().answer
    n_question = len(engine.engine.language.tokenize("\nWhy? ASSISTANT:", add_bos=False))
    assert first.timings().vision_s > 0
    assert second.timings().vision_s == 0
    assert second.n_prompt_tokens - n_question <= second.n_cached_tokens < second.n_prompt_tokens
    assert engine.metrics.images_encoded_total == 1


def test_more_conversations_than_places_are_remembered(open_engine, seeded_f32, ask, pictures):
    engine = open_engine(seeded_f32, {"n_ctx": 256}, parallel=1)
    histories = [[Message("user", f"What is this, {n}?", (pictures[n],))] for n in range(3)]
    for _ in range(2):
        for messages in histories:
            asked = ask(engine, messages, GREEDY).wait()
            messages += [Message("assistant", asked.text), Message("user", "And?")]
    for messages in histories:
        answer = ask(engine, messages, GREEDY).wait().answer
        n_new = len(engine.engine.language.tokenize("</s>USER: And? ASSISTANT:", add_bos=False))
        assert answer.n_cached_tokens == answer.n_prompt_tokens - n_new - 1  # the last token was not needed yet
    assert engine.metrics.images_encoded_total == 3
    assert engine.metrics.kept_conversations == 2


def test_a_full_cache_makes_the_youngest_give_way(open_engine, seeded_f32, model, ask, answered_alone):
    """Three long answers in room for two: all come to their end, with the tokens they have alone."""
    engine = open_engine(seeded_f32, {"n_ctx": 256}, parallel=3, n_positions=512)
    asked = [("What is this?", []), ("Why?", []), ("How many?", [])]
    alone = answered_alone(model, asked, options(210))
    answers = [ask(engine, question, options(210)) for question, _ in asked]
    assert [answer.wait().ids for answer in answers] == alone
    assert engine.metrics.preempted_total > 0
    n_cached = [answer.answer.n_cached_tokens for answer in answers]
    assert n_cached[0] == 0
    assert all(0 < n < answer.answer.n_prompt_tokens for n, answer in zip(n_cached[1:], answers[1:], strict=True))
    assert engine.metrics.cached_tokens_total == sum(n_cached)  # whoever gave way found its own again: not counted
    assert engine.metrics.kv_positions_max == 512


def test_order_and_places(open_engine, seeded_f32, ask):
    """One place: first come, first served."""
    engine, order = open_engine(seeded_f32, parallel=1), []
    asked = [
        ask(engine, f"Question {n}?", GREEDY, on_token=lambda token, n=n: token.finish_reason and order.append(n))
        for n in range(5)
    ]
    for one in asked:
        one.wait()
    assert order == [0, 1, 2, 3, 4]


def test_prompts_come_in_parts_between_the_tokens_of_others(open_engine, seeded_f32, ask):
    """A long prompt does not hold up an answer that flows: it gets tokens before the other's first."""
    engine, seen = open_engine(seeded_f32, {"n_batch": 32}), []
    late = []

    def ask_more(token):
        if len(first.tokens) == 3:
            late.append(ask(engine, "word " * 150, options(2), on_token=lambda token: seen.append("late")))
        seen.append("first")

    first = ask(engine, "What is this?", options(60), on_token=ask_more)
    first.wait()
    late[0].wait()
    between = seen.index("late") - 3
    assert between >= 300 // 32


# What is refused


def test_a_bounded_queue(open_engine, seeded_f32, ask):
    engine = open_engine(seeded_f32, parallel=1, n_queued=2)
    asked = [ask(engine, "What is this?", options(400)) for _ in range(3)]
    with pytest.raises(QueueFull) as caught:
        ask(engine, "Why?", GREEDY)
    assert caught.value.n_inside == 3
    assert 0 < caught.value.retry_after_s < 60
    assert engine.metrics.refused_total == 1
    asked[2].answer.cancel()
    asked[2].wait()
    assert ask(engine, "Why?", options(2)).wait().reason == "length"
    for one in asked:
        one.answer.cancel()


def test_nothing_may_wait(open_engine, seeded_f32, ask):
    engine = open_engine(seeded_f32, parallel=2, n_queued=0)
    asked = [ask(engine, "What is this?", options(300)) for _ in range(2)]
    with pytest.raises(QueueFull):
        ask(engine, "Why?", GREEDY)
    for one in asked:
        assert one.wait().reason == "length"
    assert ask(engine, "Why?", GREEDY).wait().reason == "length"


@pytest.mark.parametrize(
    ("said", "how", "error"),
    [
        ("word " * 2000, GREEDY, ContextOverflow),
        ([Message("user", "What?", (b"nothing",))], GREEDY, ImageError),
        ([Message("assistant", "Well.")], GREEDY, ValueError),
        ("What?", options(grammar="root ::= nothing"), BackendError),
    ],
)
def test_what_cannot_be_answered_takes_no_place(open_engine, seeded_f32, ask, said, how, error):
    engine = open_engine(seeded_f32, parallel=1, n_queued=0)
    for _ in range(3):
        with pytest.raises(error):
            ask(engine, said, how)
    assert ask(engine, "What?", GREEDY).wait().reason == "length"


def test_overflow_counts_one_conversation(open_engine, seeded_f32, ask):
    engine = open_engine(seeded_f32, {"n_ctx": 256}, parallel=4)
    assert (engine.n_ctx, engine.metrics.kv_positions_max) == (256, 1024)
    with pytest.raises(ContextOverflow) as caught:
        ask(engine, "word " * 100, GREEDY)
    assert caught.value.n_ctx == 256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parallel": 0}, "parallel must be from 1 to 127"),
        ({"parallel": 128, "n_queued": -1}, "parallel must be from 1 to 127; n_queued must not be negative"),
        ({"n_positions": 1023}, "n_positions must be at least 1024, which is one conversation"),
        ({"host_bytes": -1}, "host_bytes must not be negative"),
    ],
)
def test_impossible_sizes(seeded_f32, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        LlavaModel(Bundle.open(seeded_f32), EngineOptions(**arguments))


def test_metrics(engine, ask, pictures):
    before = engine.metrics
    assert (before.n_parallel, before.n_queued_max, before.running, before.queued) == (4, 16, 0, 0)
    assert (before.answers_total, before.steps_total, before.kv_positions) == (0, 0, 0)
    seen = []
    asked = ask(engine, "What?", options(4), pictures[0], on_token=lambda _: seen.append(engine.metrics.running))
    asked.wait()
    after = engine.metrics
    assert seen == [1, 1, 1, 0]
    assert (after.answers_total, after.tokens_total, after.running) == (1, 4, 0)
    assert after.prompt_tokens_total == asked.answer.n_prompt_tokens
    assert after.kv_positions == asked.answer.n_prompt_tokens + 3
    assert after.steps_total >= 4
    assert after.decode_seconds_total > 0


def test_timings(engine, ask, pictures):
    """What is timed apart does not overlap: waiting for a place, the tower, and the prompt."""
    asked = ask(engine, "What?", options(4), pictures[0])
    answer = asked.wait().answer
    timings = answer.timings(Opened(load_s=1.5))
    assert (answer.n_tokens, answer.finish_reason, answer.error) == (4, "length", None)
    assert (timings.load_s, timings.decode_tokens, timings.cached_tokens) == (1.5, 4, 0)
    assert timings.prefill_tokens == answer.n_prompt_tokens
    assert min(timings.queued_s, timings.vision_s, timings.projector_s, timings.prefill_s, timings.decode_s) > 0
    n_empty = next(n for n, token in enumerate(asked.tokens) if token.text)  # tokens before the first text
    assert timings.vision_s + timings.projector_s < timings.ttft_s  # the text before the image overlaps with these
    assert timings.queued_s + timings.prefill_s < timings.ttft_s
    assert timings.ttft_s < timings.queued_s + timings.prefill_s + timings.vision_s + timings.projector_s + (
        engine.load_s + n_empty * timings.decode_s + 1
    )
    again = ask(engine, "What?", options(4), pictures[0]).wait().answer.timings()
    assert (again.prefill_tokens, again.cached_tokens) == (1, answer.n_prompt_tokens - 1)
    assert (again.vision_s, again.projector_s) == (0, 0)


def test_several_threads(engine, model, ask):
    """Clients on threads of their own, each with a conversation of three turns."""
    alone, faults = [], []
    for n in range(6):
        chat = model.session(GREEDY)
        alone.append([[token.id for token in chat.ask(f"Question {n}, {turn}?")] for turn in range(3)])

    def talk(n):
        messages, answers = [], []
        for turn in range(3):
            messages.append(Message("user", f"Question {n}, {turn}?"))
            asked = ask(engine, messages, GREEDY).wait()
            answers.append(asked.ids)
            messages.append(Message("assistant", asked.text))
        if answers != alone[n]:
            faults.append((n, answers))

    threads = [threading.Thread(target=talk, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_a_closed_engine(engine, ask):
    engine.close()
    engine.close()
    with pytest.raises(EdgeLlavaError, match=r"^this model is closed"):
        ask(engine, "What?", GREEDY)


def test_quantized(open_engine, seeded_q4, ask, pictures):
    """Not the tokens, which a batch may change, but whole answers."""
    engine = open_engine(seeded_q4)
    answers = [ask(engine, question, GREEDY, *images) for question, images in questions(pictures)]
    assert [len(answer.wait().tokens) for answer in answers] == [12] * len(answers)
    assert np.all([answer.answer.error is None for answer in answers])

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import threading
import time

import numpy as np
import pytest

from edge_llava.errors import BackendError, ContextOverflow, EdgeLlavaError, ImageError
from edge_llava.runtime.dialogue.messages import Message
from edge_llava.runtime.options import SamplingOptions

pytestmark = pytest.mark.convert
QUESTION = "What is this?"
GREEDY = SamplingOptions(temperature=0, max_new_tokens=8)
LONG = dataclasses.replace(GREEDY, max_new_tokens=900)


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    deadline = time.monotonic() + 20
    while [thread for thread in threading.enumerate() if thread.name.startswith("edge-llava-ask")]:
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def picture(noise):
    return noise(64, 48)


async def read(answer):
    return [token async for token in answer]


async def read_some(answer, n):
    tokens = []
    async for token in answer:
        tokens.append(token)
        if len(tokens) == n:
            break
    return tokens


def test_the_same_tokens_as_ask(model, picture, forget):
    async def ask_all():
        chat = model.session(GREEDY)
        turns = [await read(chat.ask_async(QUESTION, image=picture)), await read(chat.ask_async("And now?"))]
        return turns, chat.timings

    chat = model.session(GREEDY)
    expected = [list(chat.ask(QUESTION, image=picture)), list(chat.ask("And now?"))]
    forget(model)
    turns, timings = asyncio.run(ask_all())
    assert turns == expected
    assert timings.decode_tokens == 8


def test_the_loop_continues_while_a_token_is_computed(model, monkeypatch):
    """The engine waits for something that only the loop can do."""
    done_by_loop = threading.Event()
    decode = model.engine.language.decode_tokens

    def decode_late(chunks):
        assert done_by_loop.wait(20)
        return decode(chunks)

    async def ask():
        asyncio.get_running_loop().call_later(0.02, done_by_loop.set)
        return await read(model.session(GREEDY).ask_async(QUESTION))

    monkeypatch.setattr(model.engine.language, "decode_tokens", decode_late)
    assert len(asyncio.run(ask())) == 8


def test_nothing_happens_before_it_is_read(model):
    async def leave_it():
        answer = model.session(GREEDY).ask_async(QUESTION, image="missing.png")
        await asyncio.sleep(0)
        await answer.aclose()
        return await read(answer)

    assert asyncio.run(leave_it()) == []
    assert model.metrics.steps_total == 0


@pytest.mark.parametrize(
    ("question", "image", "error"),
    [
        (QUESTION, "missing.png", ImageError),
        (QUESTION, np.zeros((2, 2, 2, 2), np.uint8), ImageError),
        ("word " * 20_000, None, ContextOverflow),
        ("\udcff", None, ValueError),
    ],
)
def test_errors_of_ask_come_with_the_first_step(model, question, image, error):
    async def ask():
        chat = model.session(GREEDY)
        answer = chat.ask_async(question, image=image)
        with pytest.raises(error):
            await anext(answer)
        assert await read(answer) == []
        return await read(chat.ask_async(QUESTION))

    assert len(asyncio.run(ask())) == 8


def test_errors_on_the_way_come_after_the_tokens_before_them(model, monkeypatch):
    """Also where the engine has failed long before they are read."""
    decode, n_left = model.engine.language.decode_tokens, [3]

    def fail_later(chunks):
        n_left[0] -= sum(chunk.n_tokens for chunk in chunks) == 1
        if n_left[0] < 0:
            raise BackendError("broken")
        return decode(chunks)

    async def ask():
        chat = model.session(GREEDY)
        answer = chat.ask_async(QUESTION)
        tokens = [await anext(answer)]
        assert chat._asked.answer.wait(20)
        tokens += [await anext(answer) for _ in range(3)]
        with pytest.raises(BackendError, match="broken"):
            await anext(answer)
        assert await read(answer) == []
        monkeypatch.undo()
        return tokens, await read(chat.ask_async("Go on."))

    monkeypatch.setattr(model.engine.language, "decode_tokens", fail_later)
    tokens, more = asyncio.run(ask())
    assert [token.finish_reason for token in tokens] == [None] * 4
    assert len(more) == 8


def test_breaking_out_of_the_loop_stops_the_answer_and_the_session_continues(model):
    async def ask():
        chat = model.session(LONG)
        first = await read_some(chat.ask_async(QUESTION), 3)
        n_positions = chat.show_prompt("Go on.")  # waits for the thread
        assert n_positions
        n_computed = chat.timings.decode_tokens
        chat.options = GREEDY
        return first, n_computed, await read(chat.ask_async("Go on."))

    first, n_computed, second = asyncio.run(ask())
    assert [token.finish_reason for token in first] == [None] * 3
    assert 3 <= n_computed < 900
    assert len(second) == 8


def test_asking_again_at_once_waits_for_the_answer_that_was_left(model):
    async def ask():
        chat = model.session(LONG)
        for n in range(5):
            await read_some(chat.ask_async(f"Question {n}"), 1)
        chat.options = GREEDY
        by_ask = await asyncio.to_thread(lambda: list(chat.ask("And?")))
        await read_some(chat.ask_async("More?"), 1)
        chat.clear()
        return by_ask, chat.n_positions

    by_ask, n_positions = asyncio.run(ask())
    assert len(by_ask) == 8
    assert n_positions == 0


@pytest.mark.parametrize("n_read", [1, 4])
def test_aclose_ends_it(model, n_read):
    async def ask():
        chat = model.session(LONG)
        answer = chat.ask_async(QUESTION)
        for _ in range(n_read):
            await anext(answer)
        await answer.aclose()
        assert await read(answer) == []
        await answer.aclose()
        chat.clear()  # it is idle
        return chat.timings.decode_tokens

    assert n_read <= asyncio.run(ask()) < 900


def test_cancelling_the_task_during_decode(model):
    async def ask():
        chat, seen = model.session(LONG), asyncio.Event()

        async def reader():
            async for _ in chat.ask_async(QUESTION):
                seen.set()

        task = asyncio.create_task(reader())
        await seen.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        n_computed = chat.timings.decode_tokens  # the thread has ended
        chat.options = GREEDY
        return n_computed, await read(chat.ask_async("Go on."))

    n_computed, tokens = asyncio.run(ask())
    assert 1 <= n_computed < 900
    assert len(tokens) == 8


def test_cancelling_the_task_during_prefill(model, monkeypatch):
    begun, language = threading.Event(), model.engine.language
    decode = language.decode_tokens

    def decode_when_cancelled(chunks):
        begun.set()
        deadline = time.monotonic() + 20
        while language.abort._text[0] == b"\0":  # llama.cpp looks at it
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return decode(chunks)

    async def ask():
        chat = model.session(GREEDY)
        task = asyncio.create_task(read(chat.ask_async(QUESTION)))
        await asyncio.to_thread(begun.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert chat.n_positions == 0
        monkeypatch.undo()
        return await read(chat.ask_async(QUESTION))

    monkeypatch.setattr(language, "decode_tokens", decode_when_cancelled)
    assert len(asyncio.run(ask())) == 8


def test_a_time_limit(model):
    async def ask():
        chat = model.session(LONG)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(read(chat.ask_async("word " * 100)), 0.001)
        chat.options = GREEDY
        return await read(chat.ask_async(QUESTION))

    assert len(asyncio.run(ask())) == 8


def test_cancel_of_the_session_is_the_last_token(model):
    async def ask():
        chat = model.session(LONG)
        answer = chat.ask_async(QUESTION)
        await anext(answer)
        chat.cancel()
        return await read(answer)

    tokens = asyncio.run(ask())
    assert len(tokens) < 900
    assert (tokens[-1].id, tokens[-1].finish_reason) == (None, "cancelled")


def test_several_sessions_of_one_loop_are_answered_in_order(model):
    may_continue, began = threading.Event(), threading.Event()

    def hold(token):
        began.set()
        assert may_continue.wait(20)

    first = model.submit([Message("user", QUESTION)], GREEDY, hold)
    assert began.wait(20)  # before that, it is itself among the queued

    async def ask():
        seen, others = [], []  # whose token it was, for each that came

        async def reader(name):
            ids = []
            async for token in model.session(GREEDY).ask_async(f"Question {name}"):
                seen.append(name)
                ids.append(token.id)
            return ids

        for n, name in enumerate("bcd", start=1):
            others.append(asyncio.create_task(reader(name)))
            while model.metrics.queued < n:
                await asyncio.sleep(0.001)
        may_continue.set()
        return seen, await asyncio.gather(*others)

    seen, answers = asyncio.run(ask())
    assert first.finish_reason == "length"
    assert [name for name, _ in itertools.groupby(seen)] == ["b", "c", "d"]
    alone = [[token.id for token in model.session(GREEDY).ask(f"Question {name}")] for name in "bcd"]
    assert answers == alone


@pytest.mark.parametrize("options", [GREEDY, dataclasses.replace(GREEDY, max_new_tokens=100)])
def test_a_reader_that_waits_for_another_answer_is_no_deadlock(model, options):
    """A long one gives up its place, and is computed to its end after the other."""

    async def ask():
        outer, inner = [], []
        async for token in model.session(options).ask_async(QUESTION):
            outer.append(token.id)
            if not inner:
                inner = await read(model.session(GREEDY).ask_async("Why?"))
        return outer, inner

    outer, inner = asyncio.run(ask())
    assert outer == [token.id for token in model.session(options).ask(QUESTION)]
    assert len(inner) == 8


def test_two_questions_of_one_session_at_once(model):
    async def ask():
        chat = model.session(LONG)
        answer = chat.ask_async(QUESTION)
        await anext(answer)
        with pytest.raises(EdgeLlavaError, match=r"^this session is still answering"):
            await anext(chat.ask_async("Why?"))
        await answer.aclose()

    asyncio.run(ask())


def test_closing_the_model_in_the_loop_ends_the_answer(open_model, seeded_f32):
    model = open_model(seeded_f32)

    async def ask():
        answer = model.session(LONG).ask_async(QUESTION)
        await anext(answer)
        model.close()
        return await read(answer)

    tokens = asyncio.run(ask())
    assert tokens[-1].finish_reason == "cancelled"
    with pytest.raises(EdgeLlavaError, match="this model is closed"):
        model.session()


def test_an_answer_whose_loop_was_closed(model):
    """No one can read it any more: it takes no place from others, and ends when it is dropped, or before."""
    loop, chat = asyncio.new_event_loop(), model.session(LONG)
    answer = chat.ask_async(QUESTION)
    loop.run_until_complete(answer.__anext__())
    loop.close()
    assert len(list(model.session(GREEDY).ask("Why?"))) == 8
    del answer
    deadline = time.monotonic() + 20
    while chat.timings is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert chat.timings.decode_tokens <= 1 + 32
    chat.options = GREEDY
    assert len(list(chat.ask("Go on."))) == 8


@pytest.mark.parametrize("n_closers", [1, 2])
def test_aclose_from_other_tasks_while_one_reads(model, n_closers):
    """As a button that stops does: all of them end."""

    async def stop():
        answer = model.session(LONG).ask_async(QUESTION)
        first = await anext(answer)
        reader = asyncio.create_task(read(answer))
        await asyncio.sleep(0)
        closers = [asyncio.create_task(answer.aclose()) for _ in range(n_closers)]
        await asyncio.wait_for(asyncio.gather(reader, *closers), 20)
        return [first, *reader.result()]

    assert 1 <= len(asyncio.run(stop())) < 900

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import threading
import time

import numpy as np
import pytest

from edge_llava.errors import ContextOverflow, EdgeLlavaError, ImageError
from edge_llava.runtime.options import SamplingOptions

pytestmark = pytest.mark.convert
QUESTION = "What is this?"
GREEDY = SamplingOptions(temperature=0, max_new_tokens=8)
LONG = dataclasses.replace(GREEDY, max_new_tokens=900)


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    deadline = time.monotonic() + 20
    while [thread for thread in threading.enumerate() if thread.name.startswith("edge-llava-answer")]:
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


def test_the_same_tokens_as_ask(model, picture):
    async def ask_all():
        chat = model.session(GREEDY)
        turns = [await read(chat.ask_async(QUESTION, image=picture)), await read(chat.ask_async("And now?"))]
        return turns, chat.timings

    chat = model.session(GREEDY)
    expected = [list(chat.ask(QUESTION, image=picture)), list(chat.ask("And now?"))]
    model.decoder.truncate(0)
    turns, timings = asyncio.run(ask_all())
    assert turns == expected
    assert timings.decode_tokens == 8


def test_the_loop_goes_on_while_a_token_is_computed(model, monkeypatch):
    """The engine waits for something that only the loop can do."""
    done_by_loop = threading.Event()
    prefill = model.decoder.prefill_tokens

    def prefill_late(tokens, cancel, *, n_spared):
        assert done_by_loop.wait(20)
        prefill(tokens, cancel, n_spared=n_spared)

    async def ask():
        asyncio.get_running_loop().call_later(0.02, done_by_loop.set)
        return await read(model.session(GREEDY).ask_async(QUESTION))

    monkeypatch.setattr(model.decoder, "prefill_tokens", prefill_late)
    assert len(asyncio.run(ask())) == 8


def test_nothing_happens_before_it_is_read(model):
    async def leave_it():
        answer = model.session(GREEDY).ask_async(QUESTION, image="missing.png")
        await asyncio.sleep(0)
        await answer.aclose()
        return await read(answer)

    assert asyncio.run(leave_it()) == []
    assert model.decoder.n_past == 0


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
    decode, n_left = model.decoder.decode, [3]

    def fail_later(token):
        n_left[0] -= 1
        if n_left[0] < 0:
            raise EdgeLlavaError("broken")
        decode(token)

    async def ask():
        answer = model.session(GREEDY).ask_async(QUESTION)
        tokens = [await anext(answer) for _ in range(4)]
        with pytest.raises(EdgeLlavaError, match="broken"):
            await anext(answer)
        return tokens

    monkeypatch.setattr(model.decoder, "decode", fail_later)
    assert len(asyncio.run(ask())) == 4


def test_leaving_the_loop_stops_the_answer_and_the_session_goes_on(model):
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
    begun = threading.Event()
    prefill = model.decoder.prefill_tokens

    def prefill_until_cancelled(tokens, cancel, *, n_spared):
        begun.set()
        assert cancel.wait(20)  # llama.cpp's abort callback looks at it
        prefill(tokens, cancel, n_spared=n_spared)

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

    monkeypatch.setattr(model.decoder, "prefill_tokens", prefill_until_cancelled)
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


def test_several_sessions_of_one_loop_take_turns_in_order(model):
    async def ask():
        seen = []  # whose token it was, for each that came

        async def reader(name, answer):
            ids = []
            async for token in answer:
                seen.append(name)
                ids.append(token.id)
            return ids

        first, others = model.session(dataclasses.replace(GREEDY, max_new_tokens=300)), []
        answer = first.ask_async(QUESTION)
        await anext(answer)  # it has the turn
        for n, name in enumerate("bcd", start=1):
            answer_to_other = model.session(GREEDY).ask_async(f"Question {name}")
            others.append(asyncio.create_task(reader(name, answer_to_other)))
            while len(model.turns._queue) < n:
                await asyncio.sleep(0.001)
        await reader("a", answer)
        return seen, await asyncio.gather(*others)

    seen, answers = asyncio.run(ask())
    assert [name for name, _ in itertools.groupby(seen)] == ["a", "b", "c", "d"]
    alone = [[token.id for token in model.session(GREEDY).ask(f"Question {name}")] for name in "bcd"]
    assert answers == alone


def test_a_reader_that_waits_for_another_answer_is_no_deadlock(model):
    async def ask():
        inner = []
        async for _ in model.session(GREEDY).ask_async(QUESTION):
            if not inner:
                inner = await read(model.session(GREEDY).ask_async("Why?"))
        return inner

    assert len(asyncio.run(ask())) == 8


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


def test_a_loop_that_ends_takes_its_answer_along(model):
    loop, chat = asyncio.new_event_loop(), model.session(LONG)
    answer = chat.ask_async(QUESTION)
    loop.run_until_complete(answer.__anext__())
    loop.close()  # nobody reads on; the thread finds out
    deadline = time.monotonic() + 20
    while chat.timings is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert chat.timings.decode_tokens < 900


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

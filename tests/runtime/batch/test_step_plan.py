"""Who gets what in a step, and how large it may be."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from edge_llava.runtime.answer import Token
from edge_llava.runtime.engine.answer import Answer
from edge_llava.runtime.engine.job import Job
from edge_llava.runtime.engine.step import StepSize, plan_step
from edge_llava.runtime.kv.sequence import KvSequence
from edge_llava.runtime.lifetime.gate import Gate
from edge_llava.runtime.options import SamplingOptions
from edge_llava.runtime.request import Request
from edge_llava.runtime.runs import ImageRun, TokenRun
from edge_llava.runtime.vision.image_embedding import ImageEmbedding

ROWS = ImageEmbedding(np.arange(80, dtype=np.float32).reshape(10, 8), "k", (2, 5), (4, 4), "00", "00", 0.1, 0.1)


def image(embedding=ROWS):
    return ImageRun("k", "k", 10, None, None, embedding)


def job(number, *runs, computed=0, sampled=(), credit=None):
    request = Request(runs, SamplingOptions(), (), credit=credit)
    tokens = SimpleNamespace(ids=list(sampled))
    made = Job(request, Answer(request, tokens, lambda token: None, Gate("this model", print, print)), None)
    made.wanted += sampled
    made.number, made.sequence = number, KvSequence(number, made.wanted[:computed])
    return made


def text(n, first=100):
    return TokenRun(tuple(range(first, first + n)))


def shape(plan):
    """(number, ids or rows, whether a token is sampled) of each part."""
    tokens = [
        [(job.number, list(chunk.ids), chunk.is_last) for job, chunk in parts] for parts in (plan.decoding, plan.texts)
    ]
    rows = [(job.number, chunk.first_row, len(chunk.rows)) for job, chunk in plan.rows]
    return tokens[0], rows, tokens[1]


def test_every_answer_that_is_decoded_gets_a_token():
    decoding = [job(n, text(5), computed=5 + n, sampled=range(n + 1)) for n in range(3)]
    plan = plan_step([*decoding, job(3, text(40, 200))], 8)
    assert shape(plan) == (
        [(0, [0], True), (1, [1], True), (2, [2], True)],
        [],
        [(3, list(range(200, 208)), False)],
    )
    assert (plan.n_prompt, plan.n_positions) == (8, 11)


def test_prompts_come_in_order_until_the_step_is_full():
    jobs = [job(1, text(20, 100), computed=14), job(2, text(3, 200)), job(3, text(20, 300)), job(4, text(20, 400))]
    assert shape(plan_step(jobs, 12)) == (
        [],
        [],
        [(1, list(range(114, 120)), True), (2, [200, 201, 202], True), (3, [300, 301, 302], False)],
    )


def test_rows_and_texts_share_a_step():
    jobs = [
        job(1, text(2), image(), text(3, 50), computed=6),
        job(2, text(2), image(), computed=2),
        job(3, text(9)),
    ]
    plan = plan_step(jobs, 12)
    assert shape(plan) == ([], [(1, 4, 6), (2, 0, 6)], [])
    assert np.array_equal(plan.rows[0][1].rows, ROWS.data[4:])
    assert plan.rows[0][1].positions == [("k", row) for row in range(4, 10)]
    plan = plan_step(jobs, 17)
    assert shape(plan) == ([], [(1, 4, 6), (2, 0, 10)], [(3, [100], False)])
    assert shape(plan_step(jobs[:2], 17)) == ([], [(1, 4, 6), (2, 0, 10)], [])  # the same without the youngest


def test_texts_on_both_sides_of_an_answer_are_one():
    made = job(1, text(3), TokenRun((7, 8)), text(2, 200))
    assert shape(plan_step([made], 20)) == ([], [], [(1, [100, 101, 102, 7, 8, 200, 201], True)])


def test_one_that_waits_for_its_image_does_not_delay_others():
    waiting = job(1, text(2), image(None), text(2), computed=2)
    assert shape(plan_step([waiting, job(2, text(3))], 8)) == ([], [], [(2, [100, 101, 102], True)])


def test_an_answer_that_lost_its_place_is_computed_anew():
    """Its own tokens with its prompt; only then is the next one sampled."""
    made = job(1, text(5), computed=0, sampled=(7, 8, 9))
    assert not made.is_decoding
    assert shape(plan_step([made], 20)) == ([], [], [(1, [100, 101, 102, 103, 104, 7, 8, 9], True)])


def test_a_younger_job_waits_for_what_an_older_one_computes():
    older, younger = job(1, text(30), computed=10), job(2, text(20), TokenRun((5,)))
    younger.find_sources([older])
    assert younger.prefix_source() == (20, older)
    assert shape(plan_step([older, younger], 8)) == ([], [], [(1, list(range(110, 118)), False)])
    younger.sequence.positions += range(100, 120)
    assert younger.prefix_source() is None
    assert shape(plan_step([younger], 8)) == ([], [], [(2, [5], True)])


def test_a_younger_job_continues_alone_when_the_older_ones_left():
    older, second, younger = job(1, text(40)), job(2, text(20), TokenRun((1,))), job(3, text(30))
    younger.find_sources([older, second])
    assert younger.prefix_source() == (29, older)
    older.sequence = None
    assert younger.prefix_source() == (20, second)
    second.sequence = None
    assert younger.next_chunk(4).ids == [100, 101, 102, 103]


def test_an_answer_is_computed_a_few_tokens_ahead_of_its_reader():
    made = job(1, text(5), computed=5, sampled=(1,), credit=4)
    for n in range(4):
        assert shape(plan_step([made], 8)) == ([(1, [1], True)], [], [])
        made.answer.emit(Token(n, "x"))
    assert shape(plan_step([made], 8)) == ([], [], [])
    assert made.answer.is_held
    made.answer.note_read()
    assert shape(plan_step([made], 8)) == ([], [], [])  # it continues when half of them were read
    made.answer.note_read()
    assert shape(plan_step([made], 8)) == ([(1, [1], True)], [], [])
    assert not made.answer.is_held


def test_none_waits_for_a_few_words():
    """They are computed along with the rest; to wait would take a step of its own."""
    older, younger = job(1, text(8), TokenRun((1,))), job(2, text(20))
    younger.find_sources([older])
    assert younger.prefix_source() is None
    assert shape(plan_step([older, younger], 64))[2] == [
        (1, [*range(100, 108), 1], True),
        (2, [*range(100, 120)], True),
    ]


def test_none_waits_for_a_younger_one():
    older, younger = job(1, text(30)), job(2, text(30))
    older.find_sources([younger])
    assert older.prefix_source() is None


@pytest.mark.parametrize(("positions_per_s", "expected"), [(1000, 480), (200, 96), (100, 32), (5, 32), (100_000, 512)])
def test_the_step_fits_the_device(positions_per_s, expected):
    size = StepSize(512, 0.5)
    for _ in range(40):
        size.learn(64, 64 / positions_per_s)
    assert size.prompt_positions(some_decode=True) == expected
    assert size.prompt_positions(some_decode=False) == 512


def test_a_step_is_never_larger_than_a_batch():
    size = StepSize(20, 0.5)
    size.learn(64, 0.001)
    assert size.prompt_positions(some_decode=True) == 20


def test_where_nobody_reads_along_prompts_are_computed_whole():
    size = StepSize(512, None)
    size.learn(64, 60.0)
    assert size.prompt_positions(some_decode=True) == 512


def test_where_nobody_reads_along_a_short_prompt_waits_for_others():
    decoding, short, other = job(1, text(5), computed=5, sampled=(1,)), job(2, text(40)), job(3, text(40))
    size, plan = StepSize(512, None), plan_step([decoding, short], 512)
    assert shape(size.gather(plan)) == ([(1, [1], True)], [], [])
    both = plan_step([decoding, short, other], 512)
    assert size.gather(both) is both
    for _ in range(8):  # no longer than that
        assert not size.gather(plan).texts
    assert size.gather(plan) is plan
    assert not size.gather(plan).texts  # and the next one again
    alone = plan_step([short], 512)
    assert size.gather(alone) is alone  # there is none to wait for
    assert StepSize(512, 0.5).gather(plan) is plan


def test_small_steps_teach_nothing():
    size = StepSize(512, 0.5)
    before = size.prompt_positions(some_decode=True)
    size.learn(31, 1e-9)
    assert size.prompt_positions(some_decode=True) == before == 32

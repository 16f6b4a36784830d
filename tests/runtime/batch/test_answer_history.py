from __future__ import annotations

from edge_llava.runtime.dialogue.answer_history import AnswerHistory, KnownAnswer
from edge_llava.runtime.runs import ImageRun, TokenRun


def picture(key):
    return ImageRun(key, key, 4, None, None)


def test_found_by_everything_before_it_and_its_text():
    said = AnswerHistory()
    before, answer = [TokenRun((1, 2)), picture("aa"), TokenRun((3,))], KnownAnswer((7, 8), "x")
    said.remember(before, " A bus.\n", answer)
    assert said.find([TokenRun((1, 2)), picture("aa"), TokenRun((3,))], "A bus.") == answer
    for other in (
        [TokenRun((1, 2)), picture("ab"), TokenRun((3,))],
        [TokenRun((1, 2)), picture("aa"), TokenRun((4,))],
        [TokenRun((1,)), TokenRun((2,)), picture("aa"), TokenRun((3,))],
        [TokenRun((1, 2)), picture("aa")],
        [],
    ):
        assert said.find(other, "A bus.") is None
    assert said.find(before, "A bus") is None


def test_the_last_answer_with_a_text_counts():
    said, before = AnswerHistory(), [TokenRun((1,))]
    said.remember(before, "a", KnownAnswer((7,), ""))
    said.remember(before, "a", KnownAnswer((8, 9), ""))
    assert said.find(before, "a") == KnownAnswer((8, 9), "")


def test_the_least_used_is_forgotten():
    said = AnswerHistory(n_kept=2)
    for text in ("a", "b"):
        said.remember([], text, KnownAnswer((ord(text),), ""))
    assert said.find([], "a") is not None
    said.remember([], "c", KnownAnswer((99,), ""))
    assert [said.find([], text) is not None for text in "abc"] == [True, False, True]

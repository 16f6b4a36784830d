from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from edge_llava.runtime.dialogue.answer_text import AnswerText


def show(pieces: list[bytes], *stop: str) -> tuple[list[str], AnswerText]:
    """What is shown piece by piece, then at the end; pushes nothing after a stop."""
    text, shown = AnswerText(stop), []
    for piece in pieces:
        shown.append(text.push(piece))
        if text.stopped:
            break
    return [*shown, text.finish()], text


def test_stop_in_pieces():
    shown, text = show([b"blue", b" ##", b"#", b" never"], "###")
    assert shown == ["blue", " ", "", ""]
    assert text.stopped


def test_stop_inside_one_piece():
    shown, text = show([b"a red cube</s>USER"], "</s>")
    assert shown == ["a red cube", ""]
    assert text.stopped


def test_partial_match_is_held_back_and_given_when_it_was_none():
    shown, text = show([b"a <", b"/", b"b", b"<", b"/s"], "</s>")
    assert shown == ["a ", "", "</b", "", "", "</s"]
    assert not text.stopped


def test_partial_match_that_begins_again():
    assert show([b"#", b"#", b"x##", b"#y"], "###")[0] == ["", "", "##x", "", ""]
    assert show([b"a", b"a", b"a", b"b"], "aab")[0] == ["", "", "a", "", ""]


def test_several_stop_texts():
    shown, text = show([b"one\nUS", b"ER: two"], "</s>", "\nUSER:", "\nHuman:")
    assert shown == ["one", "", ""]
    assert text.stopped


def test_earliest_of_two_stop_texts():
    assert show([b"1 END 2 STOP 3"], "STOP", "END")[0] == ["1 ", ""]


def test_no_stop_text():
    assert show([b"a", b"#", b"</s>"])[0] == ["a", "#", "</s>", ""]


@pytest.mark.parametrize("word", ["é", "€", "😀", "日本"])
def test_bytes_of_a_character_in_several_tokens(word):
    data = word.encode()
    shown, _ = show([bytes([byte]) for byte in data], "</s>")
    assert "".join(shown) == word
    assert [bool(part) for part in shown[: len(word[0].encode())]] == [False] * (len(word[0].encode()) - 1) + [True]


def test_incomplete_character_at_the_end():
    assert show([b"ab", b"\xc3"], "</s>")[0] == ["ab", "", "�"]


def test_bytes_that_are_no_text():
    assert show([b"\xff", b"a", b"\xc3", b"("])[0] == ["�", "a", "", "�(", ""]


def test_stop_text_beyond_ascii():
    shown, text = show(["结".encode()[:2], "结".encode()[2:], "束 x".encode()], "结束")
    assert shown == ["", "", "", ""]
    assert text.stopped


def test_leading_white_space_is_dropped_once():
    assert show([b" ", b"\n ", b" blue", b" ", b" sky "])[0] == ["", "", "blue", " ", " sky ", ""]


def test_stop_at_once():
    shown, text = show([b"</s>"], "</s>")
    assert shown == ["", ""]
    assert text.split() == (0, "")


@pytest.mark.parametrize(
    ("pieces", "n_whole", "remainder"),
    [
        ([b"ab", b"c#", b"##"], 1, "c"),
        ([b"ab", b"c", b"###"], 2, ""),
        ([b"ab", b"c", b"", b"###"], 3, ""),
        ([b"abc### d"], 0, "abc"),
        ([b" ab", b" c#", b"##"], 1, " c"),
        ([b"a", b"\xc3", b"\xa9##", b"#"], 1, "é"),
        ([b"a", b"\xc3", b"\xa9", b"###"], 3, ""),
    ],
)
def test_what_goes_into_the_history(pieces, n_whole, remainder):
    _, text = show(pieces, "###")
    assert text.stopped
    assert text.split() == (n_whole, remainder)


@pytest.mark.parametrize("pieces", [[b"ab", b"c#"], [b"ab", b"\xc3"], [b"##"], []])
def test_all_tokens_stay_when_nothing_stopped(pieces):
    _, text = show(pieces, "###")
    assert text.split() == (len(pieces), "")


def test_closed_before_the_end():
    """The reader may leave at any token; what is held back was still said."""
    text = AnswerText(["###"])
    assert text.push(b"ab#") == "ab"
    assert text.split() == (1, "")


def random_answer(seed):
    """A text full of almost-stops, its UTF-8 bytes split anywhere, and stop texts of which none contains another."""
    random = Random(seed)
    alphabet = random.choice(["ab", "#a ", "aé€", "ab😀\n"])

    def text(n):
        return "".join(random.choices(alphabet, k=n))

    stops = {text(random.randint(1, 4)) for _ in range(random.randint(1, 3))}
    stops = [stop for stop in sorted(stops) if not any(other in stop for other in stops if other != stop)]
    data = text(random.randint(0, 30)).encode()
    cuts = sorted(random.randint(0, len(data)) for _ in range(random.randint(0, 12)))
    return data, [data[start:end] for start, end in pairwise([0, *cuts, len(data)])], stops


@pytest.mark.parametrize("seeds", [range(n, n + 500) for n in range(0, 3000, 500)], ids=str)
def test_shown_text_is_the_text_before_the_first_stop(seeds):
    n_stopped = sum(check_random_answer(seed) for seed in seeds)
    assert 50 < n_stopped < 450


def check_random_answer(seed):
    """Whether one of its stop texts ended it."""
    data, pieces, stops = random_answer(seed)
    whole = data.decode()
    starts = [whole.find(stop) for stop in stops if stop in whole]
    expected = whole[: min(starts)] if starts else whole
    text, shown = AnswerText(stops), ""
    for piece in pieces:
        shown += text.push(piece)
        assert expected.lstrip().startswith(shown), seed  # nothing is ever shown that must be taken back
        if text.stopped:
            break
    shown += text.finish()
    assert text.stopped == bool(starts), seed
    assert shown == expected.lstrip(), seed
    n_whole, carry = text.split()
    assert b"".join(pieces[:n_whole]).decode() + carry == expected, seed
    return text.stopped

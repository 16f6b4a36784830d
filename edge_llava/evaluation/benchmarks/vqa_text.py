"""How VQA answers are brought into one form and compared with those of ten people.

Source: TextVQA's evaluator (EvalAIAnswerProcessor of LLaVA's m4c_evaluator.py), which also prepares answers for VQAv2's
and VizWiz's servers, and VQAv2's own vqaEval.py. Their slips are kept, since published scores were made with them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

N_ANSWERS = 10
_MARKS = tuple(';/[]"{}()=+\\_-><@`,?!')
_NUMBERS = "zero one two three four five six seven eight nine ten"
_DIGITS = {word: str(n) for n, word in enumerate(_NUMBERS.split())}
_WORDS = {"none": "0", **_DIGITS}
_ARTICLES = ("a", "an", "the")
_STOP = re.compile(r"(?!<=\d)(\.)(?!\d)")
_COMMA = re.compile(r"(\d)(,)(\d)")
_MAX_STOPS = 32  # the original passes re.UNICODE in the place of a count

_ONE_APOSTROPHE = (
    "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's I'm "
    "I've isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've "
    "shouldn't somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're "
    "there's they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd "
    "where's where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're "
    "you've"
)
_TWO_APOSTROPHES = (
    "couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've "
    "there'd've they'd've we'd've who'd've wouldn't've you'd've I'd've"
)
_OTHERS = {
    "yall'll": "y'all'll", "y'allll": "y'all'll", "yall'd've": "y'all'd've", "y'alld've": "y'all'd've",
    "y'all'dve": "y'all'd've", "ow's'at": "'ow's'at", "'ows'at": "'ow's'at", "'ow'sat": "'ow's'at",
    "somebody'd": "somebodyd", "let's": "let's", "she's": "she's",
}  # fmt: skip


def _contractions() -> dict[str, str]:
    found = {value.replace("'", ""): value for value in _ONE_APOSTROPHE.split()}
    for value in _TWO_APOSTROPHES.split():
        first, second = (match.start() for match in re.finditer("'", value))
        found[value[:first] + value[first + 1 :]] = value
        found[value[:second] + value[second + 1 :]] = value
    return found | _OTHERS


CONTRACTIONS = _contractions()


def normalize(text: str) -> str:
    """The form in which TextVQA compares: lower case, without marks and articles, numbers as digits."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    return _join_words(_drop_marks(text, deletes_all=False))


def normalize_vqav2(text: str) -> str:
    """VQAv2's own form: as `normalize`, but commas stay until marks are dropped, and 's stays where it is."""
    text = text.replace("\n", " ").replace("\t", " ").strip()
    return _join_words(_drop_marks(text, deletes_all=_COMMA.search(text) is not None).lower())


def textvqa_accuracy(text: str, answers: Sequence[str]) -> float:
    """The share of people whose answer this is, where three of the others suffice; 0 to 1."""
    return _accuracy(normalize(text), [normalize(answer) for answer in answers])


def vqav2_accuracy(text: str, answers: Sequence[str]) -> float:
    """As `textvqa_accuracy`, by VQAv2's own form; nothing is brought into a form where all people answer alike."""
    plain = [answer.replace("\n", " ").replace("\t", " ").strip() for answer in answers]
    if len(set(answers)) == 1:
        return _accuracy(text.replace("\n", " ").replace("\t", " ").strip(), plain)
    return _accuracy(normalize_vqav2(text), [normalize_vqav2(answer) for answer in answers])


def _accuracy(text: str, answers: Sequence[str]) -> float:
    """The mean over people of min(1, matches among the others / 3)."""
    n = Counter(answers)[text]
    of_those, of_others = min(1.0, (n - 1) / 3), min(1.0, n / 3)
    return (n * of_those + (len(answers) - n) * of_others) / len(answers) if n else 0.0


def _drop_marks(text: str, *, deletes_all: bool) -> str:
    """Marks beside a space are deleted, others become a space; then full stops go that no digit follows."""
    found = text
    for mark in _MARKS:
        is_beside_space = f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if is_beside_space or deletes_all else " ")
    return _STOP.sub("", found, count=_MAX_STOPS)


def _join_words(text: str) -> str:
    words = [_WORDS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)

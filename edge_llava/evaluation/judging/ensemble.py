"""ScienceQA's answers together with those of a text-only model: complement, and the same model as judge.

Source: Science QA in the LLaVA article; eval_science_qa_gpt4.py and eval_science_qa_gpt4_requery.py of LLaVA. The
article's request to the judge was never published; ours is our own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edge_llava.evaluation.benchmarks.benchmark import Benchmark, Figure, Item, Mark, Marked
from edge_llava.evaluation.benchmarks.figures import accuracy
from edge_llava.evaluation.benchmarks.prompts import LETTER
from edge_llava.evaluation.benchmarks.scienceqa_problem import Problem, ask, read_letter, tell
from edge_llava.remote.kept_replies import Question

SHOTS = ("6493", "16241")  # the two solved problems that GPT-3 was shown
FORM = "QCM-ALE"
MAX_TOKENS = 512
_SYSTEM = "You answer multiple-choice questions. Explain your answer."
_JUDGE_SYSTEM = "You decide between two answers to a question. You cannot see the image that it may be about."
_JUDGE_RULE = (
    "Two answers to this question disagree. Think about which of them is right; it may be that neither is. Explain it "
    "in a few sentences, and end with one line: The answer is X. Put the letter of the right option in the place of X."
)


@dataclass(frozen=True)
class Decision:
    """What becomes of one question.

    Attributes:
        item: The question.
        ours, other: The two answers' texts; "" where one is missing.
        is_asked: Whether the judge is asked: the letters differ, or one cannot be read.
        judge: What the judge said; None where it was not asked, or did not reply.
    """

    item: Item
    ours: str
    other: str
    is_asked: bool
    judge: str | None = None

    @property
    def complement(self) -> str:
        """The other's answer where it names a letter, else ours."""
        return self.other if read_letter(self.other) is not None else self.ours

    @property
    def judged(self) -> str:
        """The judge's answer where it names a letter, else ours."""
        return self.judge if self.judge is not None and read_letter(self.judge) is not None else self.ours

    @property
    def is_left_to_us(self) -> bool:
        """Whether the judge was asked and named no letter."""
        return self.is_asked and (self.judge is None or read_letter(self.judge) is None)


def decide(items: Sequence[Item], ours: Mapping[str, str], other: Mapping[str, str]) -> list[Decision]:
    """Finds where the two disagree: texts by `Item.key`."""
    found = []
    for item in items:
        texts = ours.get(item.key, ""), other.get(item.key, "")
        letters = [read_letter(text) for text in texts]
        found.append(Decision(item, *texts, is_asked=letters[0] != letters[1] or None in letters))
    return found


def ensemble_figures(benchmark: Benchmark, decisions: Sequence[Decision], *, with_judge: bool) -> list[Figure]:
    """Both alone, together, and either; of the judge also how many it decided right, wrong, or left to us."""

    def marked(texts: Sequence[str]) -> list[Marked]:
        pairs = zip(decisions, texts, strict=True)
        return [Marked(each.item, benchmark.mark(each.item, text.strip()), text) for each, text in pairs]

    ours, other = marked([each.ours for each in decisions]), marked([each.other for each in decisions])
    complement = marked([each.complement for each in decisions])
    judged = marked([each.judged for each in decisions])
    either = [Marked(x.item, Mark(max(x.mark.points, y.mark.points), ""), "") for x, y in zip(ours, other, strict=True)]
    figures = [
        accuracy("judge", judged, is_main=True) if with_judge else accuracy("complement", complement, is_main=True),
        *([accuracy("complement", complement)] if with_judge else []),
        accuracy("ours", ours),
        accuracy("other", other),
        accuracy("either right", either),
    ]
    name, shown = ("judge", judged) if with_judge else ("complement", complement)
    by_category = [replace(each, name=f"{name}, {each.name}", is_main=False) for each in benchmark.figures(shown)[1:]]
    n_asked = sum(each.is_asked for each in decisions)
    counts = {"the two disagree": n_asked}
    if with_judge:
        left = sum(each.is_left_to_us for each in decisions)
        decided = [
            mark.mark.points == 1
            for mark, each in zip(judged, decisions, strict=True)
            if each.is_asked and not each.is_left_to_us
        ]
        counts |= {"judged right": sum(decided), "judged wrong": len(decided) - sum(decided), "left to us": left}
    counted = [Figure(name, float(n), len(decisions), method="count") for name, n in counts.items()]
    return [*figures, *counted, *by_category]


def other_question(problem: Problem, shots: Sequence[Problem]) -> Question:
    """A problem as a text-only model is asked it, after two solved ones."""
    messages = [{"role": "system", "content": _SYSTEM}]
    for shot in shots:
        messages += [
            {"role": "user", "content": f"Can you explain {ask(shot, FORM)}?"},
            {"role": "assistant", "content": tell(shot, FORM)},
        ]
    messages.append({"role": "user", "content": f"Can you explain {ask(problem, FORM)}?"})
    return Question(tuple(messages), 0.0, MAX_TOKENS)


def judge_question(decision: Decision) -> Question:
    """A question whose two answers differ, as the judge is asked it."""
    texts = [decision.ours, decision.other]
    if first_of(decision) == "other":
        texts.reverse()
    asked = decision.item.text.removesuffix(LETTER).rstrip()  # which asks for the letter alone
    content = f"[Question]\n{asked}\n\n[Answer 1]\n{texts[0]}\n\n[Answer 2]\n{texts[1]}\n\n{_JUDGE_RULE}"
    messages = ({"role": "system", "content": _JUDGE_SYSTEM}, {"role": "user", "content": content})
    return Question(messages, 0.0, MAX_TOKENS)


def first_of(decision: Decision) -> str:
    """Whose answer stands first: "ours" or "other", half and half by the question's id."""
    return "ours" if hashlib.sha256(decision.item.key.encode()).digest()[0] % 2 == 0 else "other"


def wording_digest() -> str:
    """Of what the judge is told, in 8 digits."""
    return hashlib.sha256(f"{_JUDGE_SYSTEM}\n{_JUDGE_RULE}".encode()).hexdigest()[:8]

"""What a run's directory says: what was asked and how, the answers, and what a judge said of them.

run.json        settings, which a later call must have as well, and where the questions come from
answers.jsonl   one line for each answer, written when it is complete
reviews.jsonl   where a judge takes part; reviews-2.jsonl of a second judging, reviews-swapped.jsonl of exchanged places
scores.json     figures
wrong.jsonl     what was not right
upload.json     what a benchmark's server takes, where labels are secret
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

from edge_llava.errors import DataError
from edge_llava.evaluation.benchmarks.benchmark import Benchmark, Figure, Mark, Marked
from edge_llava.evaluation.benchmarks.judged import Judged, Review
from edge_llava.evaluation.benchmarks.kinds import KINDS
from edge_llava.evaluation.benchmarks.registry import read_source
from edge_llava.evaluation.benchmarks.reviews import HIGHEST_RATING, read_reviews
from edge_llava.evaluation.benchmarks.sampling import Part
from edge_llava.evaluation.benchmarks.scoring import Scores, score
from edge_llava.evaluation.benchmarks.source import Source
from edge_llava.evaluation.judging.judge import Answered, find_reviews, reviews_that_all_have
from edge_llava.home.json_files import read_json, read_text, write_text

RUN_NAME, ANSWERS_NAME = "run.json", "answers.jsonl"


def is_run(path: Path) -> bool:
    """Whether a path is the directory of a run."""
    return (path / RUN_NAME).is_file()


def find_judged(benchmark: Benchmark) -> Judged | None:
    """How answers are judged by a model, of a benchmark or a part of one; None where they are read."""
    whole = benchmark.whole if isinstance(benchmark, Part) else benchmark
    return whole if _is_judged(whole) else None


def _is_judged(benchmark: Benchmark) -> TypeGuard[Judged]:
    return hasattr(benchmark, "judge_defaults")


def digest_questions(benchmark: Benchmark) -> str:
    """Of all questions of a benchmark in any order, in 16 digits: their keys, texts and labels."""
    whole = benchmark.whole if isinstance(benchmark, Part) else benchmark
    return digest_texts(sorted(json.dumps([item.key, item.text, item.label]) for item in whole.items))


def digest_texts(texts: Iterable[str]) -> str:
    """Of texts in their order, in 16 digits."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:16]


def read_settings(directory: Path) -> tuple[dict[str, Any], Source]:
    """Reads run.json: the settings of a run, and where its questions come from.

    Raises:
        DataError: If it cannot be read or is something else.
    """
    path = directory / RUN_NAME
    values = read_json(path)
    settings = values.get("settings") if isinstance(values, dict) else None
    if not isinstance(settings, dict):
        raise DataError(f"{path} is not the settings of a run. Choose another directory with -o.")
    return settings, Source.from_dict(values.get("questions"), path)


@dataclass(frozen=True)
class RunRecord:
    """A run that was read, finished or not.

    Attributes:
        directory: Its place.
        settings: What decided its answers.
        benchmark: The questions that were asked: all, or a part.
    """

    directory: Path
    settings: Mapping[str, Any]
    benchmark: Benchmark

    @property
    def name(self) -> str:
        """For people: the directory as it was named."""
        return str(self.directory)

    def answers(self) -> dict[str, str]:
        """Texts by `Item.key`; {} where nothing was answered.

        Raises:
            DataError: If the file cannot be read.
        """
        return {key: answered.text for key, answered in self.answered().items()}

    def answered(self) -> dict[str, Answered]:
        """Answers by `Item.key`. A last line without an end, which a kill leaves, is none.

        Raises:
            DataError: As `answers`.
        """
        path = self.directory / ANSWERS_NAME
        text = read_text(path) if path.is_file() else ""
        items, found = {item.key: item for item in self.benchmark.items}, {}
        for number, line in enumerate(text.split("\n")[:-1], 1):
            try:
                record = json.loads(line)
                facts, said = record["metadata"], str(record["text"])
                if facts["key"] in items:  # a smaller sample may be looked at than was asked
                    cut_off = facts["finish_reason"] == "length"
                    found[facts["key"]] = Answered(
                        items[facts["key"]], said, str(record["answer_id"]), is_cut_off=cut_off
                    )
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path}, line {number} is no answer of a run.") from error
        return found

    def scores(self) -> Scores:
        """What the answers are worth, and what a judge said of them.

        Raises:
            DataError: As `answers`; or if reviews cannot be read.
        """
        answered = self.answered()
        scores = score(self.benchmark, {key: each.text for key, each in answered.items()})
        n_cut_off = sum(each.is_cut_off for each in answered.values())
        scores = replace(scores, n_cut_off=n_cut_off, variant=f"{scores.variant}{self._limit}")
        judged = find_judged(self.benchmark)
        return scores if judged is None else self._judge(scores, judged)

    @property
    def _limit(self) -> str:
        """What makes the run one that cannot be compared with published ones, if anything does."""
        most, usual = self.settings.get("max_tokens"), KINDS[self.benchmark.name].n_tokens
        is_less = isinstance(most, int) and most < usual
        return f"; answers of at most {most} tokens, published ones {usual}: not comparable" if is_less else ""

    @property
    def judges(self) -> list[str]:
        """Who judged the answers, in which wording and at which temperature."""
        judged = find_judged(self.benchmark)
        places = (False, True) if judged is not None else ()
        reviews = [r for swapped in places for each in self._read_reviews(judged, swapped=swapped) for r in each]
        return sorted({review.judge for review in reviews})

    def write(self, scores: Scores) -> None:
        """Writes scores.json, wrong.jsonl, and upload.json where there is one.

        Raises:
            DataError: If they cannot be written.
        """
        is_read = scores.figures and find_judged(self.benchmark) is None
        wrong = scores.wrong() if is_read else []
        write_text(self.directory / "scores.json", json.dumps(scores.to_dict(), indent=2, sort_keys=True) + "\n")
        write_text(self.directory / "wrong.jsonl", "".join(f"{json.dumps(line)}\n" for line in wrong))
        upload = self.benchmark.upload(self.answers())
        if upload is not None:
            write_text(self.directory / "upload.json", json.dumps(upload) + "\n")

    def _judge(self, scores: Scores, judged: Judged) -> Scores:
        """The scores with what reviews say. What was not rated has no text, so that nothing compares it."""
        plain, exchanged = (self._read_reviews(judged, swapped=swapped) for swapped in (False, True))
        judgings = [*plain, *exchanged]
        reviewed = set.intersection(*({r.question_id for r in each} for each in judgings)) if judgings else set()
        waits = [each.text is not None and str(each.item.question_id) not in reviewed for each in scores.marked]
        if not plain:
            return replace(scores, n_unjudged=sum(waits))
        counting = [each.item for each, wait in zip(scores.marked, waits, strict=True) if not wait]
        figures = judged.judged_figures(plain, counting)
        if exchanged:
            figures = _beside(figures, judged.judged_figures(exchanged, counting))
        reviews = [review for each in judgings for review in each]
        points = _mean_points(reviews)
        return replace(
            scores,
            marked=tuple(_rate(each, points.get(str(each.item.question_id))) for each in scores.marked),
            figures=tuple(figures),
            n_unrated=sum(review.ratings is None for review in reviews),
            n_unjudged=sum(waits),
        )

    def _read_reviews(self, judged: Judged | None, *, swapped: bool) -> list[list[Review]]:
        """Of the questions of this run that every judging has."""
        if judged is None:
            return []
        own = {str(item.question_id) for item in self.benchmark.items}
        paths = [path for path in find_reviews(self.directory, swapped=swapped) if path.stat().st_size]
        judgings = [[r for r in read_reviews(path, judged.read_reply) if r.question_id in own] for path in paths]
        return reviews_that_all_have(judgings) if judgings else []


def _rate(marked: Marked, mark: Mark | None) -> Marked:
    return replace(marked, text=None) if mark is None else replace(marked, mark=mark)


def _mean_points(reviews: Sequence[Review]) -> dict[str, Mark]:
    """What each answer is worth to the judge, 0 to 1, by question_id."""
    ratings: dict[str, list[float]] = defaultdict(list)
    for review in reviews:
        if review.ratings is not None:
            highest = HIGHEST_RATING if len(review.ratings) > 1 else 1.0
            ratings[review.question_id].append(review.ratings[-1] / highest)
    return {id_: Mark(sum(own) / len(own), f"{len(own)} reviews") for id_, own in ratings.items()}


def _beside(figures: Sequence[Figure], exchanged: Sequence[Figure]) -> list[Figure]:
    """Figures of both places, and the mean of what tables show."""
    main, other = figures[0], exchanged[0]
    values = [figure.value for figure in (main, other) if figure.value is not None]
    mean = sum(values) / len(values) if values else None
    return [
        replace(main, name=f"{main.name}, mean of both places", value=mean, low=None, high=None, method=None),
        *(replace(figure, is_main=False) for figure in figures),
        *(replace(figure, name=f"{figure.name}, places exchanged", is_main=False) for figure in exchanged),
    ]


def open_run(directory: Path, moved: Sequence[Path] = ()) -> RunRecord:
    """Opens a run to score, judge or compare it.

    Args:
        directory: Of the run.
        moved: Where its data lie now; () where they lay.

    Raises:
        DataError: If it is no run, its data cannot be read, or they are others.
    """
    settings, source = read_settings(directory)
    if moved:
        source = source.moved(tuple(moved))
    benchmark = read_source(source)
    if digest_questions(benchmark) != settings.get("questions"):
        raise DataError(
            f"{', '.join(map(str, source.paths))}: these are not the questions that {directory} was asked. "
            "Name its data after it."
        )
    return RunRecord(directory, settings, benchmark)

"""The other benchmarks: how answers are read, what they are worth, and which files are refused."""

from __future__ import annotations

import base64
import json

import pytest

from edge_llava.errors import DataError
from edge_llava.evaluation.benchmarks import mmbench, mme, pope
from edge_llava.evaluation.benchmarks.answers import Answer, join_answers, read_answers
from edge_llava.evaluation.benchmarks.kinds import KINDS
from edge_llava.evaluation.benchmarks.registry import read_benchmark
from edge_llava.evaluation.benchmarks.reviews import Review, read_ratings, read_reviews, relative_scores
from edge_llava.evaluation.benchmarks.scoring import score
from edge_llava.evaluation.benchmarks.source import ReadOptions
from edge_llava.evaluation.benchmarks.vqa_text import (
    CONTRACTIONS,
    normalize,
    normalize_vqav2,
    textvqa_accuracy,
    vqav2_accuracy,
)

SHORT = "Answer the question using a single word or phrase."
TEN = ["blue"] * 3 + ["navy"] * 4 + ["dark blue", "Blue.", "teal"]


def values(scores):
    return {figure.name: figure.value for figure in scores.figures}


def write(path, data):
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


# --- POPE


def write_pope(path, rows):
    lines = [
        {"question_id": n, "image": f"{n}.jpg", "text": f"Is there a thing {n}?", "label": label}
        for n, label in enumerate(rows, 1)
    ]
    return write(path, "".join(json.dumps(line) + "\n" for line in lines))


def test_pope(tmp_path):
    labels = ["yes", "no", "no", "yes", "no", "no"]
    texts = ["Yes", "No, there is not.", "Yes, there is a dog. No cat.", "There is no dog", "no", "Nope"]
    benchmark = read_benchmark("pope", [write_pope(tmp_path / "coco_pope_popular.json", labels)])
    found = values(score(benchmark, {str(n): text for n, text in enumerate(texts, 1)}))
    assert found == pytest.approx(
        {"F1, popular": 40, "accuracy, popular": 50, "precision, popular": 100 / 3, "recall, popular": 50,
         "answers yes, popular": 50}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [("No.", "no"), ("not sure", "no"), ("NO", "yes"), ("No!", "yes"), ("no\nreally", "yes"), ("Yes. No.", "yes"),
     ("None", "yes"), ("", "yes"), ("no, sir", "no")],
)  # fmt: skip
def test_pope_reads_as_published(text, said):
    assert pope.read_answer(text) == said


def test_pope_of_three_sets(tmp_path):
    """Ids are LLaVA's; the table's figure is the mean of three F1."""
    paths = [write_pope(tmp_path / f"coco_pope_{name}.json", ["yes", "no"]) for name in ("random", "adversarial")]
    benchmark = read_benchmark("pope", paths)
    assert [item.question_id for item in benchmark.items] == [10_000_001, 10_000_002, 1, 2]
    texts = dict(zip((item.key for item in benchmark.items), ("Yes", "No", "Yes", "Yes"), strict=True))
    found = values(score(benchmark, texts))
    assert found["F1, mean of the sets"] == pytest.approx((100 + 200 / 3) / 2)
    assert "2 random questions, the published scores have 2,910" in benchmark.variant


def test_labels_of_another_set_are_refused(tmp_path):
    benchmark = read_benchmark("pope", [write_pope(tmp_path / "coco_pope_random.json", ["yes", "no"])])
    answers = [Answer(1, f"Is there a cat?\n{SHORT}", "Yes"), Answer(2, benchmark.items[1].text, "No")]
    with pytest.raises(DataError, match=r"asked in other words: 1 \(1: 'Is there a cat\?"):
        join_answers(benchmark, answers, "a.jsonl")


def test_surplus_and_doubled_answers_are_refused(tmp_path):
    benchmark = read_benchmark("pope", [write_pope(tmp_path / "coco_pope_random.json", ["yes", "no"])])
    answers = [Answer(id_, "", "Yes") for id_ in (1, 1, *range(8, 16))]
    with pytest.raises(DataError) as caught:
        join_answers(benchmark, answers, "a.jsonl")
    assert "answers that belong to no question: 8 (8, 9, 10, 11, 12 and 3 more)" in str(caught.value)
    assert "questions with more than one answer: 1 (1)" in str(caught.value)


@pytest.mark.parametrize("names", [["labels.json"], ["coco_pope_random.json", "more_random.json"], []])
def test_pope_files_have_their_names(tmp_path, names):
    with pytest.raises(DataError, match="POPE"):
        read_benchmark("pope", [write_pope(tmp_path / name, ["yes"]) for name in names])


# --- VQA


@pytest.mark.parametrize(
    ("text", "expected", "of_vqav2"),
    [
        ("The 3.5 km", "3.5 km", "3.5 km"),
        ("1,000", "1000", "1000"),
        ("1,000-2,000 people", "1000 2000 people", "10002000 people"),
        ("King's Cross", "king 's cross", "king's cross"),
        ("t-shirt", "t shirt", "t shirt"),
        ("well - known", "well known", None),
        ("a cat, and the dog!", "cat and dog", "cat and dog"),
        ("it's 5:30 p.m.", "it 's 5:30 pm", None),
        ("www.x.com", "wwwxcom", None),
        ("dont know", "don't know", "don't know"),
        ("None", "0", None),
        ("Ten o'clock", "10 o'clock", None),
        ("one-way", "1 way", None),
        ("St. Mary's", "st mary 's", None),
        ("U.S.A.", "usa", None),
        ("8/10", "8 10", None),
        ("!!!", "", None),
    ],
)
def test_vqa_forms(text, expected, of_vqav2):
    assert normalize(text) == expected
    if of_vqav2 is not None:
        assert normalize_vqav2(text) == of_vqav2


def test_contractions():
    assert len(CONTRACTIONS) == 75 + 34 + 11
    assert not {"id", "ill", "well", "were", "its", "lets", "shed"} & set(CONTRACTIONS)
    assert CONTRACTIONS["couldnt've"] == CONTRACTIONS["couldn'tve"] == "couldn't've"
    assert CONTRACTIONS["somebody'd"] == "somebodyd"


@pytest.mark.parametrize(
    ("text", "points"), [("blue", 1), ("Blue", 1), ("navy", 1), ("dark blue", 0.3), ("teal", 0.3), ("red", 0)]
)
def test_textvqa_accuracy(text, points):
    assert textvqa_accuracy(text, TEN) == pytest.approx(points)


@pytest.mark.parametrize(("k", "points"), [(1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (5, 1)])
def test_people_who_agree(k, points):
    answers = ["x"] * k + [f"other {n}" for n in range(10 - k)]
    assert textvqa_accuracy("x", answers) == pytest.approx(points)


@pytest.mark.parametrize(
    ("text", "answers", "points"),
    [
        ("Yes", ["yes"] * 10, 0), ("yes", ["yes"] * 10, 1), ("Yes", ["yes"] * 9 + ["no"], 1),
        ("the two cats", ["2 cats"] * 3 + ["cats"] * 7, 0.9), ("two", ["2"] * 10, 0),
        ("1000", ["1,000"] * 4 + ["1000"] * 6, 1),
    ],
)  # fmt: skip
def test_vqav2s_own_accuracy(text, answers, points):
    assert vqav2_accuracy(text, answers) == pytest.approx(points)
    assert vqav2_accuracy(normalize("Yes"), ["yes"] * 10) == 1


def textvqa(path, n_answers=10):
    entries = [
        {"question_id": n, "image_id": "a", "question": question, "answers": ["blue"] * n_answers}
        for n, question in enumerate(("what colour?", "which brand?"))
    ]
    return write(path / "val.json", {"data": entries})


def test_textvqa_joins_by_image_and_question(tmp_path):
    asked = [
        {"question_id": "a", "image": "a.jpg", "text": f"{text}\nReference OCR token: X, Y\n{SHORT}", "category": "d"}
        for text in ("Which brand?", "What colour?")
    ]
    questions = write(tmp_path / "q.jsonl", "".join(json.dumps(each) + "\n" for each in asked))
    benchmark = read_benchmark("textvqa", [textvqa(tmp_path), questions])
    answers = [Answer("a", each["text"], text) for each, text in zip(asked, ("red", "Blue"), strict=True)]
    scores = score(benchmark, join_answers(benchmark, answers, "a.jsonl"))
    assert [each.mark.points for each in scores.marked] == [1, 0]
    assert values(scores) == {"VQA accuracy": 50}
    assert benchmark.variant == "val, with OCR tokens"
    with pytest.raises(DataError, match="asked with OCR tokens"):
        join_answers(read_benchmark("textvqa", [textvqa(tmp_path)]), answers, "a.jsonl")
    lower = [Answer("a", f"{text}\n{SHORT}", "x") for text in ("what  colour?", "WHICH brand?")]
    assert len(join_answers(read_benchmark("textvqa", [textvqa(tmp_path)]), lower, "a.jsonl")) == 2


def test_textvqa_without_ocr_tokens_says_so(tmp_path):
    benchmark = read_benchmark("textvqa", [textvqa(tmp_path)])
    assert benchmark.items[0].text == f"What colour?\n{SHORT}"
    assert benchmark.variant == "val, without OCR tokens"


def test_other_than_ten_answers_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"data\[1\]: not a question, an image_id and 10 answers"):
        read_benchmark("textvqa", [textvqa(tmp_path, n_answers=9)])


def test_vqav2(tmp_path):
    questions = [
        {"image_id": 7, "question": "Two?", "question_id": 70},
        {"image_id": 7, "question": "S?", "question_id": 71},
    ]
    annotations = [
        {"question_id": id_, "image_id": 7, "question_type": "is", "answer_type": kind,
         "answers": [{"answer": answer, "answer_id": n} for n in range(10)]}
        for id_, kind, answer in ((70, "number", "2"), (71, "yes/no", "yes"))
    ]  # fmt: skip
    paths = [
        write(tmp_path / "a.json", {"annotations": annotations}),
        write(tmp_path / "q.json", {"questions": questions}),
    ]
    benchmark = read_benchmark("vqav2", paths)
    assert benchmark.items[0].image == "COCO_val2014_000000000007.jpg"
    found = values(score(benchmark, {"70": "two", "71": "No"}))
    assert found["VQA accuracy"] == 50
    assert (found["answer type number"], found["answer type yes/no"]) == (100, 0)


def test_vizwiz(tmp_path):
    entry = {"image": "v.jpg", "question": "What?", "answers": [{"answer": "unanswerable"}] * 10, "answerable": 0}
    benchmark = read_benchmark("vizwiz", [write(tmp_path / "val.json", [entry])])
    assert "respond with 'Unanswerable'" in benchmark.items[0].text
    assert values(score(benchmark, {"v.jpg": "Unanswerable"})) == {"VQA accuracy": 100, "answerable no": 100}
    secret = {"image": "w.jpg", "question": "What?"}
    test = read_benchmark("vizwiz", [write(tmp_path / "test.json", [secret, secret | {"image": "u.jpg"}])])
    scores = score(test, {"w.jpg": "A 1,000."})
    assert (test.variant, scores.figures) == ("test, answers are secret", ())
    assert test.upload({"w.jpg": "A 1,000."}) == [
        {"image": "w.jpg", "answer": "1000"}, {"image": "u.jpg", "answer": ""},
    ]  # fmt: skip
    assert benchmark.upload({}) is None
    with pytest.raises(DataError, match="some have none"):
        read_benchmark("vizwiz", [write(tmp_path / "mixed.json", [entry, secret])])


def test_vqav2s_test_sets_are_uploaded(tmp_path):
    questions = [{"question_id": 7, "image_id": 9, "question": "Is it?"}]
    data = {"data_subtype": "test-dev2015", "questions": questions}
    benchmark = read_benchmark("vqav2", [write(tmp_path / "q.json", data)])
    assert benchmark.items[0].image == "COCO_test2015_000000000009.jpg"
    assert benchmark.upload({"7": "Yes, it is a dog."}) == [{"question_id": 7, "answer": "yes it is dog"}]
    with pytest.raises(DataError, match="need their annotations as well"):
        read_benchmark("vqav2", [write(tmp_path / "q.json", data | {"data_subtype": "val2014"})])


# --- GQA, SEED-Bench


@pytest.mark.parametrize(
    ("text", "answer", "right"), [("Yes.", "yes", 1), ("Left..", "left", 1), ("a dog", "dog", 0), ("dogs", "dog", 0)]
)
def test_gqa_reads_exactly(tmp_path, text, answer, right):
    data = {"1": {"imageId": "n1", "question": "What?", "answer": answer, "isBalanced": True}}
    benchmark = read_benchmark("gqa", [write(tmp_path / "testdev_balanced_questions.json", data)])
    assert benchmark.mark(benchmark.items[0], text).points == right


def test_gqa(tmp_path):
    kinds = ("query", "query", "verify", "compare")
    data = {
        str(n): {"imageId": f"n{n}", "question": "What?", "answer": "yes", "types": {"structural": kind}}
        for n, kind in enumerate(kinds)
    }
    data["9"] = {"imageId": "n9", "question": "What?", "answer": "yes", "isBalanced": False}
    benchmark = read_benchmark("gqa", [write(tmp_path / "testdev_balanced_questions.json", data)])
    found = values(score(benchmark, dict(zip("0123", ("yes", "no", "Yes.", "yes"), strict=True))))
    assert (found["accuracy"], found["open"], found["binary"]) == (75, 50, 100)
    assert benchmark.variant == "testdev balanced"


def test_seed_bench_counts_a_doubled_question_twice(tmp_path):
    def question(id_, kind, answer):
        choices = {f"choice_{letter}": letter for letter in "abcd"}
        return {"question_id": id_, "data_id": f"{id_}.jpg", "data_type": kind, "question": "Q?", **choices,
                "answer": answer, "question_type_id": 1}  # fmt: skip

    data = {
        "questions": [question("5", "image", "A"), question(6, "video", "B")],
        "question_type": {"Scene Understanding": 1},
    }
    benchmark = read_benchmark("seed", [write(tmp_path / "SEED-Bench.json", data)])
    found = values(score(benchmark, {"5": "A", "6": "B."}))
    assert found == {"all": 50, "data image": 100, "data video": 0, "type Scene Understanding": 50}
    data["questions"] += [question(5, "image", "A")]
    benchmark = read_benchmark("seed", [write(tmp_path / "SEED-Bench.json", data)])
    once = [Answer("5", "", "A"), Answer(6, "", "B")]
    for answers in (once, [*once, Answer("5", "", "A")]):
        found = values(score(benchmark, join_answers(benchmark, answers, "a.jsonl")))
        assert (found["all"], found["data image"]) == (100, 100)
    twice = values(score(benchmark, join_answers(benchmark, [*once, Answer("5", "", "B")], "a.jsonl")))
    assert twice["data image"] == 50
    with pytest.raises(DataError, match="more than one answer"):
        join_answers(benchmark, [*once, Answer(5, "", "A"), Answer(5, "", "A")], "a.jsonl")
    data["questions"] += [question(5, "image", "B")]
    with pytest.raises(DataError, match="another than before for 5"):
        read_benchmark("seed", [write(tmp_path / "SEED-Bench.json", data)])


# --- MME


@pytest.mark.parametrize(
    ("text", "said"),
    [("Yes", "yes"), ("No.", "no"), ("Now", "no"), ("eyes", "yes"), ("none of", "no"), ("The answer is yes", ""),
     ("Unknown", ""), ("I know", "")],
)  # fmt: skip
def test_mme_reads_as_published(text, said):
    assert mme.read_answer(text) == said


def test_mme(tmp_path):
    directory = tmp_path / "existence"
    directory.mkdir()
    for n in range(2):
        lines = [f"Is it {n}?  Please answer yes or no.\tYes", f"Is it {n + 5}? Please answer yes or no.\tNo"]
        (directory / f"{n}.txt").write_text("\n".join(lines))
        (directory / f"{n}.png").write_bytes(b"")
    benchmark = read_benchmark("mme", [tmp_path])
    assert benchmark.items[0].text == f"Is it 0?\n{SHORT}"
    assert benchmark.items[0].question_id == benchmark.items[1].question_id == "existence/0.png"
    answers = [
        Answer(i.question_id, i.text, t) for i, t in zip(benchmark.items, ("Yes", "No", "Yes", "yes"), strict=True)
    ]
    found = values(score(benchmark, join_answers(benchmark, answers, "a.jsonl")))
    assert found == {"perception": 125, "existence": 125}
    theirs = [
        Answer(f"existence/images/{answer.question_id[-5]}.jpg", f"{text}  Please answer yes or no.", answer.text)
        for answer in answers
        for text in [answer.prompt.partition("\n")[0].replace("Is it", "Is  it")]
    ]
    assert values(score(benchmark, join_answers(benchmark, theirs, "a.jsonl"))) == found
    with pytest.raises(DataError, match="answers need their prompt"):
        join_answers(benchmark, [Answer("existence/0.png", "", "yes")], "a.jsonl")


def test_mme_needs_one_yes_and_one_no(tmp_path):
    (tmp_path / "count").mkdir()
    write(tmp_path / "count" / "1.txt", "A?\tYes\nB?\tYes\n")
    with pytest.raises(DataError, match=r"1\.txt: not two questions"):
        read_benchmark("mme", [tmp_path])


# --- MMBench


def write_mmbench(path, questions):
    """Rows of every rotation; questions maps a base index to (options, answer)."""
    lines = ["index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage"]
    for base, (options, answer) in questions.items():
        for turn in range(len(options)):
            cells = [*options, *["nan"] * (4 - len(options))]
            picture = base64.b64encode(b"x").decode()
            lines.append("\t".join([str(base + turn * 1_000_000), "What?", "nan", *cells, answer, "c", picture]))
            options, answer = [options[-1], *options[:-1]], "ABCD"[("ABCD".index(answer) + 1) % len(options)]
    return write(path / "dev.tsv", "\n".join(lines))


@pytest.mark.parametrize(("third", "circular", "first"), [("A", 100, 100), ("B", 50, 100)])
def test_mmbench(tmp_path, third, circular, first):
    path = write_mmbench(tmp_path, {5: (["cat", "dog", "cow"], "B"), 9: (["x", "y"], "A")})
    benchmark = read_benchmark("mmbench", [path])
    rows = {item.question_id: item.label for item in benchmark.items}
    assert rows[1_000_005] == ("C", ("cow", "cat", "dog"))
    assert rows[2_000_005] == ("A", ("dog", "cow", "cat"))
    texts = {"5": "B", "1000005": "C. dog", "2000005": third, "9": "x", "1000009": "The B"}
    found = values(score(benchmark, texts))
    assert (found["circular accuracy"], found["first-order accuracy"]) == (circular, first)
    assert (found["circular, category c"], found["first-order, category c"]) == (circular, first)
    assert len({figure.name for figure in score(benchmark, texts).figures}) == len(found)
    before = [Answer(item.question_id, item.text.rpartition("\n")[0], "A") for item in benchmark.items]
    assert len(join_answers(benchmark, before, "LLaVA's own file")) == 5


def test_mmbench_makes_the_rotations_that_a_file_lacks(tmp_path):
    whole = read_benchmark(
        "mmbench", [write_mmbench(tmp_path, {5: (["cat", "dog", "cow"], "B"), 9: (["x", "y"], "A")})]
    )
    lines = (tmp_path / "dev.tsv").read_text().splitlines()
    short = write(tmp_path / "short.tsv", "\n".join([lines[0], *(line for line in lines[1:] if line[1] == "\t")]))
    first = read_benchmark("mmbench", [short])
    made = read_benchmark("mmbench", [short], ReadOptions(circular=True))
    assert (len(first.items), first.variant) == (2, "without rotations: first-order only")
    assert made.variant == "circular, rotations made here"
    assert {item.key: (item.text, item.label, item.image) for item in made.items} == {
        item.key: (item.text, item.label, item.image) for item in whole.items
    }
    with pytest.raises(DataError, match="contains the rotations already"):
        read_benchmark("mmbench", [tmp_path / "dev.tsv"], ReadOptions(circular=True))


def test_mmbench_in_chinese_asks_in_chinese(tmp_path):
    benchmark = read_benchmark("mmbench-cn", [write_mmbench(tmp_path, {9: (["猫", "狗"], "A")})])
    assert benchmark.name == "mmbench-cn"
    assert benchmark.items[0].text == "What?\nA. 猫\nB. 狗\n请直接回答选项字母。"


def test_options_of_other_benchmarks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="circular are not for pope"):
        read_benchmark("pope", [tmp_path], ReadOptions(circular=True))
    with pytest.raises(ValueError, match="there is no benchmark 'pip'"):
        read_benchmark("pip", [tmp_path])


@pytest.mark.parametrize(
    ("text", "letter"),
    [("A or D", ""), ("B", "B"), ("B)", "B"), ("b", ""), ("It is C", "C"), ("C or B", ""), ("DOG", "B"),
     ("Option B, surely so", ""), ("D", "")],
)  # fmt: skip
def test_mmbench_letters(text, letter):
    assert mmbench.read_letter(text, ["cat", "dog", "cow"]) == letter


def test_mmbench_without_answers(tmp_path):
    path = write(tmp_path / "test.tsv", "index\tquestion\tA\tB\n1\tWhat?\tx\ty\n")
    with pytest.raises(DataError, match=r"has no columns answer\. Test files have no answers"):
        read_benchmark("mmbench", [path])


# --- reviews of a judge


@pytest.mark.parametrize(
    ("text", "ratings"),
    [("8 7\nBecause", (8, 7)), ("8,7", (8, 7)), ("8.5 9", (8.5, 9)), ("8 7.", (8, 7)), ("8, 7", (8, 7)),
     (" 8 7", (8, 7)), ("8  7", (8, 7)), ("8\t7", (8, 7)), ("\n8 7", (8, 7)), ("Scores: 8 7", None), ("8\n7", None),
     ("8/10 7/10", None), ("**8 7**", None), ("nan 3", None), ("11 0", None), ("", None)],
)  # fmt: skip
def test_ratings(text, ratings):
    assert read_ratings(text) == ratings


def test_relative_scores_are_ratios_of_means():
    pairs = [("conv", 8, 7), ("conv", 9, 9), ("detail", 8, 6), ("complex", 9, 9.5)]
    reviews = [Review(str(n), category, "", (a, b)) for n, (category, a, b) in enumerate(pairs)]
    found = {figure.name: figure.value for figure in relative_scores([[*reviews, Review("9", "conv", "", None)]])}
    relative = {name: value for name, value in found.items() if name.startswith("relative")}
    assert relative == {
        "relative score, all": 92.6, "relative score, conv": 94.1, "relative score, detail": 75.0,
        "relative score, complex": 105.6,
    }  # fmt: skip
    assert (found["10 x references, all"], found["10 x answers, all"]) == pytest.approx((85, 78.75))


def test_several_judgings_are_averaged(tmp_path):
    files = []
    for name, ratings in (("a", "8 6"), ("b", "8 7")):
        line = {"id": 1, "question_id": 0, "category": "llava_bench_conv", "content": f"{ratings}\nfine"}
        files.append(write(tmp_path / f"{name}.jsonl", json.dumps(line)))
    figures = {figure.name: figure.value for figure in relative_scores([read_reviews(path) for path in files])}
    assert figures["relative score, all"] == pytest.approx((75.0 + 87.5) / 2)
    assert figures["relative score, judging 2"] == 87.5
    with pytest.raises(DataError, match="of different questions"):
        relative_scores([[Review("0", "conv", "", (8, 8))], [Review("1", "conv", "", (8, 8))]])


# --- files


@pytest.mark.parametrize("name", KINDS)
def test_data_of_another_kind_are_refused(tmp_path, name):
    """With a message, whatever they are."""
    for n, data in enumerate(("", "[]", "{}", '[{"a": 1}]', "not JSON", "a\tb\n1\t2\n", '{"questions": [1]}')):
        path = write(tmp_path / f"coco_pope_random-{n}.json", data)
        with pytest.raises(DataError):
            read_benchmark(name, [path])
    with pytest.raises(DataError):
        read_benchmark(name, [tmp_path / "missing"])


@pytest.mark.parametrize(
    "change",
    [{"answers": None}, {"answers": ["y"] * 10}, {"question_id": [1]}, {"question_id": 8}, {"answers": [{}] * 10}],
)
def test_vqav2_of_other_shapes(tmp_path, change):
    annotation = {"question_id": 7, "answers": [{"answer": "y"}] * 10} | change
    for question in ({"question": "S?", "image_id": 7}, {"image_id": 7}, {"question": "S?", "image_id": "COCO_7"}):
        questions = write(tmp_path / "q.json", {"questions": [{"question_id": 7} | question, {"question_id": [1]}]})
        with pytest.raises(DataError):
            read_benchmark("vqav2", [questions, write(tmp_path / "a.json", {"annotations": [annotation]})])


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("seed", {"questions": [{"question_id": "1"}], "question_type": {"x": [1]}}),
        ("mmbench", "index\tquestion\tA\tB\tanswer\n1\ta\rb\tx\ty\tA\n"),
        ("mmbench", f"index\tquestion\tA\tB\tanswer\n{'1' * 5000}\tq\tx\ty\tA\n"),
        ("scienceqa", [{"id": 1, "image": ["x"], "conversations": [{"value": "Q\nA. x\nB. y"}, {"value": "A"}]}]),
        ("vizwiz", [{"image": "v", "question": "q", "answers": [{"answer": "x"}] * 10}] * 2),
        ("scienceqa", [{"id": 1, "conversations": [{"value": "Q\nA. x\nB. y"}, {"value": "A"}]}] * 2),
    ],
)
def test_data_of_other_shapes(tmp_path, name, data):
    """The last two contain a question twice."""
    with pytest.raises(DataError):
        read_benchmark(name, [write(tmp_path / "data.json", data)])


def test_wrong_answer_files(tmp_path):
    lines = ['{"question_id": 1, "text": "a"}', '{"question_id": 1.5, "text": "a"}', '{"question_id": 2}', "{"]
    with pytest.raises(DataError) as caught:
        read_answers(write(tmp_path / "a.jsonl", "\n".join(lines)))
    for fault in ("line 2: question_id", "line 3: text is missing", "line 4"):
        assert fault in str(caught.value)
    with pytest.raises(DataError, match="contains no answers"):
        read_answers(write(tmp_path / "a.jsonl", "\n\n"))

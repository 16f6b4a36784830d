"""eval score, compare and plan, and data scienceqa, as commands."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from edge_llava.cli import cli

SHORT = "Answer the question using a single word or phrase."


def run(*arguments, exit_code=0):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=True)
    assert result.exit_code == exit_code, result.output
    return result


@pytest.fixture
def pope(tmp_path):
    """(label file, answers of A, answers of B) of 40 questions about 20 images."""
    labels, a, b = [], [], []
    for n in range(1, 41):
        label = "yes" if n % 2 else "no"
        labels.append({"question_id": n, "image": f"{n // 2}.jpg", "text": f"Is it {n}?", "label": label})
        for said, wrong in ((a, (1, 2, 3)), (b, (3, 4))):
            text = {"yes": "No", "no": "Yes"}[label] if n in wrong else label.capitalize()
            said.append({"question_id": n, "prompt": f"Is it {n}?\n{SHORT}", "text": text})
    paths = []
    for name, lines in (("coco_pope_popular.json", labels), ("a.jsonl", a), ("b.jsonl", b)):
        paths.append(tmp_path / name)
        paths[-1].write_text("".join(json.dumps(line) + "\n" for line in lines))
    return paths


def test_score(pope, tmp_path):
    labels, a, _ = pope
    arguments = ("score", "--answers", a, "--benchmark", "pope", labels, "--wrong", tmp_path / "wrong.jsonl")
    shown = run("eval", *arguments).output
    assert "a.jsonl: pope (popular), 40 questions" in shown
    assert "accuracy, popular        92.50  95 % " in shown
    assert all(len(line) <= 80 for line in shown.splitlines() if "wrong.jsonl" not in line)
    wrong = [json.loads(line) for line in (tmp_path / "wrong.jsonl").read_text().splitlines()]
    assert [(line["question_id"], line["text"], line["label"]) for line in wrong] == [
        (1, "No", "yes"), (2, "Yes", "no"), (3, "No", "yes"),
    ]  # fmt: skip


def test_score_as_json(pope):
    labels, a, _ = pope
    values = json.loads(run("eval", "score", "--answers", a, "--benchmark", "pope", labels, "--json").stdout)
    assert (values["n"], values["n_missing"], values["n_unreadable"]) == (40, 0, 0)
    main = [figure for figure in values["figures"] if figure["is_main"]]
    assert [figure["name"] for figure in main] == ["F1, popular"]
    assert main[0]["value"] == pytest.approx(100 * 36 / 39)  # 18 of 20 found, and one that is not there


def test_compare(pope):
    labels, a, b = pope
    shown = run("eval", "compare", a, b, labels, "--benchmark", "pope", "--margin", "20").output
    assert f"{b} answers 2 of 40 right that {a} gets wrong, and 1 the other way: 2.5 points higher" in shown
    assert "7.5 % are right in one of the two only" in shown
    assert "3 of 40 texts differ" in shown
    assert "They are shown to be equally good within 20 points" in shown
    found = json.loads(run("eval", "compare", a, b, labels, "--benchmark", "pope", "--json").stdout)
    assert (found["gained"], found["lost"], found["p_value"], found["equivalent"]) == (2, 1, 1, None)


def test_plan():
    assert "3,923 questions" in run("eval", "plan", "--detect", "1").output
    assert json.loads(run("eval", "plan", "--detect", "2", "--discordant", "8", "--json").stdout)["questions"] == 1568
    assert "is more than" in run("eval", "plan", "--detect", "9", exit_code=2).output


def test_plan_says_how_long_it_takes_on_this_device(seeded_q4):
    from edge_llava.bundle.bundle import open_bundle
    from edge_llava.device.facts import this_device
    from edge_llava.device.profile import DeviceSettings, Profile, save_profile

    bundle = open_bundle(seeded_q4)
    arguments = ("plan", "--detect", "2", "--discordant", "8", "-m", seeded_q4)
    assert "edge-llava tune" in run("eval", *arguments, exit_code=2).output
    files, rows = bundle.manifest.files, bundle.manifest.vision.n_features
    settings = DeviceSettings(1, True, 1, True, 512, None, "auto", None)
    measured = {"vision_s": 1.0, "projector_s": 0.5, "prefill_tps": 10.0, "decode_tps": 2.0}
    save_profile(
        Profile(settings, "total", this_device(), files["language"].sha256, files["vision"].sha256, measured),
        bundle.manifest,
    )
    found = json.loads(run("eval", *arguments, "--json").stdout)
    image_s, question_s = 1.5 + (rows + 40) / 10, 40 / 10 + 2 / 2
    assert found["seconds"]["pope"]["all_s"] == pytest.approx(500 * image_s + 8910 * question_s)
    assert found["seconds"]["pope"]["planned_s"] == pytest.approx((500 * image_s + 8910 * question_s) * 1568 / 8910)
    assert found["seconds"]["mm-vet"]["planned_s"] is None
    shown = run("eval", *arguments).output
    assert "1,568 of them" in shown
    assert all(len(line) <= 80 for line in shown.splitlines() if str(seeded_q4) not in line)


def test_reviews(tmp_path):
    line = {"question_id": 1, "category": "llava_bench_conv", "content": "8 6\nbecause"}
    path = tmp_path / "reviews.jsonl"
    path.write_text("\n".join(json.dumps(line | {"question_id": n, "content": c}) for n, c in ((1, "8 6"), (2, "?"))))
    shown = run("eval", "score", "--answers", path, "--benchmark", "llava-bench").output
    assert "relative score, all " in shown
    assert "75.00" in shown
    assert "1 reviews do not state two ratings, and are left out." in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score", "--answers", "A", "--benchmark", "pope"], "name the data of pope"),
        (["score", "--answers", "A", "--answers", "A", "--benchmark", "pope", "L"], "--answers is one file"),
        (["score", "--answers", "A", "--benchmark", "pip", "L"], "pip"),
        (["score", "--answers", "A", "--benchmark", "pope", "L", "--reread"], "which alone can be read anew"),
        (["score", "--answers", "A", "--benchmark", "pope", "L", "--split", "val"], "--split cannot be used with pope"),
        (
            ["score", "--answers", "A", "--benchmark", "llava-bench", "--wrong", "w"],
            "--wrong, --upload and --reread are for answers",
        ),
        (["plan", "--detect", "nan"], "must be numbers"),
        (["plan", "--detect", "1e-300"], "must be numbers"),
    ],
)
def test_wrong_arguments(pope, arguments, message):
    places = {"L": pope[0], "A": pope[1]}
    output = run("eval", *(places.get(argument, argument) for argument in arguments), exit_code=2).output
    assert message in output.replace("\n", " ")


def test_data_scienceqa(tmp_path):
    problem = {"question": "Which?", "choices": ["a", "b"], "answer": 1, "hint": "", "lecture": "L.", "solution": "",
               "image": "image.png", "subject": "s", "grade": "g", "topic": "t"}  # fmt: skip
    problems = {"3": problem, "4": problem | {"image": None, "lecture": ""}}
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"train": ["3", "4"]}))
    out = tmp_path / "train.json"
    shown = run("data", "scienceqa", tmp_path, "-o", out).output
    assert "2 conversations, 1 with an image." in shown
    asked = "Which?\nContext: N/A\nOptions: (A) a (B) b"
    assert json.loads(out.read_text()) == [
        {"id": "3", "image": "3/image.png", "conversations": [
            {"from": "human", "value": f"{asked}\n<image>"}, {"from": "gpt", "value": "L. The answer is B."}]},
        {"id": "4", "conversations": [
            {"from": "human", "value": asked}, {"from": "gpt", "value": " The answer is B."}]},
    ]  # fmt: skip


def test_training_reads_scienceqa(tmp_path):
    """What `data scienceqa` writes can be read for training, and records without an image train as text."""
    from edge_llava.training.instructions.conversations import read_conversations

    test_data_scienceqa(tmp_path)
    first, second = read_conversations(tmp_path / "train.json")
    assert (first.image, second.image) == ("3/image.png", None)
    assert first.turns[0].question == "Which?\nContext: N/A\nOptions: (A) a (B) b"


def test_missing_answers_are_not_compared_unasked(pope):
    labels, a, b = pope
    b.write_text("".join(line + "\n" for line in b.read_text().splitlines()[:20]))
    refused = run("eval", "compare", a, b, labels, "--benchmark", "pope", exit_code=1).exception
    assert "B 20" in str(refused)
    found = json.loads(run("eval", "compare", a, b, labels, "--benchmark", "pope", "--common", "--json").stdout)
    assert (found["n"], found["gained"], found["lost"]) == (20, 2, 1)


def test_graded_answers_are_compared_by_their_points(tmp_path):
    """Three tenths of a point are a difference, although none is right in one and wrong in the other."""
    entries = [
        {"question_id": n, "image_id": f"i{n}", "question": "what?", "answers": ["blue"] + ["red"] * 9}
        for n in range(40)
    ]
    (tmp_path / "val.json").write_text(json.dumps({"data": entries}))
    for name, text in (("a", "blue"), ("b", "green")):
        lines = [{"question_id": f"i{n}", "prompt": f"What?\n{SHORT}", "text": text} for n in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = (tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "val.json", "--benchmark", "textvqa")
    found = json.loads(run("eval", "compare", *arguments, "--margin", "1", "--json").stdout)
    assert found["difference"] == pytest.approx(-0.3)
    assert found["equivalent"] is False
    assert "30.0 points lower" in run("eval", "compare", *arguments).output


def test_own_questions_without_answers_are_not_compared(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question_id": 1, "text": "What?"}')
    (tmp_path / "a.jsonl").write_text('{"question_id": 1, "text": "x"}')
    arguments = (tmp_path / "a.jsonl", tmp_path / "a.jsonl", tmp_path / "q.jsonl", "--benchmark", "questions")
    assert "have no right answers" in str(run("eval", "compare", *arguments, exit_code=1).exception)


def test_scienceqa_in_another_format(tmp_path):
    test_data_scienceqa(tmp_path)
    line = {
        "question_id": "3",
        "prompt": "<image>\nWhich?\nContext: N/A\nOptions: (A) a (B) b",
        "text": "The answer is B.",
    }
    (tmp_path / "a.jsonl").write_text(json.dumps(line))
    arguments = ("score", "--answers", tmp_path / "a.jsonl", "--benchmark", "scienceqa", tmp_path, "--split", "train")
    values = json.loads(run("eval", *arguments, "--format", "QCM-LEA", "--json").stdout)
    assert (values["variant"], values["n_missing"], values["figures"][0]["value"]) == ("train, format QCM-LEA", 1, 50)
    assert "asked in other words" in str(run("eval", *arguments, exit_code=1).exception)


def test_every_benchmark_can_be_asked_and_scored():
    from edge_llava.cli import eval_ask
    from edge_llava.evaluation.benchmarks.kinds import KINDS

    assert set(KINDS) == {command.name for command in eval_ask.COMMANDS}

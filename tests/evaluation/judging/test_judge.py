"""Judging runs of LLaVA-Bench and MM-Vet by a server on this machine that rates, babbles, refuses and dies."""

from __future__ import annotations

import json
import re

import pytest

from edge_llava.errors import DataError
from edge_llava.evaluation.benchmarks.registry import read_benchmark
from edge_llava.evaluation.benchmarks.sampling import sample
from edge_llava.evaluation.difference import compare
from edge_llava.evaluation.judging.judge import Judge, JudgeOptions
from edge_llava.evaluation.judging.wording import name_wording, read_wording
from edge_llava.evaluation.run_record import RunRecord
from edge_llava.remote.budget import Budget, Prices
from edge_llava.remote.chat_client import ChatClient, ChatOptions
from edge_llava.remote.kept_replies import KeptReplies

RATINGS = {"REF0": "8 7\nBecause", "REF1": "9 9", "REF2": "8 6", "REF3": "9 9.5"}  # the golden case


def rate(server):
    """The server rates as the golden case does, by the reference that it reads."""

    def behave(request, index):
        number = re.search(r"REF\d", request.context)[0]
        first, second = re.match(r"(\S+) (\S+)", RATINGS[number]).groups()
        is_first = request.context.index(number) < request.context.index("CAND")
        return server.say(RATINGS[number] if is_first else f"{second} {first}")

    server.behave = behave


def judge(record, replies, **options):
    judging = Judge(record.benchmark, replies, "judge", JudgeOptions(**options))
    judging.judge(list(record.answered().values()), record.directory)
    return {figure.name: figure.value for figure in record.scores().figures}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_request_is_the_golden_case(coco):
    benchmark = read_benchmark("llava-bench", [coco])
    rule = {"conv": "RULE"}
    request = benchmark.request(benchmark.items[0], "CAND", rule, swapped=False)
    assert request.messages[1]["content"] == (
        "[Context]\nA dog sits.\nA dog on grass.\n\ndog: [0.1, 0.25, 0.9, 0.8]\nball: [0.0, 0.5, 0.1, 0.6]\n\n"
        "[Question]\nWhat is it 0?\n\n[Assistant 1]\nREF0\n\n[End of Assistant 1]\n\n[Assistant 2]\nCAND\n\n"
        "[End of Assistant 2]\n\n[System]\nRULE\n\n"
    )
    assert request.messages[0]["role"] == "system"


def test_relative_scores_of_a_run(coco, answered, server, replies):
    rate(server)
    record = answered("llava-bench", coco)
    assert record.scores().figures == ()
    assert record.scores().n_unjudged == 4
    found = judge(record, replies)
    names = ("all", "conv", "detail", "complex")
    assert [found[f"relative score, {name}"] for name in names] == [92.6, 94.1, 75.0, 105.6]
    review = lines(record.directory / "reviews.jsonl")[3]
    assert (review["id"], review["question_id"], review["category"], review["tuple"]) == (4, 3, "complex", [9.0, 9.5])
    assert review["metadata"] == {
        "judge": "judge", "wording": "our wording", "temperature": 0.2, "first": "reference",
    }  # fmt: skip
    assert {request.body["temperature"] for request in server.requests} == {0.2}
    assert {request.body["max_tokens"] for request in server.requests} == {1024}


def test_places_are_exchanged(coco, answered, server, replies):
    """A judge without a bias rates alike; a file of exchanged places reads as it was meant."""
    rate(server)
    record = answered("llava-bench", coco)
    found = judge(record, replies, swap=True)
    assert found["relative score, all"] == found["relative score, all, places exchanged"] == 92.6
    assert found["relative score, all, mean of both places"] == 92.6
    assert lines(record.directory / "reviews-swapped.jsonl")[0]["tuple"] == [8.0, 7.0]
    assert lines(record.directory / "reviews-swapped.jsonl")[0]["content"] == "7 8"


def test_several_judgings_are_other_requests_and_are_averaged(coco, answered, server, replies):
    server.behave = lambda request, index: server.say("8 4" if index < 4 else "8 8")
    record = answered("llava-bench", coco)
    found = judge(record, replies, n_judgings=2, concurrency=1)
    assert len(server.requests) == 8
    assert found["relative score, all"] == 75.0
    assert (found["relative score, judging 1"], found["relative score, judging 2"]) == (50.0, 100.0)
    judge(record, replies)  # once again with one judging: nothing is asked, and the second file goes
    assert len(server.requests) == 8
    assert not (record.directory / "reviews-2.jsonl").exists()


def test_a_reply_is_paid_once(coco, answered, server, replies, tmp_path):
    rate(server)
    record = answered("llava-bench", coco)
    judge(record, replies)
    replies.__exit__()
    with KeptReplies(tmp_path / "replies.jsonl", replies._client) as again:
        assert (
            Judge(record.benchmark, again, "judge", JudgeOptions())
            .estimate(list(record.answered().values()))
            .n_requests
            == 0
        )
        judge(record, again)
        assert (again.prompt_tokens, again.completion_tokens) == (400, 80)
    assert len(server.requests) == 4


def test_junk_is_asked_again_and_then_left_out(coco, answered, server, replies):
    server.behave = lambda request, index: server.say("Both are fine." if "REF2" in request.context else "8 8")
    record = answered("llava-bench", coco)
    found = judge(record, replies)
    assert sum("REF2" in request.context for request in server.requests) == 3
    assert found["relative score, all"] == 100.0
    assert found["relative score, detail"] is None
    assert record.scores().n_unrated == 1
    assert lines(record.directory / "reviews.jsonl")[2]["tuple"] == [-1, -1]


def test_a_judge_that_dies_leaves_scores_of_what_is_there(coco, answered, server, replies):
    server.behave = lambda request, index: server.say("8 6") if index < 2 else server.send("gone", 401)
    record = answered("llava-bench", coco)
    with pytest.raises(DataError, match="refuses, status 401: gone"):
        judge(record, replies, concurrency=1)
    scores = record.scores()
    assert (scores.n_unjudged, scores.figures[0].value) == (2, 75.0)
    rate(server)
    judge(record, replies)
    assert record.scores().n_unjudged == 0


def test_what_is_no_completion_is_no_review(coco, answered, server, replies):
    server.behave = lambda request, index: server.send("8 8") if "REF1" in request.context else server.say("8 8")
    record = answered("llava-bench", coco)
    judge(record, replies, concurrency=1)
    assert record.scores().n_unjudged == 1
    assert [line["question_id"] for line in lines(record.directory / "reviews.jsonl")] == [0, 2, 3]


def test_a_judge_that_times_out_is_given_up(coco, answered, server, replies):
    server.behave = lambda request, index: server.send("busy", 503)
    record = answered("llava-bench", coco)
    with pytest.raises(DataError, match="gave no reply 3 times in a row: status 503"):
        judge(record, replies, concurrency=1)
    assert record.scores().n_unjudged == 4


def test_a_budget_ends_the_judging_before_the_next_request(coco, answered, server, tmp_path):
    """A reply has 100 prompt tokens and 20 of its own; kept ones cost nothing."""
    rate(server)
    record = answered("llava-bench", coco)
    with ChatClient(ChatOptions(server.url, "judge")) as client:
        for n_sent, limit in ((2, 0.01), (2, 0.01), (4, 0.028)):
            with KeptReplies(tmp_path / "r.jsonl", client, Budget(Prices(50.0, 100.0), limit)) as replies:
                if n_sent < 4:
                    with pytest.raises(DataError, match=r"0\.0140 was spent, and --max-cost is 0\.01"):
                        judge(record, replies, concurrency=1)
                else:
                    judge(record, replies, concurrency=1)
            assert len(server.requests) == n_sent
            assert record.scores().n_unjudged == 4 - n_sent


def test_a_failed_judging_keeps_earlier_reviews(coco, answered, server, replies, tmp_path):
    """Also those of another judge, and those of replies that were kept and not looked at again."""
    rate(server)
    record = answered("llava-bench", coco)
    judge(record, replies)
    before = (record.directory / "reviews.jsonl").read_bytes()
    server.behave = lambda request, index: server.send("gone", 401)
    with (
        ChatClient(ChatOptions(server.url, "other")) as client,
        KeptReplies(tmp_path / "o.jsonl", client) as others,
        pytest.raises(DataError, match="status 401"),
    ):
        judge(record, others)
    assert (record.directory / "reviews.jsonl").read_bytes() == before
    with pytest.raises(DataError, match="status 401"):
        judge(record, replies, n_judgings=2)
    assert (record.directory / "reviews.jsonl").read_bytes() == before
    assert not (record.directory / "reviews-2.jsonl").read_bytes()
    assert record.scores().n_unjudged == 0


def test_a_sample_is_judged_too(coco, answered, server, replies):
    rate(server)
    record = answered("llava-bench", coco)
    part = RunRecord(record.directory, record.settings, sample(record.benchmark, 1, 0))
    Judge(record.benchmark, replies, "judge", JudgeOptions()).judge(list(part.answered().values()), part.directory)
    scores = part.scores()
    assert (scores.n, scores.n_unjudged) == (2, 0)
    assert scores.figures[0].value is not None
    assert record.scores().n_unjudged == 2


def test_what_was_not_judged_is_not_compared(coco, answered, server, replies):
    rate(server)
    whole = answered("llava-bench", coco)
    judge(whole, replies)
    scores = whole.scores()
    path = whole.directory / "reviews.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:2]))
    with pytest.raises(DataError, match="B 2"):
        compare(whole.benchmark, scores, whole.scores())
    found = compare(whole.benchmark, scores, whole.scores(), common=True)
    assert (found.n, found.difference) == (2, 0)


def test_half_a_last_line_is_no_answer(coco, answered):
    record = answered("llava-bench", coco)
    with open(record.directory / "answers.jsonl", "a") as file:
        file.write('{"question_id": 9, "te')
    assert len(record.answered()) == 4


def test_an_estimate_is_near(coco, answered, replies):
    record = answered("llava-bench", coco)
    found = Judge(record.benchmark, replies, "judge", JudgeOptions()).estimate(list(record.answered().values()))
    assert found.n_requests == 4
    assert 4 * 150 < found.prompt_tokens < 4 * 350
    assert found.completion_tokens == 800


def test_mm_vet_is_graded(mm_vet, answered, server, replies):
    grades = iter(("0.5", "high", "1.0", "0"))
    server.behave = lambda request, index: server.say(next(grades), "length")
    record = answered("mm-vet", mm_vet)
    found = judge(record, replies, concurrency=1)
    assert found == {
        "total": 50.0, "rec": 100.0, "ocr": 25.0, "math": 25.0, "exactly ocr+math": 25.0, "exactly rec": 100.0,
    }  # fmt: skip
    first, junk, again, _ = server.requests
    assert first.context.endswith("\nQ0? | A0 <AND> B <OR> C | CANDv1_0 | ")
    assert (junk.body["temperature"], again.body["temperature"]) == (0.0, 0.5)
    assert again.context.endswith("Reply with the number alone, from 0.0 to 1.0.")


def test_a_question_without_an_answer_counts_nothing(mm_vet, answered, server, replies):
    server.behave = lambda request, index: server.say("1.0")
    record = answered("mm-vet", mm_vet)
    path = record.directory / "answers.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    found = judge(record, replies)
    assert (found["total"], found["rec"], found["ocr"]) == (pytest.approx(100 / 3), 0.0, 50.0)
    assert record.benchmark.upload({"v1_1": "x"}) == {"v1_0": "", "v1_1": "x", "v1_2": ""}


def test_a_grade_that_stays_unreadable_counts_nothing(mm_vet, answered, server, replies):
    server.behave = lambda request, index: server.say("good" if "Q1?" in request.context else "1.0")
    record = answered("mm-vet", mm_vet)
    found = judge(record, replies)
    assert found["total"] == pytest.approx(200 / 3)
    assert record.scores().n_unrated == 1
    assert sum("Q1?" in request.context for request in server.requests) == 6


def test_users_wording(coco, mm_vet, tmp_path):
    bench, vet = read_benchmark("llava-bench", [coco]), read_benchmark("mm-vet", [mm_vet])
    path = tmp_path / "rule.json"
    path.write_text(json.dumps({name: {"role": "Assistant", "prompt": f"R {name}"} for name in ("conv", "detail")}))
    with pytest.raises(DataError, match="no rules with a prompt for complex"):
        read_wording(bench, path)
    prefixed = {f"llava_bench_{name}": {"prompt": f"R {name}"} for name in ("conv", "detail", "complex")}
    path.write_text(json.dumps(prefixed))
    wording = read_wording(bench, path)
    assert bench.request(bench.items[0], "x", wording, swapped=False).messages[1]["content"].endswith("R conv\n\n")
    path.write_text(json.dumps({name: {"prompt": f"R {name}"} for name in ("conv", "detail", "complex")}))
    wording = read_wording(bench, path)
    assert bench.request(bench.items[2], "x", wording, swapped=False).messages[1]["content"].endswith("R detail\n\n")
    assert re.fullmatch(r"rule\.json \([0-9a-f]{8}\)", name_wording(path, wording))
    (tmp_path / "prompt.txt").write_text("GRADE\n")
    wording = read_wording(vet, tmp_path / "prompt.txt")
    assert vet.request(vet.items[1], "x\ny", wording, swapped=False).messages[0]["content"] == (
        "GRADE\nQ1? | A1 <AND> B <OR> C | x<br>y | "
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [("qa90_questions.jsonl", '{"question_id": 0}'), ("qa90_gpt4_answer.jsonl", '{"question_id": 0, "text": "x"}'),
     ("caps_boxes_coco2014_val_80.jsonl", '{"image": "0.jpg", "captions": [1]}'),
     ("caps_boxes_coco2014_val_80.jsonl", '{"image": "0.jpg", "captions": ["x"], "instances": [{"bbox": [1]}]}')],
)  # fmt: skip
def test_damaged_data(coco, name, content):
    (coco / name).write_text(content)
    with pytest.raises(DataError, match="cannot be used"):
        read_benchmark("llava-bench", [coco])


def test_images_of_coco_have_two_names(coco):
    benchmark = read_benchmark("llava-bench", [coco])
    (coco / "images" / "COCO_val2014_1.jpg").touch()
    assert benchmark.find_image("1.jpg", coco / "images").name == "COCO_val2014_1.jpg"
    assert benchmark.find_image("0.jpg", coco / "images").name == "0.jpg"

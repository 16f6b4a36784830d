"""LLaVA's conversation JSON: bytes out, conversations in, and every fault named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_llava.errors import DataError
from edge_llava.training.instructions.conversations import (
    Conversation,
    Turn,
    read_conversations,
    write_conversations,
)

BUS = Conversation("33471", "bus.jpg", (Turn("What is this?", "A bus."), Turn("Its colour?", "Red.")), "conversation")
TALK = Conversation("talk", None, (Turn("Hello?", "Hello."),))


def entry(speaker: str, value: Any) -> dict[str, Any]:
    return {"from": speaker, "value": value}


def record(*entries: dict[str, Any], image: Any = "a.jpg", id: Any = "a") -> dict[str, Any]:
    return {"id": id, "image": image, "conversations": list(entries)}


QUESTION, ANSWER = entry("human", "<image>\nWhat?"), entry("gpt", "That.")


def save(path: Path, records: Any) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(r) for r in records), encoding="utf-8")
    else:
        path.write_text(json.dumps(records), encoding="utf-8")
    return path


def refuse(path: Path, images: Path | None = None) -> list[str]:
    with pytest.raises(DataError) as caught:
        read_conversations(path, images)
    return str(caught.value).splitlines()


def test_bytes(tmp_path: Path) -> None:
    write_conversations(tmp_path / "a.json", [BUS, TALK], seed=1)
    first = '"What is this?\\n<image>"'  # what seed 1 gives
    expected = (
        '[\n{"id": "33471", "image": "bus.jpg", "type": "conversation", "conversations": '
        f'[{{"from": "human", "value": {first}}}, {{"from": "gpt", "value": "A bus."}}, '
        '{"from": "human", "value": "Its colour?"}, {"from": "gpt", "value": "Red."}]},\n'
        '{"id": "talk", "conversations": '
        '[{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Hello."}]}\n]\n'
    )
    assert (tmp_path / "a.json").read_bytes() == expected.encode()


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.JSONL"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    umlaut = Conversation("ü", "images/ü.jpg", (Turn("Was\nist das?", "Ein \u2028 Bär."),))
    write_conversations(tmp_path / name, [BUS, TALK, umlaut])
    assert read_conversations(tmp_path / name) == [BUS, TALK, umlaut]


def test_marker_stands_before_and_after_by_seed(tmp_path: Path) -> None:
    conversations = [Conversation(str(i), "a.jpg", (Turn("What?", "That."),)) for i in range(200)]
    places = []
    for seed in (0, 0, 1):
        write_conversations(tmp_path / "a.json", conversations, seed)
        values = [r["conversations"][0]["value"] for r in json.loads((tmp_path / "a.json").read_text())]
        assert set(values) == {"<image>\nWhat?", "What?\n<image>"}
        places.append([value.startswith("<image>") for value in values])
    assert 70 < sum(places[0]) < 130
    assert places[0] == places[1] != places[2]
    write_conversations(tmp_path / "a.json", conversations[7:8], 0)
    value = json.loads((tmp_path / "a.json").read_text())[0]["conversations"][0]["value"]
    assert value.startswith("<image>") == places[0][7], "the place depends on the record alone"


@pytest.mark.parametrize("marked", ["<image>\nWhat?", "What?\n<image>", "<image>What?", "  What?<image>\n"])
def test_marker_is_taken_out_wherever_it_stands(tmp_path: Path, marked: str) -> None:
    path = save(tmp_path / "a.json", [record(entry("human", marked), ANSWER)])
    assert read_conversations(path) == [Conversation("a", "a.jpg", (Turn("What?", "That."),))]


def test_leading_answer_is_dropped(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jsonl", [record(entry("gpt", "Hi."), QUESTION, ANSWER)])
    assert read_conversations(path)[0].turns == (Turn("What?", "That."),)


def test_numbers_are_ids_and_a_byte_order_mark_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps([record(QUESTION, ANSWER, id=17)]).encode())
    assert read_conversations(path)[0].id == "17"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (record(QUESTION, ANSWER, id=None), "id is missing or not a string"),
        (record(QUESTION, ANSWER, id=True), "id is missing or not a string"),
        (record(QUESTION, ANSWER, image=["a.jpg"]), "image is not a path"),
        (record(QUESTION, ANSWER) | {"type": 3}, "type is not a string"),
        ({"id": "a"}, "conversations is missing or not a list"),
        (record(), "conversations is missing or not a list"),
        (record(QUESTION), "the speakers are human; expected human, gpt, human, gpt ..."),
        (record(entry("gpt", "Hi.")), "the speakers are none; expected human, gpt, human, gpt ..."),
        (record(QUESTION, QUESTION), "the speakers are human, human; expected human, gpt, human, gpt ..."),
        (record(entry("user", "<image>"), ANSWER), "the speakers are user, gpt; expected human, gpt, human, gpt ..."),
        (record(QUESTION, entry("gpt", None)), "`from` or `value` is missing or not a string in entries [1]"),
        (
            record(QUESTION, {"from": ["gpt"], "value": ""}),
            "`from` or `value` is missing or not a string in entries [1]",
        ),
        (record("x", 3), "`from` or `value` is missing or not a string in entries [0, 1]"),  # type: ignore[arg-type]
        (record(QUESTION, entry("gpt", " \n")), "value 1 is empty or not a string"),
        (record(QUESTION, entry("gpt", "\ud83d")), "value 1 is empty or not a string"),
        (record(entry("human", "<image>\n"), ANSWER), "value 0 is empty or not a string"),
        (
            record(entry("human", "<image><image>?"), ANSWER),
            "it names an image, but <image> occurs 2 times in its first question",
        ),
        (
            record(entry("human", "What?"), ANSWER),
            "it names an image, but <image> occurs 0 times in its first question",
        ),
        (
            record(QUESTION, ANSWER, image=None),
            "it names no image, but <image> occurs 1 times in its first question",
        ),
        (record(QUESTION, entry("gpt", "An <image>.")), "value 1 contains <image>"),
    ],
)
def test_one_fault(tmp_path: Path, wrong: dict[str, Any], says: str) -> None:
    for name, place in (("a.json", "record 1"), ("a.jsonl", "line 2")):
        path = save(tmp_path / name, [record(QUESTION, ANSWER), wrong])
        assert refuse(path) == [
            f"{path} contains conversations that cannot be used:",
            f"  - {place}: {says}",
            "Nothing was read. Correct the file.",
        ]


def test_advice_follows_from_the_faults(tmp_path: Path) -> None:
    path = save(tmp_path / "a.json", [record(QUESTION, ANSWER)])
    with pytest.raises(DataError, match=f"Images are looked for in {tmp_path}/photos; --images names another folder.$"):
        read_conversations(path, tmp_path / "photos")
    annotations = save(tmp_path / "annotations.jsonl", [{"id": "1", "image": "a.jpg", "captions": ["A bus."]}])
    assert refuse(annotations)[-1].endswith(
        "These are annotations: 'data instruct' or 'data captions' makes conversations of them."
    )


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1}\n\n{"id": \n[]\n' + json.dumps(record(QUESTION, entry("gpt", ""), id=[])))
    assert refuse(path)[1:-1] == [
        "  - line 1: conversations is missing or not a list",
        "  - line 3 is not JSON: Expecting value (column 8)",
        "  - line 4 is not a JSON object",
        "  - line 5: id is missing or not a string",
        "  - line 5: value 1 is empty or not a string",
    ]


def test_twenty_faults_are_listed_and_the_others_counted(tmp_path: Path) -> None:
    path = save(tmp_path / "a.json", [17] * 1020)
    lines = refuse(path)
    assert lines[1:-1] == [*(f"  - record {i} is not a JSON object" for i in range(20)), "  - and 1000 more"]


def test_missing_images(tmp_path: Path) -> None:
    (tmp_path / "images" / "deep").mkdir(parents=True)
    (tmp_path / "images" / "deep" / "a.jpg").touch()
    names = ["deep/a.jpg", "deep", "b.jpg", "x" * 300]
    path = save(tmp_path / "a.json", [record(QUESTION, ANSWER, image=name) for name in names])
    assert len(read_conversations(path)) == 4
    folder = tmp_path / "images"
    assert refuse(path, folder)[1:-1] == [
        f"  - record {index}: image {folder}/{name} is missing" for index, name in enumerate(names) if index
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not JSON: Expecting value (column 1)."),
        (b'[{"id": "a"', "is not JSON: Expecting ',' delimiter (column 12)."),
        (b'[\n{"id" 3}]', "is not JSON: Expecting ':' delimiter (line 2, column 7)."),
        (b"[" * 100_000, "is not JSON: it is nested too deeply."),
        (b'{"id": "a"}', "does not contain a JSON list. Name a file with one object per line *.jsonl."),
        (b"[]", "contains no conversations."),
        (b'["caf\xe9"]', "is not UTF-8 text (byte 5)."),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert refuse(tmp_path / "a.json") == [f"{tmp_path / 'a.json'} {says}"]


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    assert refuse(tmp_path / "a.json") == [f"{tmp_path / 'a.json'} cannot be read: No such file or directory."]
    assert refuse(tmp_path) == [f"{tmp_path} cannot be read: Is a directory."]


def test_what_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written: .*An existing file is unchanged"):
        write_conversations(tmp_path / "file" / "a.json", [BUS])

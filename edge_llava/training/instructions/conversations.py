"""Conversations about images, in LLaVA's JSON.

A list of objects (or one object per line, in a file named *.jsonl):

    {"id": "000000033471", "image": "000000033471.jpg", "type": "conversation",
     "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"}, {"from": "gpt", "value": "A bus."}, ...]}

`image` is relative to a directory of images, and absent if the conversation has none; `type` is our own and optional.

Source: github.com/haotian-liu/LLaVA, docs/Finetune_Custom_Data.md and llava/train/train.py.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_llava.errors import DataError
from edge_llava.home.json_files import is_id, is_text, read_json, read_json_lines, refuse, write_text

RESPONSE_TYPES = ("conversation", "detail", "reasoning")
IMAGE_MARKER = "<image>"

_HUMAN, _TEACHER = "human", "gpt"


@dataclass(frozen=True)
class Turn:
    """A question and its answer; neither is empty and neither contains the image marker."""

    question: str
    answer: str


@dataclass(frozen=True)
class Conversation:
    """Questions and answers about one image, or without an image.

    Attributes:
        id: The record's id; not unique in published data.
        image: Path of the image relative to its directory, or None.
        turns: At least one.
        type: One of RESPONSE_TYPES or another value from a file; None if the file states none.
    """

    id: str
    image: str | None
    turns: tuple[Turn, ...]
    type: str | None = None


def read_conversations(path: str | Path, images: str | Path | None = None) -> list[Conversation]:
    """Reads LLaVA's conversation JSON. A turn of the teacher before the first question is dropped.

    Args:
        path: A JSON list, or one object per line if its name ends with ".jsonl".
        images: Directory in which every image must exist; None leaves that unchecked.

    Raises:
        DataError: If the file cannot be read, or any record is wrong; all faults at once, each with its place.
    """
    path, faults = Path(path), list[str]()
    directory = None if images is None else Path(images)
    found, advice = [], {"Nothing was read. Correct the file.": None}  # each once, in order
    for place, record in _records(path, faults):
        own: list[str] = []
        conversation = _parse(record, own)
        if not own and directory is not None and conversation.image is not None:
            image = os.path.join(directory, conversation.image)
            if not os.path.isfile(image):
                own.append(f"image {image} is missing")
                advice[f"Images are looked for in {directory}; --images names another folder."] = None
        if "captions" in record and "conversations" not in record:
            advice["These are annotations: 'data instruct' or 'data captions' makes conversations of them."] = None
        faults += [f"{place}: {fault}" for fault in own]
        found.append(conversation)
    if faults:
        raise refuse(f"{path} contains conversations that cannot be used:", faults, " ".join(advice))
    if not found:
        raise DataError(f"{path} contains no conversations.")
    return found


def write_conversations(path: str | Path, conversations: Iterable[Conversation], seed: int = 0) -> None:
    """Writes LLaVA's conversation JSON, by rename.

    Args:
        path: A JSON list, or one object per line if its name ends with ".jsonl".
        conversations: What to write, in this order.
        seed: Decides, with id and type, whether the image marker comes before or after the first question, since both
            occur in the published data.
    """
    path = Path(path)
    lines = [json.dumps(_record(conversation, seed), ensure_ascii=False) for conversation in conversations]
    text = "".join(f"{line}\n" for line in lines) if _is_lines(path) else "[\n" + ",\n".join(lines) + "\n]\n"
    write_text(path, text)


def _is_lines(path: Path) -> bool:
    return path.suffix.lower() == ".jsonl"


def _record(conversation: Conversation, seed: int) -> dict[str, Any]:
    image_first = random.Random(f"{seed} {conversation.id} {conversation.type}").random() < 0.5
    record: dict[str, Any] = {"id": conversation.id}
    if conversation.image is not None:
        record["image"] = conversation.image
    if conversation.type is not None:
        record["type"] = conversation.type
    values = []
    for index, turn in enumerate(conversation.turns):
        question = turn.question
        if index == 0 and conversation.image is not None:
            question = f"{IMAGE_MARKER}\n{question}" if image_first else f"{question}\n{IMAGE_MARKER}"
        values += [{"from": _HUMAN, "value": question}, {"from": _TEACHER, "value": turn.answer}]
    return record | {"conversations": values}


def _records(path: Path, faults: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each record with its place."""
    if _is_lines(path):
        for number, record in read_json_lines(path, faults):
            yield f"line {number}", record
        return
    records = read_json(path)
    if not isinstance(records, list):
        raise DataError(f"{path} does not contain a JSON list. Name a file with one object per line *.jsonl.")
    for index, record in enumerate(records):
        if isinstance(record, dict):
            yield f"record {index}", record
        else:
            faults.append(f"record {index} is not a JSON object")


def _parse(record: dict[str, Any], faults: list[str]) -> Conversation:
    identity, image, kind = record.get("id"), record.get("image"), record.get("type")
    if not is_id(identity):
        faults.append("id is missing or not a string")
    if image is not None and not is_text(image):
        faults.append("image is not a path")
        image = ""
    if kind is not None and not is_text(kind):
        faults.append("type is not a string")
    values = _parse_values(record.get("conversations"), faults)
    if values:
        _check_marker(values, image, faults)
    values = [value.replace(IMAGE_MARKER, "").strip() for value in values]
    faults += [f"value {index} is empty or not a string" for index, value in enumerate(values) if not is_text(value)]
    turns = tuple(Turn(*pair) for pair in zip(values[::2], values[1::2], strict=True))
    return Conversation(str(identity), image, turns, kind)


def _parse_values(entries: Any, faults: list[str]) -> list[str]:
    """Returns questions and answers in turn; nothing after a fault."""
    if not isinstance(entries, list) or not entries:
        faults.append("conversations is missing or not a list")
        return []
    wrong = [index for index, entry in enumerate(entries) if not _is_entry(entry)]
    if wrong:
        faults.append(f"`from` or `value` is missing or not a string in entries {wrong}")
        return []
    if entries[0]["from"] == _TEACHER:
        entries = entries[1:]
    speakers = [entry["from"] for entry in entries]
    if not speakers or len(speakers) % 2 or speakers != [_HUMAN, _TEACHER] * (len(speakers) // 2):
        faults.append(f"the speakers are {', '.join(speakers) or 'none'}; expected human, gpt, human, gpt ...")
        return []
    return [entry["value"] for entry in entries]


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("from"), str) and isinstance(entry.get("value"), str)


def _check_marker(values: list[str], image: str | None, faults: list[str]) -> None:
    numbers = [value.count(IMAGE_MARKER) for value in values]
    expected = int(image is not None)
    if numbers[0] != expected:
        what = "names an image" if image is not None else "names no image"
        faults.append(f"it {what}, but {IMAGE_MARKER} occurs {numbers[0]} times in its first question")
    faults += [f"value {index} contains {IMAGE_MARKER}" for index, number in enumerate(numbers) if number and index]

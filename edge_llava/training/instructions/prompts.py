"""The messages that ask a teacher for one reply: system message, worked examples, and the image's context.

The texts are in prompt_<type>.json: {"system": ..., "examples": [{"captions", "boxes", "reply"}]}.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from edge_llava.training.instructions.annotation import AnnotatedImage, Box
from edge_llava.training.instructions.context import format_context

Message = dict[str, str]


def build_messages(image: AnnotatedImage, response_type: str) -> list[Message]:
    """Builds messages in the form of the chat completions API.

    Args:
        image: The image to reply about.
        response_type: "conversation", "detail" or "reasoning".

    Returns:
        {"role", "content"} of the system message, of a question and a reply for each example, and of the question.
    """
    prompt = _prompt(response_type)
    messages = [_message("system", prompt["system"])]
    for index, example in enumerate(prompt["examples"]):
        boxes = tuple(Box(box["category"], *box["box"]) for box in example["boxes"])
        shown = AnnotatedImage(f"example {index}", "", tuple(example["captions"]), boxes)
        messages.append(_message("user", format_context(shown, response_type)))
        messages.append(_message("assistant", example["reply"]))
    messages.append(_message("user", format_context(image, response_type)))
    return messages


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


@cache
def _prompt(response_type: str) -> Any:
    file = files("edge_llava.training.instructions").joinpath(f"prompt_{response_type}.json")
    return json.loads(file.read_text(encoding="utf-8"))

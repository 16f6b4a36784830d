"""Cuts a checkpoint's own chat template into the literal texts of a `Template`.

The template is a Jinja program. It is run here, on conversations whose words are known, and what it writes around them
is cut out; the bundle records these texts, and no program runs on the device. A template whose texts depend on more
than that (the number of turns, the words) does not cut, and is refused.

Source: transformers' render_jinja_template, which apply_chat_template uses; it runs templates in Jinja's sandbox.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

from edge_llava.bundle.templates import TEMPLATES, Template
from edge_llava.converters.json_file import read_json, shown
from edge_llava.converters.step_budget import OutOfSteps, step_budget
from edge_llava.errors import CheckpointError, list_faults

_MAX_CHARACTERS = 64 * 1024
_MAX_LINES, _MAX_LINES_PER_CHARACTER = 1_000_000, 400  # compiling takes 140 lines of Python for a character
_QUESTIONS = ("Qfirstq", "Qsecondq", "Qthirdq")  # words that no template contains
_ANSWERS = ("Afirsta", "Aseconda")
_SYSTEM = "Ssystems"
_Message = dict[str, Any]
_FAILURES = (
    jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError, MemoryError, OutOfSteps,
)  # fmt: skip


class _NoCut(Exception):
    """Why a template cannot be cut."""


def find_chat_template(directory: Path) -> str | None:
    """The chat template of a checkpoint, from the first file that has one, in transformers' order; None without one.

    Raises:
        CheckpointError: If a file is damaged.
    """
    path = directory / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{path} is not UTF-8: {error}. Download it again.") from error
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        if not (directory / name).is_file():
            continue
        found = read_json(directory / name).get("chat_template")
        if isinstance(found, list):  # named templates
            named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
            found = named.get("default")
        if isinstance(found, str):
            return found
    return None


def cut_template(source: str, special_tokens: Mapping[str, str], image_text: str) -> Template:
    """Cuts a chat template.

    Args:
        source: The Jinja program.
        special_tokens: What it may refer to: "bos_token", "eos_token" and others, by name.
        image_text: What stands for an image in its output, such as "<image>".

    Returns:
        One of TEMPLATES where it writes the same, or else one of the name "chat_template".

    Raises:
        CheckpointError: If it does not cut; says why.
    """
    if len(source) > _MAX_CHARACTERS:
        raise CheckpointError(f"the chat template has {len(source)} characters; the limit is {_MAX_CHARACTERS}.")
    faults = []
    for render in (_Renderer(source, special_tokens, image_text, as_parts=parts) for parts in (True, False)):
        try:
            _refuse_powers(source)
            return _name(_cut(render))
        except _NoCut as fault:
            faults.append(f"with {render.form}: {fault}")
    advice = f"Choose the template that it was trained with: --template {', '.join(TEMPLATES)}."
    raise CheckpointError(list_faults("the checkpoint's chat template cannot be cut into fixed texts:", faults, advice))


def _refuse_powers(source: str) -> None:
    """A power of a power takes hours in one step, which nothing can stop."""
    try:
        tokens = [*jinja2.Environment().lex(source)]
    except jinja2.TemplateError as error:
        raise _NoCut(f"it fails: {shown(str(error))}") from error
    if any(kind == "operator" and text == "**" for _, kind, text in tokens):
        raise _NoCut("it computes powers")


class _Renderer:
    """Runs the template on conversations whose content is a list of parts, or one text with image marks in it."""

    def __init__(self, source: str, special_tokens: Mapping[str, str], image_text: str, *, as_parts: bool) -> None:
        self.image, self.form = image_text, "messages of parts" if as_parts else "messages of text"
        self._source, self._specials, self._as_parts = source, special_tokens, as_parts

    def user(self, question: str, n_images: int = 0) -> _Message:
        if self._as_parts:
            parts = [{"type": "image"}] * n_images + [{"type": "text", "text": question}]
            return {"role": "user", "content": parts}
        # as LLaVA's and xtuner's data have it
        return {"role": "user", "content": f"{self.image}\n" * n_images + question}

    def other(self, role: str, text: str) -> _Message:
        return {"role": role, "content": [{"type": "text", "text": text}] if self._as_parts else text}

    def __call__(self, *messages: _Message) -> str:
        """The text to be continued.

        Raises:
            _NoCut: If the template refuses the conversation.
        """
        try:
            with step_budget(_MAX_LINES + _MAX_LINES_PER_CHARACTER * len(self._source)):
                (text,), _ = render_jinja_template(
                    [list(messages)], chat_template=self._source, add_generation_prompt=True, **self._specials
                )
        except _FAILURES as error:
            raise _NoCut(f"it fails: {shown(str(error))}") from error
        bos = self._specials.get("bos_token", "")
        return str(text).removeprefix(bos) if bos else str(text)


def _cut(render: _Renderer) -> Template:
    first, second, _ = _QUESTIONS
    text = render(render.user(first))
    two = render(render.user(first), render.other("assistant", _ANSWERS[0]), render.user(second))
    if render.image in text:  # the first question always has an image
        before, to_text, after_question = _split(text, [render.image, first])
        _, _, past, between, end = _split(two, [render.image, first, _ANSWERS[0], second])
        opening = before[: _end_of_header(before, between)]
        parts = _QuestionParts(opening, before.removeprefix(opening), to_text, "")
    else:
        start, after_question = _split(text, [first])
        _, past, between, end = _split(two, [first, _ANSWERS[0], second])
        parts = _question_parts(start, render)
        if not between.endswith(parts.before_question):
            raise _NoCut("it writes something else before a second question")
        between = between[: len(between) - len(parts.before_question)]
    if end != after_question:
        raise _NoCut("it writes something else behind a question that follows another")
    # the space of a word is a part of its token, which the model writes itself
    has_space = past == f"{after_question} "
    template = Template(
        name="chat_template",
        opening=parts.opening,
        after_question=after_question,
        between_turns=between,
        stop=_stop(between),
        image_before=parts.image_before,
        image_after=parts.image_after,
        before_question=parts.before_question,
        before_answer=" " if has_space else "",
        after_past_question=None if has_space or past == after_question else past,
    )
    template = _with_system(template, render)
    _check(template, render)
    return template


@dataclass(frozen=True)
class _QuestionParts:
    """What stands before a first question, see `Template`."""

    opening: str
    image_before: str
    image_after: str
    before_question: str


def _question_parts(start: str, render: _Renderer) -> _QuestionParts:
    """Takes apart what stands before a first question.

    Args:
        start: What the program writes there for a question without an image.
        render: Writes questions with one image or two.
    """
    first = _QUESTIONS[0]
    before, to_text, _ = _split(render(render.user(first, 1)), [render.image, first])
    try:
        _, inner, *_ = _split(render(render.user(first, 2)), [render.image, render.image, first])
    except _NoCut:
        inner = None  # made for one image
    for n_lead in range(min(len(start), len(to_text)) + 1):
        # what stands before the text whether there are images or not belongs to the text
        opening, lead = start[: len(start) - n_lead], start[len(start) - n_lead :]
        parts = _QuestionParts(opening, before.removeprefix(opening), to_text.removesuffix(lead), lead)
        fits = before.startswith(opening) and to_text.endswith(lead)
        if fits and inner in (None, parts.image_after + parts.image_before):
            return parts
    raise _NoCut("it writes something else around a question about images")


def _end_of_header(before: str, between: str) -> int:
    """Where what opens every question ends in what stands before the first one's image."""
    for start in range(len(between)):
        if (at := before.rfind(between[start:])) >= 0:
            return at + len(between) - start
    raise _NoCut("its first question begins unlike the others")


def _stop(between: str) -> str:
    """What ends an answer: the first special token behind it."""
    start = between.lstrip()
    for left, right in (("<|", "|>"), ("<", ">")):
        if start.startswith(left) and right in start:
            return start[: start.index(right) + len(right)]
    raise _NoCut(f"no special token ends an answer; {shown(between)} follows it")


def _with_system(template: Template, render: _Renderer) -> Template:
    """The template with the place of a system text, if the program has one."""
    first = _QUESTIONS[0]
    try:
        text = render(render.other("system", _SYSTEM), render.user(first))
        before, after = _split(text, [_SYSTEM])
        after, _ = _split(after, [first])
    except _NoCut:
        return template
    if render.image in after:
        after = after.partition(template.image_before + render.image)[0]
    else:
        after = after.removesuffix(template.before_question)
    opening = template.opening
    if after.endswith(opening):
        return replace(template, around_system=(before, after.removesuffix(opening)))
    if not (opening.startswith(before) and opening.endswith(after)) or len(before) + len(after) >= len(opening):
        raise _NoCut("it writes something else around a system text")
    return replace(template, system=opening[len(before) : len(opening) - len(after)])


def _check(template: Template, render: _Renderer) -> None:
    """A conversation of three turns, put together from the texts, must be what the program writes."""
    past = template.after_question if template.after_past_question is None else template.after_past_question
    image = template.image_before + render.image + template.image_after
    for n_images in (0, 1):
        messages = [
            render.user(_QUESTIONS[0], n_images), render.other("assistant", _ANSWERS[0]),
            render.user(_QUESTIONS[1]), render.other("assistant", _ANSWERS[1]), render.user(_QUESTIONS[2]),
        ]  # fmt: skip
        found = render(*messages)
        expected = template.opening + (image if render.image in found else "")
        for question, answer in zip(_QUESTIONS[:2], _ANSWERS, strict=True):
            expected += f"{template.before_question}{question}{past}{template.before_answer}{answer}"
            expected += template.between_turns
        expected += f"{template.before_question}{_QUESTIONS[2]}{template.after_question}"
        if found != expected:
            raise _NoCut("a conversation of three turns is not made of the same texts as one of two")


def _split(text: str, words: Sequence[str]) -> list[str]:
    """What stands before, between and after words that must occur once each, in this order."""
    parts = []
    for word in words:
        before, found, text = text.partition(word)
        if not found:
            raise _NoCut(f"{shown(word)} does not appear where it should")
        parts.append(before)
    if any(word in text for word in set(words)):
        raise _NoCut(f"it writes {shown(words[-1])} more than once")
    return [*parts, text]


def _name(template: Template) -> Template:
    """The template of TEMPLATES that writes the same, if there is one."""
    for known in TEMPLATES.values():
        if replace(known, name=template.name, joins_text=template.joins_text) == template:
            return known
    return template

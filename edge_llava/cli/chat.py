"""edge-llava chat: questions about images, once or in a conversation."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_llava.cli.display import INTERRUPTED, note, note_truncated
from edge_llava.cli.images import choose_bundle, open_image
from edge_llava.cli.json_schema import json_schema_option, read_json_schema
from edge_llava.cli.options import EngineChoice, EngineCommand, bundle_option, engine_options, json_option, open_model
from edge_llava.cli.pace import Pace, measured_pace
from edge_llava.cli.places import note_places
from edge_llava.cli.suffixes import OutFile
from edge_llava.cli.tiles import note_tiles

if TYPE_CHECKING:
    from edge_llava.bundle.bundle import Bundle
    from edge_llava.cli.conversation.shown_image import ShownImage
    from edge_llava.home.image_files.alpha import Alpha
    from edge_llava.runtime.answer import Timings
    from edge_llava.runtime.dialogue.messages import ImageInput
    from edge_llava.runtime.dialogue.past_turns import OnFull
    from edge_llava.runtime.model import LlavaModel
    from edge_llava.runtime.options import SamplingOptions
    from edge_llava.runtime.session import Session


@click.command("chat", cls=EngineCommand)
@click.argument("images", nargs=-1, type=click.Path(allow_dash=True))
@click.option("-i", "--image", "more_images", multiple=True, metavar="PATH", help="As IMAGES; repeatable.")
@bundle_option
@click.option(
    "-p", "--prompt", help="Question; '-' reads it from stdin. Without it, and on a terminal: a conversation."
)
@click.option("--system", metavar="TEXT", help="Tell the model how to answer, in place of the bundle's own text.")
@click.option("--continue", "goes_on", is_flag=True, help="Continue the last conversation.")
@click.option(
    "--embedding", "embeddings", multiple=True, type=click.Path(), help="File of `edge-llava embed`; repeatable."
)
@click.option(
    "-n", "--max-tokens", type=click.IntRange(1), default=512, metavar="N", show_default=True, help="Longest answer."
)
@click.option(
    "--temp",
    type=click.FloatRange(0, 99),
    default=0.2,
    metavar="X",
    show_default=True,
    help="0 takes the most likely token.",
)
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    metavar="X",
    show_default=True,
    help="Keep the most likely tokens up to this sum.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 2), metavar="N", help="Same seed, same answer. Default: random.")
@click.option("--stop", multiple=True, help="Text that ends the answer; repeatable.")
@json_schema_option
@click.option(
    "--on-full",
    type=click.Choice(["error", "drop-oldest"]),
    default="drop-oldest",
    show_default=True,
    help="If a conversation fills the context: refuse the question, or drop the oldest ones, images last.",
)
@click.option("--show-prompt", is_flag=True, help="Print what the model reads on stderr, special tokens by name.")
@click.option(
    "--show-input",
    type=OutFile(".png", what="an image"),
    metavar="FILE.png",
    help="Save the image as the vision tower sees it.",
)
@click.option(
    "--no-cache",
    is_flag=True,
    envvar="EDGE_LLAVA_NO_CACHE",
    help="Store nothing about the image on disk, and use nothing stored; see `edge-llava cache`.",
)
@click.option(
    "--no-history",
    is_flag=True,
    envvar="EDGE_LLAVA_NO_HISTORY",
    help="Keep neither what is typed nor the conversation for --continue.",
)
@click.option("--no-preview", is_flag=True, help="Do not show images on the terminal.")
@engine_options()
@json_option
def command(
    images: tuple[str, ...],
    more_images: tuple[str, ...],
    bundle: str | None,
    prompt: str | None,
    system: str | None,
    goes_on: bool,
    embeddings: tuple[str, ...],
    max_tokens: int,
    temp: float,
    top_p: float,
    seed: int | None,
    stop: tuple[str, ...],
    json_schema: Path | None,
    on_full: OnFull,
    show_prompt: bool,
    show_input: Path | None,
    no_cache: bool,
    no_history: bool,
    no_preview: bool,
    engines: EngineChoice,
    as_json: bool,
) -> None:
    """Ask about one or several images.

    IMAGES are files, '-' for stdin, or demo:1 to demo:4, which come with edge-llava. A text in quotes is the question.

    \b
    edge-llava chat demo:1
    edge-llava chat img.jpg
    edge-llava chat img.jpg "What is on the table?"
    echo "What is on the table?" | edge-llava chat img.jpg --json
    edge-llava chat receipt.jpg -p "What was bought?" --json-schema receipt.json
    """
    from edge_llava.cli.conversation.arguments import check_embedding_name, split_arguments

    names, prompt = split_arguments([*images, *more_images], prompt)
    for path in embeddings:
        check_embedding_name(path)
    question = _read_question(prompt, names, as_json)
    _check_options(
        question, names, show_input=show_input, show_prompt=show_prompt, goes_on=goes_on, system=system or ""
    )
    from edge_llava.bundle.bundle import open_bundle
    from edge_llava.cli.conversation.conversation import Conversation, Manners
    from edge_llava.cli.conversation.kept import keep_conversation, read_conversation
    from edge_llava.cli.conversation.model_slot import ModelSlot
    from edge_llava.cli.repl import run_repl
    from edge_llava.cli.tune import suggest_tuning
    from edge_llava.runtime.dialogue.messages import Message
    from edge_llava.runtime.options import device_facts
    from edge_llava.runtime.vision.forms import image_forms
    from edge_llava.runtime.vision.image_embedding import ImageEmbedding

    options = _sampling_options(max_tokens, temp, top_p, seed, stop, json_schema)
    # opened before the engines: a wrong path must not cost their loading
    shown = [open_image(path, engines.alpha) for path in names]
    note_truncated(zip(names, shown, strict=True))
    inputs: list[ImageInput] = [*shown, *(ImageEmbedding.load(path) for path in embeddings)]
    kept = read_conversation(engines.alpha) if goes_on else None
    of_kept = str(kept.bundle) if kept is not None else None
    opened = open_bundle(bundle or of_kept or choose_bundle(bundle, names))
    how = dataclasses.replace(engines.options(opened), cache=not no_cache)
    form = image_forms(opened.manifest.vision, how).choose(len(inputs))
    is_tuned = not engines.no_profile
    note_tiles(zip(names, shown, strict=True), opened.manifest, form, tuned=is_tuned)

    def open_one(one: Bundle) -> LlavaModel:
        settings = dataclasses.replace(engines.options(one), cache=not no_cache)
        return open_model(one, settings, force=engines.load_anyway, may_move=engines.leaves_blocks_open)

    with ModelSlot(
        open_model(opened, how, first_images=shown, force=engines.load_anyway, may_move=engines.leaves_blocks_open),
        open_one,
    ) as slot:
        model = slot.model
        if question is None or sys.stderr.isatty():
            note_places(model)
        if show_input is not None:
            _save_input(model, inputs[0], show_input)
        session = model.session(options, on_full=on_full)
        if system:
            session.resume([Message("system", system)])
        if show_prompt and question is not None:
            note(session.show_prompt(question, image=inputs))
        if question is not None:
            pace = measured_pace(opened.manifest, tuned=is_tuned)
            _answer_once(model, session, question, inputs, names + list(embeddings), pace, as_json=as_json)
            return
        if is_tuned:
            suggest_tuning(opened, bundle, device_facts(how))
        keep = None if no_history else keep_conversation
        manners = Manners(engines.alpha, is_tuned, has_preview=not no_preview, keep=keep)
        conversation = Conversation(slot, session, manners, system or "")
        conversation.begin(_as_shown(names, embeddings, inputs, engines.alpha), kept)
        run_repl(conversation, has_history=not no_history)


def _as_shown(names: Sequence[str], embeddings: Sequence[str], inputs: Sequence[Any], alpha: Alpha) -> list[ShownImage]:
    from edge_llava.cli.conversation.shown_image import ShownImage, find_file

    kinds = [(name, False) for name in names] + [(name, True) for name in embeddings]
    return [
        ShownImage.of(name, content, alpha, file=find_file(name), is_embedding=is_embedding)
        for (name, is_embedding), content in zip(kinds, inputs, strict=True)
    ]


def _sampling_options(
    max_tokens: int, temp: float, top_p: float, seed: int | None, stop: tuple[str, ...], json_schema: Path | None
) -> SamplingOptions:
    from edge_llava.runtime.options import SamplingOptions

    _check_texts({"--stop": stop})
    schema = read_json_schema(json_schema)
    try:
        return SamplingOptions(
            temperature=temp,
            top_p=top_p,
            seed=seed,
            max_new_tokens=max_tokens,
            stop=stop,
            json_schema=schema,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _check_options(
    question: str | None,
    images: Sequence[str],
    *,
    show_input: Path | None,
    show_prompt: bool,
    goes_on: bool,
    system: str,
) -> None:
    _check_texts({"--system": [system]})
    if show_input is not None and len(images) != 1:
        raise click.UsageError(f"--show-input shows one image; {len(images)} were given")
    if show_prompt and question is None:
        raise click.UsageError("--show-prompt shows one question: give it with -p")
    if goes_on and question is not None:
        raise click.UsageError("--continue continues a conversation on a terminal: leave the question out")


def _save_input(model: LlavaModel, image: ImageInput, path: Path) -> None:
    try:
        model.show_input(image).save(path, "PNG")  # type: ignore[arg-type]
    except OSError as error:
        raise click.UsageError(f"--show-input: {path} cannot be written: {error.strerror or error}") from error
    note(f"what the tower sees: {path}")


def _read_question(prompt: str | None, images: Sequence[str], as_json: bool) -> str | None:
    """The question, or None for a conversation."""
    if prompt is not None and prompt != "-":
        if not prompt.strip():
            raise click.UsageError("the question is empty")
        _check_texts({"the question": [prompt]})
        return prompt
    if prompt is None and sys.stdin.isatty():
        if as_json:
            raise click.UsageError("--json answers once: give the question with -p, or through a pipe")
        return None
    if "-" in images:
        raise click.UsageError("stdin is the image, so give the question with -p")
    try:
        question = _read_stdin().decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise click.UsageError("the question on stdin is not UTF-8 text") from error
    if not question:
        raise click.UsageError("the question on stdin is empty")
    return question


def _check_texts(given: Mapping[str, Sequence[str]]) -> None:
    from edge_llava.home.unicode_text import is_unicode

    for what, texts in given.items():
        if not all(map(is_unicode, texts)):
            raise click.UsageError(f"{what} is not UTF-8 text")


def _read_stdin() -> bytes:
    return sys.stdin.buffer.read()


def _answer_once(
    model: LlavaModel,
    session: Session,
    question: str,
    inputs: list[ImageInput],
    names: list[str],
    pace: Pace,
    *,
    as_json: bool,
) -> None:
    from edge_llava.cli.answer import read_answer
    from edge_llava.cli.conversation.conversation import note_missing_image

    if not inputs and sys.stderr.isatty():
        note_missing_image("give one as an argument")
    answer = read_answer(session, question, inputs, model.tower, stream=not as_json, pace=pace)
    if as_json:
        images = [
            {"path": name, "n_tokens": image.n_tokens, "key": image.key}
            | ({"truncated": True} if image.truncated else {})
            for name, image in zip(names, session.images, strict=False)
        ]
        result = {
            "model": model.bundle.name,
            "text": answer.text,
            "tokens": answer.tokens,
            "finish_reason": answer.finish_reason,
            "prompt": question,
            "images": images,
            "timings": _timings(session),
        }
        click.echo(json.dumps(result, indent=2))
    if answer.finish_reason == "cancelled":
        note("interrupted")
        sys.exit(INTERRUPTED)


def _timings(session: Session) -> dict[str, Any]:
    timings: Timings | None = session.timings
    return dataclasses.asdict(timings) if timings is not None else {}

"""edge-llava chat: questions about images, once or in a conversation."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_llava.cli.display import INTERRUPTED, note, note_truncated
from edge_llava.cli.images import choose_bundle, open_image
from edge_llava.cli.json_schema import json_schema_option, read_json_schema
from edge_llava.cli.options import EngineChoice, EngineCommand, bundle_option, engine_options, json_option, open_model
from edge_llava.cli.pace import Pace, measured_pace
from edge_llava.cli.places import note_places
from edge_llava.cli.tiles import note_tiles

if TYPE_CHECKING:
    from edge_llava.runtime.answer import Timings
    from edge_llava.runtime.dialogue.messages import ImageInput
    from edge_llava.runtime.dialogue.past_turns import OnFull
    from edge_llava.runtime.model import LlavaModel
    from edge_llava.runtime.options import SamplingOptions
    from edge_llava.runtime.session import Session


@click.command("chat", cls=EngineCommand)
@click.argument("images", nargs=-1, type=click.Path(allow_dash=True))
@bundle_option
@click.option(
    "-p", "--prompt", help="Question; '-' reads it from stdin. Without it, and on a terminal: a conversation."
)
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
    default="error",
    show_default=True,
    help="If a conversation fills the context: refuse the question, or drop the oldest ones, images last.",
)
@click.option("--show-prompt", is_flag=True, help="Print what the model reads on stderr, special tokens by name.")
@click.option(
    "--show-input",
    type=click.Path(dir_okay=False),
    metavar="FILE.png",
    help="Save the image as the vision tower sees it.",
)
@click.option(
    "--no-cache",
    is_flag=True,
    envvar="EDGE_LLAVA_NO_CACHE",
    help="Store nothing about the image on disk, and use nothing stored; see `edge-llava cache`.",
)
@engine_options()
@json_option
def command(
    images: tuple[str, ...],
    bundle: str | None,
    prompt: str | None,
    embeddings: tuple[str, ...],
    max_tokens: int,
    temp: float,
    top_p: float,
    seed: int | None,
    stop: tuple[str, ...],
    json_schema: Path | None,
    on_full: OnFull,
    show_prompt: bool,
    show_input: str | None,
    no_cache: bool,
    engines: EngineChoice,
    as_json: bool,
) -> None:
    """Ask about one or several images.

    IMAGES are files, '-' for stdin, or demo:1 to demo:4, which come with edge-llava.

    \b
    edge-llava chat demo:1
    edge-llava chat img.jpg
    edge-llava chat img.jpg -p "What is on the table?"
    echo "What is on the table?" | edge-llava chat img.jpg --json
    edge-llava chat receipt.jpg -p "What was bought?" --json-schema receipt.json
    """
    question = _read_question(prompt, images, as_json)
    from edge_llava.bundle.bundle import open_bundle
    from edge_llava.runtime.options import SamplingOptions
    from edge_llava.runtime.vision.forms import image_forms
    from edge_llava.runtime.vision.image_embedding import ImageEmbedding

    schema = read_json_schema(json_schema)
    try:
        options = SamplingOptions(
            temperature=temp,
            top_p=top_p,
            seed=seed,
            max_new_tokens=max_tokens,
            stop=stop,
            json_schema=schema,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    # opened before the engines: a wrong path must not cost their loading
    shown = [open_image(path, engines.alpha) for path in images]
    note_truncated(zip(images, shown, strict=True))
    inputs: list[ImageInput] = [*shown, *(ImageEmbedding.load(path) for path in embeddings)]
    names = [*images, *embeddings]
    if show_input is not None and len(images) != 1:
        raise click.UsageError(f"--show-input shows one image; {len(images)} were given")
    if show_prompt and question is None:
        raise click.UsageError("--show-prompt shows one question: give it with -p")
    opened = open_bundle(choose_bundle(bundle, images))
    how = dataclasses.replace(engines.options(opened), cache=not no_cache)
    form = image_forms(opened.manifest.vision, how).choose(len(inputs))
    is_tuned = not engines.no_profile
    note_tiles(zip(images, shown, strict=True), opened.manifest, form, tuned=is_tuned)
    with open_model(
        opened, how, first_images=shown, force=engines.load_anyway, may_move=engines.leaves_blocks_open
    ) as model:
        if question is None or sys.stderr.isatty():
            note_places(model)
        if show_input is not None:
            _save_input(model, inputs[0], show_input)
        if show_prompt and question is not None:
            note(model.session(options).show_prompt(question, image=inputs))
        if question is None:
            from edge_llava.cli.repl import run_repl
            from edge_llava.cli.tune import suggest_tuning
            from edge_llava.runtime.options import device_facts

            if is_tuned:
                suggest_tuning(opened, bundle, device_facts(how))
            run_repl(model, options, list(zip(names, inputs, strict=True)), on_full, engines.alpha, tuned=is_tuned)
        else:
            pace = measured_pace(opened.manifest, tuned=is_tuned)
            _answer_once(model, options, question, inputs, names, pace, as_json=as_json)


def _save_input(model: LlavaModel, image: ImageInput, path: str) -> None:
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
        return _check_text(prompt)
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


def _check_text(text: str) -> str:
    from edge_llava.home.unicode_text import is_unicode

    if not is_unicode(text):
        raise click.UsageError("the question is not UTF-8 text")
    return text


def _read_stdin() -> bytes:
    return sys.stdin.buffer.read()


def _answer_once(
    model: LlavaModel,
    options: SamplingOptions,
    question: str,
    inputs: list[ImageInput],
    names: list[str],
    pace: Pace,
    *,
    as_json: bool,
) -> None:
    from edge_llava.cli.answer import read_answer

    session = model.session(options)
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

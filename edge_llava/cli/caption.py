"""edge-llava caption: captions every image in folders or in a list of files, one line each."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_llava.cli.display import note, show_progress, show_result
from edge_llava.cli.json_schema import json_schema_option, read_json_schema
from edge_llava.cli.options import EngineChoice, EngineCommand, bundle_option, engine_options, json_option, open_model
from edge_llava.cli.places import note_places
from edge_llava.cli.printable import printable_line
from edge_llava.cli.suffixes import OutFile
from edge_llava.cli.tiles import note_most_tiles
from edge_llava.errors import ImageError

if TYPE_CHECKING:
    from edge_llava.captioning.job import CaptionJob
    from edge_llava.captioning.options import CaptionOptions
    from edge_llava.captioning.report import CaptionReport
    from edge_llava.runtime.options import SamplingOptions

_MAX_FOLDERS = 3
_MAX_SHOWN = 20  # faults; --json has all of them


def _existing(_: click.Context, __: click.Parameter, sources: tuple[Path, ...]) -> tuple[Path, ...]:
    for source in sources:
        if not os.path.exists(source):
            raise ImageError(f"there is no file or folder {source}.")
    return sources


@click.command("caption", cls=EngineCommand)
@click.argument(
    "sources",
    metavar="FOLDER_OR_IMAGE...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
    callback=_existing,
)
@click.option(
    "-o",
    "--out",
    type=OutFile(".jsonl", ".csv", what="captions"),
    metavar="FILE.jsonl|FILE.csv",
    help="File to write, or to resume. Default: captions.jsonl in the folder that contains all sources.",
)
@click.option(
    "-p", "--prompt", metavar="TEXT", help="Question about every image. Default: Describe the picture in detail."
)
@json_schema_option
@click.option("--sidecar", is_flag=True, help="Also write IMG.txt next to each image (IMG.json with a schema).")
@click.option(
    "-n", "--max-tokens", type=click.IntRange(1), default=256, metavar="N", show_default=True, help="Longest answer."
)
@click.option(
    "--temp",
    type=click.FloatRange(0, 99),
    default=0.0,
    metavar="X",
    show_default=True,
    help="0 takes the most likely token.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 2), metavar="N", help="Same seed, same answers. Default: random."
)
@click.option(
    "--ahead/--no-ahead",
    default=None,
    help="Encode the next image while this answer is computed. Default: if a GPU runs one of the two.",
)
@click.option(
    "--parallel",
    type=click.IntRange(1, 16),
    default=1,
    metavar="N",
    show_default=True,
    help="Answers computed at the same time: for GPUs and computers with many cores. Takes more memory.",
)
@click.option("--force", is_flag=True, help="Replace an output of other settings, and existing sidecar files.")
@bundle_option
@engine_options(without="load_anyway")
@json_option
def command(
    sources: tuple[Path, ...],
    out: Path | None,
    prompt: str | None,
    json_schema: Path | None,
    sidecar: bool,
    max_tokens: int,
    temp: float,
    seed: int | None,
    ahead: bool | None,
    parallel: int,
    force: bool,
    bundle: str | None,
    engines: EngineChoice,
    as_json: bool,
) -> None:
    """Caption every image of folders, or of a list of files.

    Subfolders are searched. Each image gets a line of JSON, or of CSV if FILE says so: path, sha256, caption, and where
    it came from. After a stop the same command resumes; new and changed images are added. Images with the same bytes are
    captioned once.
    Unreadable files are reported at the end and retried on the next run; the exit code is 0 unless no image has a
    caption.

    \b
    edge-llava caption photos
    edge-llava caption photos -o photos.jsonl -p "What is this, in one sentence?"
    edge-llava caption a.jpg b.jpg holiday
    edge-llava caption receipts --json-schema receipt.json --sidecar
    """
    if str(out) == "-":
        raise click.UsageError("--out: captions go to a file that a later run can resume, not to stdout. Name a file.")
    sampling = _make_sampling(max_tokens, temp, seed)
    options = _make_options(prompt, json_schema, sampling, sidecar=sidecar, ahead=ahead, force=force)
    from edge_llava.bundle.bundle import open_bundle
    from edge_llava.captioning.job import CaptionJob
    from edge_llava.runtime.options import unattended
    from edge_llava.runtime.vision.forms import image_forms

    opened = open_bundle(bundle)
    how = unattended(engines.options(opened), opened.manifest.language, parallel)
    form = image_forms(opened.manifest.vision, how).alone  # before the output is begun
    with (
        CaptionJob(
            sources,
            out,
            opened,
            options,
            visual_tokens=how.visual_tokens,
            alpha=how.alpha,
            max_tiles=how.max_tiles,
        ) as job,
        _explain_how_to_resume(job),
    ):
        with show_progress() as progress:
            job.check(progress)
        if job.todo:
            note_most_tiles(form)
            with open_model(opened, how, may_move=engines.leaves_blocks_open) as model, show_progress() as progress:
                note_places(model)
                job.caption(model, progress)
        report = job.report
    _print_report(report)
    has_captions = report.n_captioned + report.n_duplicates + report.n_earlier > 0
    if as_json:
        click.echo(json.dumps(_describe(report), indent=2))
    elif has_captions:
        show_result(report.out)
    if not has_captions:
        note("edge-llava: no image has a caption.")
        sys.exit((job.first_failure or ImageError()).exit_code)


def _make_sampling(max_tokens: int, temp: float, seed: int | None) -> SamplingOptions:
    from edge_llava.runtime.options import SamplingOptions

    try:
        return SamplingOptions(temperature=temp, seed=seed, max_new_tokens=max_tokens)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _make_options(
    prompt: str | None,
    json_schema: Path | None,
    sampling: SamplingOptions,
    *,
    sidecar: bool,
    ahead: bool | None,
    force: bool,
) -> CaptionOptions:
    from edge_llava.captioning.options import DEFAULT_PROMPT, CaptionOptions

    question = DEFAULT_PROMPT if prompt is None else prompt
    schema = read_json_schema(json_schema)
    try:
        return CaptionOptions(question, sampling, schema, sidecar, force, ahead)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@contextmanager
def _explain_how_to_resume(job: CaptionJob) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        report = job.report
        if n_done := report.n_captioned + report.n_duplicates + report.n_earlier:
            note(f"{_count(n_done, 'caption')} kept in {report.out}; run the same command again to resume.")
        raise


def _print_report(report: CaptionReport) -> None:
    parts = [f"{_count(report.n_captioned, 'image')} captioned"]
    if report.n_duplicates:
        parts.append(_count(report.n_duplicates, "duplicate"))
    if report.n_earlier:
        parts.append(f"{report.n_earlier:,} earlier")
    if report.n_captioned:
        parts.append(_count(report.n_tokens, "token"))
    note(f"{', '.join(parts)}; {report.seconds:.0f} s.")
    if report.n_sidecars_kept:
        kept = _count(report.n_sidecars_kept, "sidecar file")
        stayed = "was kept" if report.n_sidecars_kept == 1 else "were kept"
        note(f"{kept} with other text {stayed}; --force replaces such files.")
    if report.n_truncated:
        note(f"{_count(report.n_truncated, 'image')} truncated: part of the image is missing.")
    if report.unsupported:
        from edge_llava.captioning.folder import describe_unsupported

        n_files = _count(sum(report.unsupported.values()), "image file")
        note(f"{n_files} in unsupported formats: {describe_unsupported(report.unsupported)}")
    if report.n_links_out:
        note(f"{_count(report.n_links_out, 'link')} to places outside the sources not followed.")
    if report.passed_over:
        shown = ", ".join(report.passed_over[:_MAX_FOLDERS]) + ", ..." * (len(report.passed_over) > _MAX_FOLDERS)
        note(f"{_count(len(report.passed_over), 'system folder')} skipped: {printable_line(shown)}")
    if report.faults:
        note(f"{_count(len(report.faults), 'file')} could not be used:")
        for fault in report.faults[:_MAX_SHOWN]:
            note(f"  {printable_line(f'{fault.path}: {fault.reason}')}")
        if len(report.faults) > _MAX_SHOWN:
            note(f"  and {len(report.faults) - _MAX_SHOWN:,} more; --json has all of them.")


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _describe(report: CaptionReport) -> dict[str, Any]:
    return dataclasses.asdict(report) | {"out": str(report.out), "seconds": round(report.seconds, 3)}

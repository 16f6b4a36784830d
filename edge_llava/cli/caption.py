"""edge-llava caption: every image of folders, or of a list of files, one JSON line each."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_llava.cli.display import note, show_progress, show_result
from edge_llava.cli.options import EngineChoice, bundle_option, engine_options, json_option, open_model
from edge_llava.cli.printable import printable_line
from edge_llava.errors import ImageError

if TYPE_CHECKING:
    from edge_llava.captioning.job import CaptionJob
    from edge_llava.captioning.options import CaptionOptions
    from edge_llava.captioning.report import CaptionReport
    from edge_llava.runtime.options import SamplingOptions

_MAX_FOLDERS = 3
_MAX_TOLD = 20  # faults; --json has all of them


@click.command("caption")
@click.argument(
    "sources", metavar="FOLDER_OR_IMAGE...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path)
)
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.jsonl",
    help="File to write, or to resume. Default: captions.jsonl in the folder that holds all that is named.",
)
@click.option(
    "-p", "--prompt", metavar="TEXT", help="Asked about every picture. Default: Describe the picture in detail."
)
@click.option(
    "--json-schema",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="JSON schema that every answer must follow.",
)
@click.option("--sidecar", is_flag=True, help="Also write IMG.txt beside each picture (IMG.json with a schema).")
@click.option(
    "-n", "--max-tokens", type=click.IntRange(1), default=256, metavar="N", show_default=True, help="Longest answer."
)
@click.option(
    "--temp",
    type=click.FloatRange(0, 99),
    default=0.0,
    metavar="X",
    show_default=True,
    help="0 takes the likeliest token.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 2), metavar="N", help="Same seed, same answers. Default: drawn.")
@click.option(
    "--ahead/--no-ahead",
    default=None,
    help="Encode the next picture while this answer is computed. Default: where a GPU does one of the two.",
)
@click.option("--force", is_flag=True, help="Replace an output of other settings, and files beside pictures.")
@bundle_option
@engine_options()
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
    force: bool,
    bundle: str | None,
    as_json: bool,
) -> None:
    """Caption every image in folders, with everything below them, or a list of images.

    Each gets a JSON line: path, sha256, caption, and where it came from. After a stop the same command resumes; new and
    changed images are added. Images with the same bytes are asked about once. Files that cannot be used are reported at
    the end; the exit code is 0 unless no image has a caption.

    \b
    edge-llava caption photos
    edge-llava caption photos -o photos.jsonl -p "What is this, in one sentence?"
    edge-llava caption a.jpg b.jpg holiday
    edge-llava caption receipts --json-schema receipt.json --sidecar
    """
    if str(out) == "-":
        raise click.UsageError("--out: captions go to a file that a later run resumes, not to stdout. Name a file.")
    sampling = _make_sampling(max_tokens, temp, seed)
    options = _make_options(prompt, json_schema, sampling, sidecar=sidecar, ahead=ahead, force=force)
    from edge_llava.bundle.bundle import Bundle
    from edge_llava.captioning.job import CaptionJob
    from edge_llava.home.directories import find_bundle
    from edge_llava.runtime.vision.visual_tokens import check_visual_tokens

    opened = Bundle.open(find_bundle(bundle))
    engines = EngineChoice.said().options(bundle)
    check_visual_tokens(engines.visual_tokens, opened.manifest.vision)  # before the output is begun
    with (
        CaptionJob(sources, out, opened, options, visual_tokens=engines.visual_tokens, alpha=engines.alpha) as job,
        _tell_how_to_go_on(job),
    ):
        with show_progress() as progress:
            job.check(progress)
        if job.todo:
            with open_model(bundle, engines) as model, show_progress() as progress:
                job.caption(model, progress)
        report = job.report
    _tell(report)
    has_captions = report.n_captioned + report.n_duplicates + report.n_earlier > 0
    if as_json:
        click.echo(json.dumps(_describe(report), indent=2))
    elif has_captions:
        show_result(report.out)
    if not has_captions:
        note("edge-llava: no picture has a caption.")
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
    schema = None if json_schema is None else _read_schema(json_schema)
    try:
        return CaptionOptions(question, sampling, schema, sidecar, force, ahead)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _read_schema(path: Path) -> Any:
    from edge_llava.home.regular_file import MAX_TEXT_BYTES, read_input

    try:
        return json.loads(read_input(path, MAX_TEXT_BYTES).decode("utf-8-sig"))
    except OSError as error:
        raise click.UsageError(f"--json-schema: {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--json-schema: {path} is not JSON: {error}") from error


@contextmanager
def _tell_how_to_go_on(job: CaptionJob) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        report = job.report
        if n_done := report.n_captioned + report.n_duplicates + report.n_earlier:
            note(f"{_count(n_done, 'caption')} kept in {report.out}; run the same command again to go on.")
        raise


def _tell(report: CaptionReport) -> None:
    parts = [f"{_count(report.n_captioned, 'picture')} captioned"]
    if report.n_duplicates:
        parts.append(_count(report.n_duplicates, "duplicate"))
    if report.n_earlier:
        parts.append(f"{report.n_earlier:,} earlier")
    if report.n_captioned:
        parts.append(_count(report.n_tokens, "token"))
    note(f"{', '.join(parts)}; {report.seconds:.0f} s.")
    if report.n_sidecars_kept:
        kept = _count(report.n_sidecars_kept, "file")
        stayed = "stayed as it was" if report.n_sidecars_kept == 1 else "stayed as they were"
        note(f"{kept} beside pictures with another text {stayed}; --force replaces them.")
    if report.n_truncated:
        note(f"{_count(report.n_truncated, 'picture')} truncated: a part is missing.")
    if report.unsupported:
        from edge_llava.captioning.folder import describe_unsupported

        n_files = _count(sum(report.unsupported.values()), "image file")
        note(f"{n_files} of kinds that are not read: {describe_unsupported(report.unsupported)}")
    if report.n_links_out:
        note(f"{_count(report.n_links_out, 'link')} to something outside not followed.")
    if report.passed_over:
        shown = ", ".join(report.passed_over[:_MAX_FOLDERS]) + ", ..." * (len(report.passed_over) > _MAX_FOLDERS)
        note(f"{_count(len(report.passed_over), 'system folder')} passed over: {printable_line(shown)}")
    if report.faults:
        note(f"{_count(len(report.faults), 'file')} could not be used:")
        for fault in report.faults[:_MAX_TOLD]:
            note(f"  {printable_line(f'{fault.path}: {fault.reason}')}")
        if len(report.faults) > _MAX_TOLD:
            note(f"  and {len(report.faults) - _MAX_TOLD:,} more; --json has all of them.")


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _describe(report: CaptionReport) -> dict[str, Any]:
    return dataclasses.asdict(report) | {"out": str(report.out), "seconds": round(report.seconds, 3)}

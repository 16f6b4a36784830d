"""edge-llava caption: captions every image in folders or in a list of files, one line each."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from edge_llava.cli.caption_report import count, describe_report, print_report
from edge_llava.cli.caption_watch import watch_folders
from edge_llava.cli.display import note, show_progress, show_result
from edge_llava.cli.json_schema import json_schema_option, read_json_schema
from edge_llava.cli.options import EngineChoice, EngineCommand, bundle_option, engine_options, json_option, open_model
from edge_llava.cli.places import note_places
from edge_llava.cli.suffixes import OutFile
from edge_llava.cli.tiles import note_most_tiles
from edge_llava.device.profile import MAX_PARALLEL
from edge_llava.errors import ImageError

if TYPE_CHECKING:
    from edge_llava.bundle.bundle import Bundle
    from edge_llava.captioning.cluster import Cluster
    from edge_llava.captioning.job import CaptionJob
    from edge_llava.captioning.options import CaptionOptions
    from edge_llava.runtime.model import LlavaModel
    from edge_llava.runtime.options import EngineOptions, SamplingOptions


def _whole_or_share(_: click.Context, __: click.Parameter, n_gpus: float) -> float:
    if not (n_gpus <= 1 or n_gpus.is_integer()):
        raise click.BadParameter(f"{n_gpus:g} is neither a share of one GPU nor a whole number of GPUs.")
    return n_gpus


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
    type=click.IntRange(1, MAX_PARALLEL),
    metavar="N",
    help="Answers computed at the same time: for GPUs and computers with many cores. Takes more memory. "
    "Default: as many as tune found best, or 1.",
)
@click.option(
    "--write-metadata",
    "describe",
    type=click.Choice(["image", "xmp"]),
    help="Also write each caption where photo managers look: as XMP and EXIF description into the image file (JPEG, "
    "PNG, WebP, TIFF; the pixels stay as they are), or to IMG.jpg.xmp next to it. Existing descriptions are kept.",
)
@click.option("--replace-descriptions", is_flag=True, help="With --write-metadata: replace existing descriptions.")
@click.option("--watch", is_flag=True, help="Keep running, and caption images as they appear. Ctrl-C ends it.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 86_400),
    default=2.0,
    metavar="SECONDS",
    show_default=True,
    help="With --watch: time between two looks at the folders.",
)
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Compute the answers on a Ray cluster: HOST:PORT of its head, or local. Each machine has the bundle "
    "at the same path. Each worker computes with one thread, or -t.",
)
@click.option(
    "--ray-workers",
    type=click.IntRange(1),
    default=2,
    metavar="N",
    show_default=True,
    help="With --ray: processes that hold the bundle.",
)
@click.option(
    "--ray-gpus",
    type=click.FloatRange(0, 1024),
    default=0.0,
    metavar="X",
    show_default=True,
    callback=_whole_or_share,
    help="GPUs for each worker: a share of one, or a whole number.",
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
    parallel: int | None,
    describe: Literal["image", "xmp"] | None,
    replace_descriptions: bool,
    watch: bool,
    interval: float,
    ray: str | None,
    ray_workers: int,
    ray_gpus: float,
    force: bool,
    bundle: str | None,
    engines: EngineChoice,
    as_json: bool,
) -> None:
    """Caption every image of folders, or of a list of files.

    Subfolders are searched. Each image gets a line of JSON, or of CSV if FILE says so: path, sha256, caption, and where
    it came from. After a stop the same command resumes; new and changed images are added. Images with the same bytes
    are captioned once.
    Unreadable files are reported at the end and retried on the next run; the exit code is 0 unless no image has a
    caption.

    \b
    edge-llava caption photos
    edge-llava caption photos -o photos.jsonl -p "What is this, in one sentence?"
    edge-llava caption a.jpg b.jpg holiday
    edge-llava caption receipts --json-schema receipt.json --sidecar
    edge-llava caption inbox --watch --write-metadata image
    """
    if str(out) == "-":
        raise click.UsageError("--out: captions go to a file that a later run can resume, not to stdout. Name a file.")
    if watch and not any(source.is_dir() for source in sources):
        raise click.UsageError("--watch: name a folder to watch")
    if watch and ray is not None:
        raise click.UsageError("--watch captions on this machine, without --ray")
    if replace_descriptions and describe is None:
        raise click.UsageError("--replace-descriptions: only --write-metadata writes descriptions")
    options = _make_options(
        prompt,
        json_schema,
        sampling=_make_sampling(max_tokens, temp, seed),
        sidecars=sidecar,
        overwrite=force,
        encode_ahead=ahead,
        describe=describe,
        replace_descriptions=replace_descriptions,
        watch=watch,
    )
    from edge_llava.bundle.bundle import open_bundle
    from edge_llava.captioning.job import CaptionJob
    from edge_llava.runtime.options import measured_parallel, unattended
    from edge_llava.runtime.vision.forms import image_forms

    opened = open_bundle(bundle)
    choice = engines if ray is None else replace(engines, threads=engines.threads or 1)  # of each worker
    how = choice.options(opened)
    n_measured = 1 if ray is not None or engines.no_profile else measured_parallel(opened, how)
    how = unattended(how, opened.manifest.language, parallel or n_measured)
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
        if not watch:
            with show_progress() as progress:
                job.check(progress)
        if job.todo and ray is not None:
            from edge_llava.captioning.cluster import Cluster

            cluster = Cluster(ray, ray_workers, how.decoder.n_threads or 1, ray_gpus)
            _caption_on_cluster(job, cluster, opened, options, how)
        elif watch or job.todo:
            note_most_tiles(form)
            with open_model(opened, how, may_move=engines.leaves_blocks_open) as model:
                note_places(model)
                if watch:
                    watch_folders(job, model, sources, interval)
                else:
                    _caption(job, model)
        report = job.report
    print_report(report)
    has_captions = report.n_captioned + report.n_duplicates + report.n_earlier > 0
    if as_json:
        click.echo(json.dumps(describe_report(report), indent=2))
    elif has_captions:
        show_result(report.out)
    if not has_captions and not watch:
        note("edge-llava: no image has a caption.")
        sys.exit((job.first_failure or ImageError()).exit_code)


def _caption(job: CaptionJob, model: LlavaModel) -> None:
    with show_progress() as progress:
        job.caption(model, progress)


def _caption_on_cluster(
    job: CaptionJob, cluster: Cluster, bundle: Bundle, options: CaptionOptions, how: EngineOptions
) -> None:
    from edge_llava.captioning.cluster import ClusterAsking
    from edge_llava.captioning.cluster_worker import Task

    settings = options.digest(bundle.manifest, how.visual_tokens, how.alpha, how.max_tiles)
    task = Task(bundle.path.resolve(), settings, options, how)
    with ClusterAsking(cluster, task) as workers, show_progress() as progress:
        job.caption_with(workers, progress)


def _make_sampling(max_tokens: int, temp: float, seed: int | None) -> SamplingOptions:
    from edge_llava.runtime.options import SamplingOptions

    try:
        return SamplingOptions(temperature=temp, seed=seed, max_new_tokens=max_tokens)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _make_options(
    prompt: str | None,
    json_schema: Path | None,
    *,
    sampling: SamplingOptions,
    sidecars: bool,
    overwrite: bool,
    encode_ahead: bool | None,
    describe: Literal["image", "xmp"] | None,
    replace_descriptions: bool,
    watch: bool,
) -> CaptionOptions:
    from edge_llava.captioning.options import DEFAULT_PROMPT, CaptionOptions

    schema = read_json_schema(json_schema)
    try:
        return CaptionOptions(
            DEFAULT_PROMPT if prompt is None else prompt,
            sampling,
            schema,
            sidecars=sidecars,
            overwrite=overwrite,
            encode_ahead=encode_ahead,
            describe=describe,
            replace_descriptions=replace_descriptions,
            watch=watch,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@contextmanager
def _explain_how_to_resume(job: CaptionJob) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        report = job.report
        if n_done := report.n_captioned + report.n_duplicates + report.n_earlier:
            note(f"{count(n_done, 'caption')} kept in {report.out}; run the same command again to resume.")
        raise

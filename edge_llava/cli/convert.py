"""edge-llava convert: converts a checkpoint to a bundle."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_llava.bundle.language_spec import MIXED, NEED_IMPORTANCE, QUANTS
from edge_llava.bundle.templates import TEMPLATES
from edge_llava.cli.display import format_bytes, note, show_progress, show_result
from edge_llava.cli.options import json_option, size_type
from edge_llava.cli.quant_type import quant_type
from edge_llava.home.directories import check_home, default_bundle, home_directory

if TYPE_CHECKING:
    from edge_llava.bundle.bundle import Bundle
    from edge_llava.conversion.stage_log import StageFigures

# What `edge-llava convert` offers without arguments: bytes to download, bytes of the tower, GiB of the language model.
_SUGGESTION, _DOWNLOAD_BYTES, _TOWER_BYTES = "llava-hf/llava-1.5-7b-hf", 14.1e9, 1.2e9
_LANGUAGE_GIB = {
    "F32": 25.1, "F16": 12.55, "BF16": 12.55, "Q8_0": 6.67, "Q6_K": 5.15, "Q5_K_M": 4.45, "Q5_K_S": 4.33,
    "Q4_K_M": 3.80, "Q4_K+Q5_K": 3.68, "Q4_K_S": 3.59, "Q4_0": 3.57, "IQ4_XS+Q5_K": 3.51, "IQ4_NL": 3.56,
    "IQ4_XS": 3.37, "Q3_K_L": 3.35, "Q3_K_M": 3.07, "Q3_K_S": 2.75, "IQ3_M": 2.90, "IQ3_S": 2.75, "IQ3_XS": 2.60,
    "IQ3_XXS": 2.41, "Q2_K": 2.36, "IQ2_M": 2.20, "IQ2_S": 2.05, "IQ2_XS": 1.89, "IQ2_XXS": 1.73,
}  # fmt: skip


@click.command("convert")
@click.argument("checkpoint", required=False)
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False),
    help="Bundle directory. Default: in the data directory, as the default bundle.",
)
@click.option(
    "--quant",
    type=quant_type,
    metavar="TYPE",
    help=f"Weights of the language model: {', '.join(QUANTS)}. Default: Q4_K_M, or less where that does not fit.",
)
@click.option(
    "--size",
    "size_bytes",
    type=size_type,
    metavar="SIZE",
    help="Choose a type for each matrix of the language model, by what each was measured to lose, so that the bundle "
    "takes no more than SIZE on disk, such as 3.5GB, and loses the least. What --mmproj adds is not counted.",
)
@click.option(
    "--for",
    "room_bytes",
    type=size_type,
    metavar="SIZE",
    help="Take the most exact weights, Q8_0 at most, that fit into so much free memory, such as 6GB on a device of 8.",
)
@click.option(
    "--vision",
    type=click.Choice(["auto", "fp32", "fp16", "int8"]),
    default="auto",
    show_default=True,
    help="Weights of the vision tower. fp16: half the disk, computed in float32. int8: fast on CPUs, within a measured "
    "budget. auto: int8 if it pays off and the language model is quantized too, else fp32.",
)
@click.option(
    "--calibrate", metavar="DIR", help="Images to calibrate int8 on, like those you will use. Default: built-in ones."
)
@click.option(
    "--imatrix",
    metavar="auto|DIR",
    help="Measure which weights of the language model matter, over images and conversations: built-in ones, or a "
    f"directory's. {', '.join(NEED_IMPORTANCE)} always do.",
)
@click.option("--aspect", type=click.Choice(["pad", "crop"]), help="How images that are not square are fitted.")
@click.option(
    "--max-tiles",
    type=click.IntRange(2),
    metavar="N",
    help="Encode an image as at most N squares, the whole image among them, where the model cuts it into tiles. "
    "Default: as many as in training. `chat --max-tiles` limits later.",
)
@click.option(
    "--vision-tower", metavar="DIR", help="CLIP directory or hub id, if the checkpoint does not contain its tower."
)
@click.option("--base", metavar="DIR", help="Directory or hub id that a delta, LoRA adapter or projector belongs to.")
@click.option("--mmproj", is_flag=True, help="Also write mmproj.gguf, the vision part for llama.cpp's own tools.")
@click.option(
    "--template",
    type=click.Choice(list(TEMPLATES)),
    metavar="NAME",
    help=f"Conversation template, if not the one in the config: {', '.join(TEMPLATES)}.",
)
@click.option(
    "--notice",
    metavar="TEXT",
    help="A line shown to everyone who uses the bundle, such as what the model does not know.",
)
@click.option(
    "-t", "--threads", type=click.IntRange(1, 512), metavar="N", help="Threads. Default: as many as a chat uses."
)
@click.option("--force", is_flag=True, help="Replace an existing bundle once the new one is complete.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def command(
    checkpoint: str | None,
    out: str | None,
    quant: str | None,
    size_bytes: int | None,
    room_bytes: int | None,
    vision: str,
    calibrate: str | None,
    imatrix: str | None,
    aspect: str | None,
    max_tiles: int | None,
    vision_tower: str | None,
    base: str | None,
    mmproj: bool,
    template: str | None,
    notice: str | None,
    threads: int | None,
    force: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Convert a LLaVA checkpoint to a bundle for this device.

    CHECKPOINT is a directory, a hub id such as llava-hf/llava-1.5-7b-hf, or `demo`: a small model that comes with
    edge-llava, knows only drawn shapes, and needs no network. Without -o the bundle becomes the default of
    `edge-llava chat`.

    \b
    edge-llava convert ./llava-1.5-7b-hf
    edge-llava convert ./llava-v1.5-7b --vision-tower ./clip-vit-l-14-336
    edge-llava convert ./llava-v1.5-7b-lora --base ./vicuna-7b-v1.5
    edge-llava convert demo
    """
    from edge_llava.conversion.convert import convert, require_converters
    from edge_llava.conversion.stage_log import StageLog
    from edge_llava.device.memory import peak_rss_bytes
    from edge_llava.fitting.room import Room, read_room

    require_converters()
    if sum(value is not None for value in (quant, size_bytes, room_bytes)) > 1:
        raise click.UsageError("--quant, --size and --for each choose the weights; use one of them")
    quant = MIXED if size_bytes is not None else quant
    if calibrate is not None and vision in ("fp32", "fp16"):
        raise click.UsageError(f"--calibrate is for int8; --vision {vision} needs no images")
    default_before = default_bundle()
    if out is None:
        check_home(", or name the bundle's directory with -o")
    if checkpoint is None:
        checkpoint = _suggest(quant or "Q4_K_M", size_bytes, Path(out) if out else home_directory(), yes=yes)
    started = time.perf_counter()
    from edge_llava.bundle.manifest import MAX_NOTICE, is_notice
    from edge_llava.converters.options import EXACT, ConvertOptions

    if notice is not None and not is_notice(notice):
        raise click.UsageError(f"--notice takes one printable line of at most {MAX_NOTICE} characters")

    if imatrix is not None and quant in EXACT:
        raise click.UsageError(f"--imatrix is for weights of fewer bits; it changes nothing about {quant}")
    options = ConvertOptions(
        quant=quant or "Q4_K_M",
        size_bytes=size_bytes,
        vision=vision,  # type: ignore[arg-type]
        calibrate=calibrate,
        imatrix=imatrix,
        aspect=aspect,  # type: ignore[arg-type]
        max_tiles=max_tiles,
        vision_tower=vision_tower,
        base=base,
        template=template,
        mmproj=mmproj,
        notice=notice,
        n_threads=threads,
        overwrite=force,
    )
    room = None if quant is not None else Room(room_bytes) if room_bytes else read_room()

    def warn(text: str) -> None:
        note(f"edge-llava: {text}")

    with show_progress() as progress:
        log = StageLog(progress)
        bundle = convert(
            checkpoint, out, options, room=room, most_exact=room_bytes is not None, progress=log, warn=warn
        )
    seconds = time.perf_counter() - started
    if as_json:
        parity = {stage: dataclasses.asdict(figures) for stage, figures in bundle.manifest.parity.items()}
        result = {
            "bundle": str(bundle.path),
            "bytes": bundle.n_bytes,
            "seconds": seconds,
            "peak_rss_bytes": max(peak_rss_bytes(), *(each.peak_rss_bytes for each in log.figures())),
            "stages": [dataclasses.asdict(each) for each in log.figures()],
            "parity": parity,
        }
        click.echo(json.dumps(result, indent=2, sort_keys=True))
        return
    _show_stages(log.figures())
    _summarize(bundle, seconds, is_default=out is None)
    if out is None and default_before != bundle.name:
        instead = "" if default_before is None else f", in place of {default_before}"
        note(f"{bundle.name} is now the default{instead}")
    show_result(bundle.path)


def _suggest(quant: str, size_bytes: int | None, place: Path, *, yes: bool) -> str:
    """Explains what a conversion without a name would do, and asks."""
    free = shutil.disk_usage(
        next(path for path in (place.absolute(), *place.absolute().parents) if os.path.exists(path))
    ).free
    bundle_bytes = _LANGUAGE_GIB[quant] * 2**30 + _TOWER_BYTES if size_bytes is None else size_bytes
    needed = _DOWNLOAD_BYTES + bundle_bytes
    kind = quant if size_bytes is None else format_bytes(size_bytes)
    note(f"No checkpoint was named. This would download {_SUGGESTION} and convert it to {kind}:")
    note(f"  download  {format_bytes(int(_DOWNLOAD_BYTES))}, kept in the hub's cache")
    note(f"  bundle    {format_bytes(int(bundle_bytes))} in {place}")
    shortage = "" if free > needed else ": NOT ENOUGH"
    note(f"  disk      {format_bytes(int(needed))} of {format_bytes(free)} free{shortage}")
    note("  time      the download, and about ten minutes on a laptop; 3 GB of memory")
    note("To try edge-llava first, without a network: edge-llava chat demo:1")
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("name a checkpoint, or answer with --yes")
        if not click.confirm("Continue?", err=True):
            sys.exit(0)
    return _SUGGESTION


def _show_stages(stages: Sequence[StageFigures]) -> None:
    note("What each stage took, and the most memory that was in use during it:")
    for each in stages:
        note(f"  {each.seconds:6.1f} s  {format_bytes(each.peak_rss_bytes):>8}  {each.stage}")


def _summarize(bundle: Bundle, seconds: float, *, is_default: bool) -> None:
    quantization = bundle.manifest.vision.quantization
    if quantization is not None:
        note(f"Vision in int8: {quantization.describe()}.")
    note("Compared with the checkpoint in float32, stage by stage:")
    for stage, figures in bundle.manifest.parity.items():
        note(f"  {stage:<11}{figures.describe()}")
    note(f"{format_bytes(bundle.n_bytes)} in {seconds:.0f} s.")
    name = "" if is_default else f" -m {bundle.path}"
    note(f"Ask about an image: edge-llava chat img.jpg{name}")

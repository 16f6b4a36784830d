"""edge-llava convert: checkpoint to bundle."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import time
from typing import TYPE_CHECKING

import click

from edge_llava.cli.display import format_bytes, note, show_progress
from edge_llava.cli.options import json_option
from edge_llava.home import home_directory
from edge_llava.manifest import QUANTS

if TYPE_CHECKING:
    from edge_llava.bundle import Bundle

# What `edge-llava convert` alone offers. Sizes of the published files, and of their Q4_K_M bundle.
_SUGGESTION, _DOWNLOAD_BYTES, _BUNDLE_BYTES, _SUGGESTED_QUANT = "llava-hf/llava-1.5-7b-hf", 14.1e9, 5.3e9, "Q4_K_M"


@click.command("convert")
@click.argument("checkpoint", required=False)
@click.option(
    "-o", "--out", type=click.Path(file_okay=False), help="Bundle directory. Default: in the home, as default."
)
@click.option(
    "--quant",
    type=click.Choice(QUANTS, case_sensitive=False),
    default="Q4_K_M",
    show_default=True,
    metavar="TYPE",
    help=f"Weights of the language model: {', '.join(QUANTS)}.",
)
@click.option(
    "--vision",
    type=click.Choice(["auto", "fp32", "fp16"]),
    default="auto",
    show_default=True,
    help="Weights of the vision tower; fp16 halves the disk and is computed in float32.",
)
@click.option("--aspect", type=click.Choice(["pad", "crop"]), help="What becomes of pictures that are not square.")
@click.option(
    "--vision-tower", metavar="DIR", help="CLIP directory or hub id, if the checkpoint does not hold its tower."
)
@click.option("-t", "--threads", type=click.IntRange(1), metavar="N", help="Threads that quantize. Default: all cores.")
@click.option("--force", is_flag=True, help="Replace a bundle that is there already, once the new one is complete.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def command(
    checkpoint: str | None,
    out: str | None,
    quant: str,
    vision: str,
    aspect: str | None,
    vision_tower: str | None,
    threads: int | None,
    force: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Convert a LLaVA checkpoint to a bundle for this device.

    CHECKPOINT is a directory, a hub id such as llava-hf/llava-1.5-7b-hf, or `demo`: a small model made on the spot,
    which has learned nothing and needs no network. Without -o the bundle becomes the default of `edge-llava chat`.

    \b
    edge-llava convert ./llava-1.5-7b-hf
    edge-llava convert ./llava-v1.5-7b --vision-tower ./clip-vit-l-14-336
    edge-llava convert demo
    """
    from edge_llava.conversion import DEMO, convert, require_converters
    from edge_llava.memory import peak_rss_bytes

    if checkpoint is None:
        checkpoint = _suggest(yes)
    started = time.perf_counter()
    require_converters()
    from edge_llava.converters.pipeline import ConvertOptions

    if checkpoint == DEMO:
        note("The demo is a small model with random weights. It has learned nothing: its answers are noise.")
    options = ConvertOptions(
        quant=quant,
        vision=vision,  # type: ignore[arg-type]
        aspect=aspect,  # type: ignore[arg-type]
        vision_tower=vision_tower,
        n_threads=threads,
        overwrite=force,
    )
    with show_progress() as progress:
        bundle = convert(checkpoint, out, options, progress=progress)
    seconds = time.perf_counter() - started
    if as_json:
        parity = {stage: dataclasses.asdict(figures) for stage, figures in bundle.manifest.parity.items()}
        result = {
            "bundle": str(bundle.path),
            "bytes": bundle.n_bytes,
            "seconds": seconds,
            "peak_rss_bytes": peak_rss_bytes(),
            "parity": parity,
        }
        click.echo(json.dumps(result, indent=2, sort_keys=True))
        return
    _summarize(bundle, seconds, is_default=out is None)
    click.echo(str(bundle.path))


def _suggest(yes: bool) -> str:
    """Explains what a conversion without a name would do, and asks."""
    directory = next(path for path in (home_directory(), *home_directory().parents) if path.exists())
    free = shutil.disk_usage(directory).free
    needed = _DOWNLOAD_BYTES + _BUNDLE_BYTES
    note(f"No checkpoint was named. This would download {_SUGGESTION} and convert it to {_SUGGESTED_QUANT}:")
    note(f"  download  {format_bytes(int(_DOWNLOAD_BYTES))}, kept in the hub's cache")
    note(f"  bundle    {format_bytes(int(_BUNDLE_BYTES))} in {home_directory()}")
    note(
        f"  disk      {format_bytes(int(needed))} of {format_bytes(free)} free{'' if free > needed else ': NOT ENOUGH'}"
    )
    note("  time      the download, and about ten minutes on a laptop; 3 GB of memory")
    note("To try the machinery first, without a network: edge-llava convert demo")
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("name a checkpoint, or answer with --yes")
        click.confirm("Continue?", abort=True, err=True)
    return _SUGGESTION


def _summarize(bundle: Bundle, seconds: float, *, is_default: bool) -> None:
    note("Compared with the checkpoint in float32, stage by stage:")
    for stage, figures in bundle.manifest.parity.items():
        note(f"  {stage:<11}{figures.describe()}")
    note(f"{format_bytes(bundle.n_bytes)} in {seconds:.0f} s.")
    name = "" if is_default else f" -m {bundle.path}"
    note(f"Ask about a picture: edge-llava chat img.jpg{name}")

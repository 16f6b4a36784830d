"""edge-llava embed: encodes an image to a file that `chat --embedding` reads."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Literal

import click

from edge_llava.cli.display import note, note_truncated, show_progress, show_result
from edge_llava.cli.images import choose_bundle, open_image
from edge_llava.cli.options import EngineChoice, EngineCommand, bundle_option, engine_options, json_option
from edge_llava.cli.shortage import make_fit
from edge_llava.cli.suffixes import OutFile
from edge_llava.cli.tiles import note_tiles, show_tiles


@click.command("embed", cls=EngineCommand)
@click.argument("image", type=click.Path(allow_dash=True))
@click.option(
    "-o",
    "--out",
    required=True,
    type=OutFile(".safetensors", what="an image embedding"),
    metavar="FILE.safetensors",
    help="File to write.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Number format in the file.",
)
@click.option("--among-several", is_flag=True, help="For conversations with several images.")
@bundle_option
@engine_options("threads", "provider", "visual_tokens", "max_tiles", "alpha", "low_memory", "no_profile")
@json_option
def command(
    image: str,
    out: Path,
    dtype: Literal["float32", "float16"],
    among_several: bool,
    bundle: str | None,
    engines: EngineChoice,
    as_json: bool,
) -> None:
    """Encode an image once, to ask about it later or elsewhere.

    Another device needs the same bundle.

    \b
    edge-llava embed img.jpg -o img.safetensors
    edge-llava chat --embedding img.safetensors -p "What is on the table?"
    """
    from edge_llava.bundle.bundle import open_bundle
    from edge_llava.fitting.bundle_needs import predict_tower_needs
    from edge_llava.runtime.vision.tower import Tower

    # opened before the digests are compared, so that a wrong path fails fast
    shown = open_image(image, engines.alpha)
    note_truncated([(image, shown)])
    opened = open_bundle(choose_bundle(bundle, [image]))
    with show_progress() as progress:
        opened.verify_digests(trust_earlier=True, progress=progress)
    n_images = 2 if among_several else 1
    options = make_fit(opened, engines.options(opened), force=None, predict=predict_tower_needs)
    with closing(Tower(opened, options)) as tower:
        form = tower.forms.choose(n_images)
        note_tiles([(image, shown)], opened.manifest, form, tuned=not engines.no_profile)
        with show_tiles(tower, [shown], n_images):
            embedding = tower.start(shown, form=form).result()
    embedding.save(out, dtype)
    if as_json:
        click.echo(json.dumps({"file": str(out), "n_tokens": embedding.n_tokens, "key": embedding.key, "dtype": dtype}))
        return
    seconds = embedding.vision_s + embedding.projector_s
    note(f"{embedding.n_tokens} image tokens in {seconds:.2f} s")
    show_result(out)

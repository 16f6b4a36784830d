"""edge-llava embed: a picture to a file that `chat --embedding` reads."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Literal

import click

from edge_llava.cli.display import note, show_progress
from edge_llava.cli.options import (
    bundle_option,
    json_option,
    make_engine_options,
    profile_option,
    provider_option,
    threads_option,
    visual_tokens_option,
)

if TYPE_CHECKING:
    from edge_llava.runtime.vision import VisionProvider


@click.command("embed")
@click.argument("image", type=click.Path(allow_dash=True))
@click.option("-o", "--out", required=True, type=click.Path(dir_okay=False), help="File to write, FILE.safetensors.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Numbers in the file.",
)
@bundle_option
@threads_option
@provider_option
@visual_tokens_option
@profile_option
@json_option
def command(
    image: str,
    out: str,
    dtype: Literal["float32", "float16"],
    bundle: str | None,
    threads: int | None,
    provider: VisionProvider,
    visual_tokens: int | None,
    no_profile: bool,
    as_json: bool,
) -> None:
    """Encode a picture once; ask about it later, or on another device with the same bundle.

    \b
    edge-llava embed img.jpg -o img.safetensors
    edge-llava chat --embedding img.safetensors -p "What is on the table?"
    """
    from edge_llava.bundle import Bundle
    from edge_llava.home import find_bundle
    from edge_llava.runtime.picture import open_picture
    from edge_llava.runtime.picture_encoder import PictureEncoder
    from edge_llava.runtime.threads import count_cores

    picture = open_picture(sys.stdin.buffer.read() if image == "-" else image)
    opened = Bundle.open(find_bundle(bundle))
    with show_progress() as progress:
        opened.verify_digests(trust_earlier=True, progress=progress)
    options = make_engine_options(bundle, threads, None, -1, provider, visual_tokens, no_profile)
    n_threads = options.n_vision_threads or count_cores()
    spinning = options.vision_spinning
    with PictureEncoder(opened, n_threads, provider, spinning=spinning, visual_tokens=visual_tokens) as encoder:
        embedding = encoder.encode(picture)
    embedding.save(out, dtype)
    if as_json:
        click.echo(json.dumps({"file": out, "n_tokens": embedding.n_tokens, "key": embedding.key, "dtype": dtype}))
        return
    seconds = embedding.vision_s + embedding.projector_s
    note(f"{embedding.n_tokens} image tokens in {seconds:.2f} s")
    click.echo(out)

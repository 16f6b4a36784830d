"""edge-llava embed: a picture to a file that `chat --embedding` reads."""

from __future__ import annotations

import json
from typing import Literal

import click

from edge_llava.cli.display import note
from edge_llava.cli.options import bundle_option, engine_options, json_option, make_engine_options, open_model


@click.command("embed")
@click.argument("image", type=click.Path())
@click.option("-o", "--out", required=True, type=click.Path(dir_okay=False), help="File to write, FILE.safetensors.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Numbers in the file.",
)
@bundle_option
@engine_options
@json_option
def command(
    image: str,
    out: str,
    dtype: Literal["float32", "float16"],
    bundle: str | None,
    threads: int | None,
    ctx: int | None,
    gpu_layers: int,
    provider: str,
    as_json: bool,
) -> None:
    """Encode a picture once; ask about it later, or on another device with the same bundle.

    \b
    edge-llava embed img.jpg -o img.safetensors
    edge-llava chat --embedding img.safetensors -p "What is on the table?"
    """
    with open_model(bundle, make_engine_options(threads, ctx, gpu_layers, provider)) as model:
        embedding = model.embed_image(image)
    embedding.save(out, dtype)
    if as_json:
        click.echo(json.dumps({"file": out, "n_tokens": embedding.n_tokens, "key": embedding.key, "dtype": dtype}))
        return
    seconds = embedding.vision_s + embedding.projector_s
    note(f"{embedding.n_tokens} image tokens in {seconds:.2f} s")
    click.echo(out)

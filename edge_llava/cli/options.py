"""Options that several commands share, and what they mean for the engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edge_llava.runtime.model import EngineOptions, LlavaModel

_Command = Callable[..., Any]

bundle_option = click.option(
    "-m", "--model", "bundle", metavar="BUNDLE", envvar="EDGE_LLAVA_MODEL", help="Bundle: a name or a directory."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


threads_option = click.option(
    "-t", "--threads", type=click.IntRange(1, 512), metavar="N", help="CPU threads. Default: the physical cores."
)
provider_option = click.option(
    "--provider",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the vision tower runs.",
)


def engine_options(command: _Command) -> _Command:
    """Adds -t, -c, --gpu-layers and --provider."""
    ctx_help = "Context positions. Default: as trained, at most 4096."
    options = (
        threads_option,
        click.option("-c", "--ctx", type=click.IntRange(16, 1 << 20), metavar="N", help=ctx_help),
        click.option(
            "--gpu-layers",
            type=click.IntRange(-1),
            default=-1,
            metavar="N",
            help="Blocks on the GPU; -1 all, 0 none.",
        ),
        provider_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


def make_engine_options(threads: int | None, ctx: int | None, gpu_layers: int, provider: str) -> EngineOptions:
    """Turns the options of `engine_options` into the runtime's."""
    from edge_llava.runtime.decoder import DecoderOptions
    from edge_llava.runtime.model import EngineOptions

    return EngineOptions(
        decoder=DecoderOptions(n_ctx=ctx, n_threads=threads, n_gpu_layers=gpu_layers),
        n_vision_threads=threads,
        vision_provider=provider,  # type: ignore[arg-type]
    )


def open_model(bundle: str | None, options: EngineOptions) -> LlavaModel:
    """Opens a bundle with progress on stderr."""
    from edge_llava.cli.display import show_progress
    from edge_llava.runtime.model import load

    with show_progress() as progress:
        return load(bundle, options, progress=progress)

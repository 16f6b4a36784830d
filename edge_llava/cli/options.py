"""Options that several commands share, and what they mean for the engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
    "-t",
    "--threads",
    type=click.IntRange(1, 512),
    metavar="N",
    help="CPU threads. Default: as tuned, or the physical cores.",
)
provider_option = click.option(
    "--provider",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the vision tower runs.",
)


gpu_layers_option = click.option(
    "--gpu-layers", type=click.IntRange(-1), default=-1, metavar="N", help="Blocks on the GPU; -1 all, 0 none."
)
visual_tokens_option = click.option(
    "--visual-tokens",
    type=click.IntRange(2),
    metavar="N",
    help="Tokens of a picture, fewer than it has: 288, 192, 144 or 64 of a tower of 336 px, which has 576. "
    "Less to prefill, and less seen. Default: all.",
)
profile_option = click.option("--no-profile", is_flag=True, help="Ignore what `edge-llava tune` measured.")


def engine_options(command: _Command) -> _Command:
    """Adds -t, -c, --gpu-layers, --provider, --visual-tokens and --no-profile."""
    ctx_help = "Context positions. Default: as trained, at most 4096."
    options = (
        threads_option,
        click.option("-c", "--ctx", type=click.IntRange(16, 1 << 20), metavar="N", help=ctx_help),
        gpu_layers_option,
        provider_option,
        visual_tokens_option,
        profile_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


def make_engine_options(
    bundle: str | None,
    threads: int | None,
    ctx: int | None,
    gpu_layers: int,
    provider: str,
    visual_tokens: int | None,
    no_profile: bool,
) -> EngineOptions:
    """The runtime's options: what was measured for the bundle on this device, and over it what the user gave."""
    from edge_llava.cli.display import note
    from edge_llava.runtime.model import EngineOptions, tuned_options

    measured = EngineOptions() if no_profile else tuned_options(bundle, warn=lambda text: note(f"edge-llava: {text}"))
    decoder = replace(measured.decoder, n_ctx=ctx, n_gpu_layers=gpu_layers)
    options = replace(
        measured,
        decoder=decoder,
        vision_provider=provider,  # type: ignore[arg-type]
        visual_tokens=visual_tokens,
    )
    if threads is None:
        return options
    return replace(options, decoder=replace(decoder, n_threads=threads), n_vision_threads=threads)


def open_model(bundle: str | None, options: EngineOptions) -> LlavaModel:
    """Opens a bundle with progress on stderr."""
    from edge_llava.cli.display import show_progress
    from edge_llava.runtime.model import load

    with show_progress() as progress:
        return load(bundle, options, progress=progress)

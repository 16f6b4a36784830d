"""Options that several commands share, and what they mean for the engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edge_llava.runtime.model import LlavaModel
    from edge_llava.runtime.options import EngineOptions, VisionProvider
    from edge_llava.runtime.vision.image import Image
    from edge_llava.runtime.vision.images.alpha import Alpha

_Command = Callable[..., Any]

bundle_option = click.option(
    "-m", "--model", "bundle", metavar="BUNDLE", envvar="EDGE_LLAVA_MODEL", help="Bundle: a name or a directory."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


def _note_choice(context: click.Context, parameter: click.Parameter, value: object) -> None:
    context.meta[f"{__name__}.{parameter.name}"] = value


@dataclass(frozen=True)
class EngineChoice:
    """What the user said about the engines; None, -1 and "auto" where nothing."""

    threads: int | None = None
    ctx: int | None = None
    gpu_layers: int = -1
    provider: VisionProvider = "auto"
    visual_tokens: int | None = None
    low_memory: bool = False
    alpha: Alpha = "white"
    no_profile: bool = False

    @classmethod
    def said(cls) -> EngineChoice:
        """What the user said to the command that runs; defaults for options that it does not have."""
        meta = click.get_current_context().meta
        keys = {field.name: f"{__name__}.{field.name}" for field in fields(cls)}
        return cls(**{name: meta[key] for name, key in keys.items() if key in meta})

    def options(self, bundle: str | None) -> EngineOptions:
        """The runtime's options: what was measured for the bundle on this device, and over it what the user said."""
        from edge_llava.cli.display import note
        from edge_llava.runtime.options import EngineOptions, tuned_options

        def warn(text: str) -> None:
            note(f"edge-llava: {text}")

        measured = EngineOptions() if self.no_profile else tuned_options(bundle, warn=warn)
        decoder = replace(
            measured.decoder,
            n_ctx=self.ctx,
            n_gpu_layers=self.gpu_layers,
            n_threads=self.threads or measured.decoder.n_threads,
            repack=measured.decoder.repack and not self.low_memory,
        )
        return replace(
            measured,
            decoder=decoder,
            n_vision_threads=self.threads or measured.n_vision_threads,
            vision_provider=self.provider,
            visual_tokens=self.visual_tokens,
            low_memory=self.low_memory,
            alpha=self.alpha,
        )

    def arguments(self) -> list[str]:
        """The same choice for another command line."""
        given = {
            "-t": self.threads,
            "-c": self.ctx,
            "--gpu-layers": self.gpu_layers,
            "--provider": self.provider,
            "--visual-tokens": self.visual_tokens,
        }
        texts = [text for name, value in given.items() if value is not None for text in (name, str(value))]
        return (
            texts
            + ["--low-memory"] * self.low_memory
            + ["--alpha", "drop"] * (self.alpha == "drop")
            + ["--no-profile"] * self.no_profile
        )


_ENGINE_OPTIONS = {
    "threads": click.option(
        "-t",
        "--threads",
        type=click.IntRange(1, 512),
        metavar="N",
        help="CPU threads. Default: as tuned, or the physical cores.",
        expose_value=False,
        callback=_note_choice,
    ),
    "ctx": click.option(
        "-c",
        "--ctx",
        type=click.IntRange(16, 1 << 20),
        metavar="N",
        help="Context positions. Default: as trained, at most 4096.",
        expose_value=False,
        callback=_note_choice,
    ),
    "gpu_layers": click.option(
        "--gpu-layers",
        type=click.IntRange(-1),
        default=-1,
        metavar="N",
        help="Language model's blocks on the GPU; -1 all, 0 none.",
        expose_value=False,
        callback=_note_choice,
    ),
    "provider": click.option(
        "--provider",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        show_default=True,
        help="Where the vision tower runs.",
        expose_value=False,
        callback=_note_choice,
    ),
    "visual_tokens": click.option(
        "--visual-tokens",
        type=click.IntRange(2),
        metavar="N",
        help="Tokens of a picture, fewer than it has: 288, 192, 144 or 64 of a tower of 336 px, which has 576. "
        "Less to prefill, and less seen. Default: all.",
        expose_value=False,
        callback=_note_choice,
    ),
    "alpha": click.option(
        "--alpha",
        type=click.Choice(["white", "drop"]),
        default="white",
        show_default=True,
        help="Transparent images: on white, as viewers show them, or as LLaVA's own code has them.",
        expose_value=False,
        callback=_note_choice,
    ),
    "low_memory": click.option(
        "--low-memory",
        is_flag=True,
        help="Less memory for more time: weights stay in their files, the tower goes after each picture.",
        expose_value=False,
        callback=_note_choice,
    ),
    "no_profile": click.option(
        "--no-profile",
        is_flag=True,
        help="Ignore what `edge-llava tune` measured.",
        expose_value=False,
        callback=_note_choice,
    ),
}


def engine_options(*names: str) -> Callable[[_Command], _Command]:
    """A decorator that adds options of the engines, by the fields of EngineChoice; without names all of them.

    The command finds what the user said in `EngineChoice.said()`.
    """

    def decorate(command: _Command) -> _Command:
        for name in reversed(names or tuple(_ENGINE_OPTIONS)):
            command = _ENGINE_OPTIONS[name](command)
        return command

    return decorate


def open_model(bundle: str | None, options: EngineOptions, first_pictures: Sequence[Image] = ()) -> LlavaModel:
    """Opens a bundle with progress on stderr."""
    from edge_llava.cli.display import show_progress
    from edge_llava.runtime.model import load

    with show_progress() as progress:
        return load(bundle, options, first_pictures=first_pictures, progress=progress)

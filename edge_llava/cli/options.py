"""Options that several commands share, and their meaning for the engines."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import click

from edge_llava.cli.completion import complete_bundles

if TYPE_CHECKING:
    from edge_llava.bundle.bundle import Bundle
    from edge_llava.home.image_files.alpha import Alpha
    from edge_llava.runtime.model import LlavaModel
    from edge_llava.runtime.options import EngineOptions, VisionProvider
    from edge_llava.runtime.vision.image import Image

_Command = Callable[..., Any]
FlashAttention = Literal["auto", "on", "off"]

bundle_option = click.option(
    "-m",
    "--model",
    "bundle",
    metavar="BUNDLE",
    envvar="EDGE_LLAVA_MODEL",
    shell_complete=complete_bundles,
    help="Bundle: a name or a directory.",
)
_NO_DEVICE = "none"
_FLASH: dict[str, bool | None] = {"on": True, "off": False}  # "auto" leaves it open
_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


class _Size(click.ParamType[int]):
    """A number of bytes: "8GB", "600 MB", "2.5G"."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", value.strip(), re.IGNORECASE)
        if found is None or not (size := int(float(found[1]) * _UNITS[found[2].upper()])):
            self.fail(f"{value!r} is not a size: write 8GB or 600MB.", param, ctx)
        return size


size_type = _Size()


@dataclass(frozen=True)
class EngineChoice:
    """The user's choices for the engines: the values of `engine_options`, with their defaults."""

    threads: int | None = None
    ctx: int | None = None
    gpu_layers: int = -1
    devices: tuple[str, ...] | None = None
    rpc: tuple[str, ...] = ()
    provider: VisionProvider = "auto"
    visual_tokens: int | None = None
    max_tiles: int | None = None
    low_memory: bool = False
    repack: bool | None = None
    flash_attention: FlashAttention = "auto"
    alpha: Alpha = "white"
    no_profile: bool = False
    load_anyway: bool = False

    @property
    def leaves_blocks_open(self) -> bool:
        """Whether the user did not say how many blocks GPUs get; `tune` may have."""
        return self.gpu_layers < 0

    def options(self, bundle: Bundle) -> EngineOptions:
        """The runtime's options: what was measured for the bundle on this device, overridden by the user's choices."""
        from edge_llava.cli.display import note
        from edge_llava.cli.excess import describe_excess
        from edge_llava.runtime.options import tuned_options

        def warn(text: str) -> None:
            note(f"edge-llava: {text}")

        for text in describe_excess(self.threads, self.ctx, bundle.manifest.language.n_ctx_train):
            warn(text)
        base = self.unmeasured()
        measured = base if self.no_profile else tuned_options(bundle, base, warn=warn)
        flash_attention = _FLASH.get(self.flash_attention, measured.decoder.flash_attention)
        needs_flash = measured.decoder.kv_type == "q8_0"
        decoder = replace(
            measured.decoder,
            n_threads=self.threads or measured.decoder.n_threads,
            adapts_threads=measured.decoder.adapts_threads if self.threads is None else False,
            repack=measured.decoder.repack if self._may_repack is None else self._may_repack,
            flash_attention=flash_attention,
            kv_type="auto" if needs_flash and flash_attention is False else measured.decoder.kv_type,
        )
        return replace(measured, decoder=decoder, n_vision_threads=self.threads or measured.n_vision_threads)

    def unmeasured(self) -> EngineOptions:
        """The runtime's options where nothing was measured. Connects to RPC servers, so that their devices are seen."""
        from edge_llava.cli.crashes import explain_aborts
        from edge_llava.ggml.rpc import connect_rpc
        from edge_llava.runtime.options import DecoderOptions, EngineOptions

        if self.rpc:
            explain_aborts()
            connect_rpc(self.rpc)
        return EngineOptions(
            DecoderOptions(
                n_ctx=self.ctx,
                n_gpu_layers=self.gpu_layers,
                devices=self.devices,
                repack=self._may_repack,
                flash_attention=_FLASH.get(self.flash_attention),
            ),
            vision_provider=self.provider,
            visual_tokens=self.visual_tokens,
            max_tiles=self.max_tiles,
            low_memory=self.low_memory,
            alpha=self.alpha,
        )

    @property
    def _may_repack(self) -> bool | None:
        return False if self.low_memory and self.repack is None else self.repack

    def arguments(self) -> list[str]:
        """The same choice for another command line."""
        given = {
            "-t": self.threads,
            "-c": self.ctx,
            "--gpu-layers": self.gpu_layers,
            "--device": self.devices if self.devices is None else ",".join(self.devices) or _NO_DEVICE,
            "--rpc": ",".join(self.rpc) or None,
            "--provider": self.provider,
            "--visual-tokens": self.visual_tokens,
            "--max-tiles": self.max_tiles,
            "--flash-attention": self.flash_attention,
        }
        texts = [text for name, value in given.items() if value is not None for text in (name, str(value))]
        return (
            texts
            + ["--low-memory"] * self.low_memory
            + ["--no-repack"] * (self.repack is False)
            + ["--repack"] * (self.repack is True)
            + ["--alpha", "drop"] * (self.alpha == "drop")
            + ["--no-profile"] * self.no_profile
            + ["--force"] * self.load_anyway
        )


def _read_devices(ctx: click.Context, _: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...] | None:
    """The names in `--device`, which may be repeated and may be lists; () for "none", None where it is not given."""
    names = [name.strip() for value in values for name in value.split(",")]
    if not all(names) or (_NO_DEVICE in names and len(names) > 1):
        raise click.BadParameter("give names of devices, or none alone.")
    if ctx.params.get("gpu_layers") == 0 and names not in ([], [_NO_DEVICE]):
        raise click.BadParameter("--gpu-layers 0 puts nothing on a device.")
    if ctx.params.get("gpu_layers", -1) > 0 and names == [_NO_DEVICE]:
        raise click.BadParameter("--gpu-layers needs a device.")
    return None if not names else tuple(name for name in names if name != _NO_DEVICE)


def _read_servers(ctx: click.Context, _: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """The addresses in `--rpc`, which may be repeated and may be lists."""
    from edge_llava.ggml.rpc import RPC_ADDRESS

    addresses = tuple(name.strip() for value in values for name in value.split(","))
    wrong = [address for address in addresses if not RPC_ADDRESS.fullmatch(address)]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r} is not HOST:PORT.")
    return addresses


_ENGINE_OPTIONS = {
    "threads": click.option(
        "-t",
        "--threads",
        type=click.IntRange(1, 512),
        metavar="N",
        help="CPU threads. Default: as tuned, else one per big physical core, within the CPU quota of a container.",
    ),
    "ctx": click.option(
        "-c",
        "--ctx",
        type=click.IntRange(16, 1 << 20),
        metavar="N",
        help="Context positions. Default: as trained, at most 4096.",
    ),
    "gpu_layers": click.option(
        "--gpu-layers",
        type=click.IntRange(-1),
        default=-1,
        metavar="N",
        is_eager=True,  # --device is compared with it
        help="Blocks of the language model on GPUs. Default: all, if llama.cpp sees a GPU; 0 computes nothing there.",
    ),
    "devices": click.option(
        "--device",
        "devices",
        multiple=True,
        callback=_read_devices,
        metavar="NAME",
        help="GPU for the language model, as `edge-llava doctor` lists them, such as CUDA0; repeatable. "
        "none computes on the CPU. Default: all.",
    ),
    "rpc": click.option(
        "--rpc",
        multiple=True,
        callback=_read_servers,
        metavar="HOST:PORT",
        help="Also use the devices of llama.cpp's rpc-server there; repeatable. The protocol is neither "
        "authenticated nor encrypted: use a tunnel, or stay on this computer.",
    ),
    "provider": click.option(
        "--provider",
        type=click.Choice(["auto", "cpu", "cuda", "tensorrt", "coreml", "directml", "openvino"]),
        default="auto",
        show_default=True,
        help="Where the vision tower runs; auto is CUDA where it starts, else the CPU.",
    ),
    "visual_tokens": click.option(
        "--visual-tokens",
        type=click.IntRange(2),
        metavar="N",
        help="Use fewer tokens for an image: 288, 192, 144 or 64 of the 576 of a 336 px tower. "
        "Faster, with less visual detail. Default: all.",
    ),
    "max_tiles": click.option(
        "--max-tiles",
        type=click.IntRange(2),
        metavar="N",
        help="Encode an image as at most N squares, the whole image among them, where a model cuts it into tiles. "
        "Faster, with less visual detail. Default: as converted.",
    ),
    "alpha": click.option(
        "--alpha",
        type=click.Choice(["white", "drop"]),
        default="white",
        show_default=True,
        help="Transparent images: on white, as viewers show them, or with alpha dropped, as LLaVA's own code does.",
    ),
    "low_memory": click.option(
        "--low-memory",
        is_flag=True,
        help="Less memory, more time: weights stay in their files, and the tower is freed after each image.",
    ),
    "flash_attention": click.option(
        "--flash-attention",
        type=click.Choice(["auto", "on", "off"]),
        default="auto",
        show_default=True,
        help="Attention that does not keep every score; off may help where a GPU's driver fails. auto: as tuned, else "
        "llama.cpp decides.",
    ),
    "repack": click.option(
        "--repack/--no-repack",
        default=None,
        help="Rearrange the language model's weights for this CPU, or do not, as with --low-memory: mostly less time "
        "for a token, but memory that the system cannot take back. As tuned, else where images are not slower for it.",
    ),
    "no_profile": click.option(
        "--no-profile",
        is_flag=True,
        help="Ignore what `edge-llava tune` measured.",
    ),
    "load_anyway": click.option(
        "--force",
        "load_anyway",
        is_flag=True,
        help="Load the bundle even if there is too little memory for it.",
    ),
}


class EngineCommand(click.Command):
    """A command with `engine_options`, whose function takes their values as `engines: EngineChoice`."""

    def invoke(self, ctx: click.Context) -> Any:
        """Calls the command's function."""
        names = {field.name for field in fields(EngineChoice)} & ctx.params.keys()
        ctx.params["engines"] = EngineChoice(**{name: ctx.params.pop(name) for name in names})
        return super().invoke(ctx)


def engine_options(*names: str, without: str = "") -> Callable[[_Command], _Command]:
    """A decorator that adds options of the engines to an `EngineCommand`.

    Args:
        names: Fields of EngineChoice. Without names, all are added; fields without an option keep their defaults.
        without: A field whose option is left out.
    """

    def decorate(command: _Command) -> _Command:
        for name in reversed(names or tuple(_ENGINE_OPTIONS)):
            command = command if name == without else _ENGINE_OPTIONS[name](command)
        return command

    return decorate


def open_model(
    bundle: Bundle,
    options: EngineOptions,
    first_images: Sequence[Image] = (),
    *,
    force: bool | None = None,
    may_move: bool | None = None,
) -> LlavaModel:
    """Opens a bundle as a model, with progress on stderr. `may_move` is as of `make_fit`.

    Raises:
        BackendError: If it cannot fit in memory and `force` is not set. None: the command has no --force.
    """
    from edge_llava.cli.crashes import avoid_crash, explain_aborts
    from edge_llava.cli.display import show_progress
    from edge_llava.cli.shortage import make_fit
    from edge_llava.runtime.model import LlavaModel

    explain_aborts()
    options = make_fit(bundle, avoid_crash(bundle, options, may_move=may_move), force=force, may_move=may_move)
    with show_progress() as progress:
        return LlavaModel(bundle, options, first_images=first_images, progress=progress)

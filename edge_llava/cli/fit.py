"""edge-llava fit: what a bundle, or a checkpoint, takes in memory, and with which settings it fits."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_llava.cli.display import show, show_progress
from edge_llava.cli.options import EngineChoice, EngineCommand, engine_options, json_option, size_type
from edge_llava.cli.printable import printable_line
from edge_llava.cli.quant_type import quant_type

if TYPE_CHECKING:
    from edge_llava.bundle.bundle import Bundle
    from edge_llava.fitting.needs import MemoryNeeds
    from edge_llava.fitting.quants import QuantNeeds
    from edge_llava.fitting.room import Room
    from edge_llava.fitting.settings import Setting
    from edge_llava.runtime.options import EngineOptions


_MOST_SHOWN = 8
_SHOWN_BYTES = 10_000_000
_VERDICTS = {
    "fits": "It fits.",
    "slow": "It fits if its weights are read from the disk again and again, which is slow.",
    "too much": "It does not fit.",
}


@dataclass(frozen=True)
class _Fit:
    """What a bundle takes with these options, at its full context and at first, and what would fit or be slow."""

    bundle: Bundle
    options: EngineOptions
    needs: MemoryNeeds
    first: MemoryNeeds
    room: Room
    settings: list[Setting]
    slow: list[Setting]


@click.command("fit", cls=EngineCommand)
@click.argument("source", metavar="[BUNDLE|CHECKPOINT]", required=False, envvar="EDGE_LLAVA_MODEL")
@click.option("--quant", type=quant_type, metavar="TYPE", help="Of a checkpoint.")
@click.option("--base", metavar="DIR", help="Of a checkpoint that is a delta, a LoRA or a projector, as of convert.")
@click.option("--vision-tower", metavar="DIR", help="Of a checkpoint that does not contain its tower.")
@click.option(
    "--for",
    "room_bytes",
    type=size_type,
    metavar="SIZE",
    help="Free memory of another device, for the CPU. Default: of this.",
)
@engine_options("ctx", "gpu_layers", "devices", "rpc", "max_tiles", "low_memory", "repack", "no_profile")
@json_option
def command(
    source: str | None,
    quant: str | None,
    base: str | None,
    vision_tower: str | None,
    room_bytes: int | None,
    engines: EngineChoice,
    as_json: bool,
) -> None:
    """Say how much memory a bundle takes, part by part, and what fits. Nothing is loaded.

    Of a checkpoint, each quantization is estimated before anything is converted. The exit code is 1 if it does not
    fit.

    \b
    edge-llava fit
    edge-llava fit my-bundle -c 2048
    edge-llava fit ./llava-1.5-7b-hf --for 6GB
    """
    from edge_llava.fitting.room import Room, read_room

    if source is not None and _is_checkpoint(source):
        room = Room(room_bytes) if room_bytes else read_room()
        _fit_checkpoint(source, quant, base, vision_tower, engines, room, as_json=as_json)
        return
    from edge_llava.bundle.bundle import open_bundle
    from edge_llava.fitting.bundle_needs import predict_first_needs, predict_needs, used_devices
    from edge_llava.fitting.settings import find_settings

    if quant is not None or base is not None or vision_tower is not None:
        raise click.UsageError("--quant, --base and --vision-tower are of a checkpoint, and this is a bundle")
    bundle = open_bundle(source)
    options = engines.options(bundle)
    if room_bytes:  # of another device, whose GPUs are not known
        options = replace(options, decoder=replace(options.decoder, n_gpu_layers=-1, devices=()))
    room = Room(room_bytes) if room_bytes else read_room(used_devices(options))
    needs, first = predict_needs(bundle, options), predict_first_needs(bundle, options)
    verdict = room.judge(needs)
    settings = [] if verdict == "fits" else find_settings(bundle, options, room, predict_needs)
    is_short = verdict == "too much" and not settings
    slow = find_settings(bundle, options, room, predict_needs, "slow") if is_short else []
    fit = _Fit(bundle, options, needs, first, room, settings, slow)
    if as_json:
        click.echo(json.dumps(_facts(fit), indent=2))
    else:
        for line in _lines(fit):
            show(printable_line(line))
    if verdict == "too much":
        raise click.exceptions.Exit(1)


def _is_checkpoint(source: str) -> bool:
    path = Path(source).expanduser()
    is_hub_id = not path.exists() and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) is not None
    return (path / "config.json").is_file() or is_hub_id


def _lines(fit: _Fit) -> list[str]:
    from edge_llava.fitting.needs import MAIN
    from edge_llava.runtime.options import n_ctx

    bundle, options, needs, room = fit.bundle, fit.options, fit.needs, fit.room
    size = n_ctx(bundle.manifest.language, options.decoder)
    lines = [f"{bundle.name}, {bundle.manifest.language.quant}, with {size} positions takes"]
    for device in (MAIN, *needs.devices):
        place = "of main memory" if device == MAIN else f"of {device}"
        taken = room.main_needs(needs) if device == MAIN else needs.on_device(device)
        free = room.free_of(device)
        of_free = "" if free is None else f"; {free / 1e9:.2f} GB are free"
        lines += [f"  {taken / 1e9:.2f} GB {place}{of_free}", f"    {needs.describe(device)}"]
    if needs.n_bytes - fit.first.n_bytes >= _SHOWN_BYTES:
        lines.append(f"  {fit.first.n_bytes / 1e9:.2f} GB at first: the KV cache grows with the conversation")
    lines.append(_VERDICTS[room.judge(needs)])
    if fit.settings:
        lines.append("These fit:")
        lines += [
            f"  {setting.words:<24} {setting.needs.n_bytes / 1e9:.2f} GB" for setting in fit.settings[:_MOST_SHOWN]
        ]
    elif room.judge(needs) != "fits":
        lines.append("No setting fits. Convert with fewer bits: edge-llava fit CHECKPOINT says which.")
        if fit.slow:
            lines += ["Slow, because weights are read from the disk again and again:", f"  {fit.slow[0].words}"]
    return lines


def _facts(fit: _Fit) -> dict[str, Any]:
    from edge_llava.fitting.needs import MAIN
    from edge_llava.runtime.options import n_ctx

    bundle, options, needs, room = fit.bundle, fit.options, fit.needs, fit.room
    return {
        "bundle": str(bundle.path),
        "quant": bundle.manifest.language.quant,
        "n_ctx": n_ctx(bundle.manifest.language, options.decoder),
        "verdict": room.judge(needs),
        "main_bytes": needs.n_bytes,
        "first_main_bytes": fit.first.n_bytes,
        "kept_bytes": needs.kept_bytes,
        "free_bytes": room.free_of(MAIN),
        "devices": {name: {"bytes": needs.on_device(name), "free_bytes": room.free_of(name)} for name in needs.devices},
        "parts": [
            {"name": part.name, "bytes": part.n_bytes, "device": part.device or "main", "is_mapped": part.is_mapped}
            for part in needs.parts
        ],
        "settings": [{"words": setting.words, "main_bytes": setting.needs.n_bytes} for setting in fit.settings],
    }


def _fit_checkpoint(
    source: str,
    quant: str | None,
    base: str | None,
    vision_tower: str | None,
    engines: EngineChoice,
    room: Room,
    *,
    as_json: bool,
) -> None:
    from edge_llava.conversion.convert import open_checkpoint, require_converters

    require_converters()
    from edge_llava.converters.options import ConvertOptions
    from edge_llava.fitting.needs import MAIN
    from edge_llava.fitting.quants import LADDER, list_needs

    with show_progress() as progress:
        checkpoint = open_checkpoint(source, vision_tower, base, progress=progress)
    options = engines.unmeasured()
    options = replace(options, decoder=replace(options.decoder, repack=False))  # where memory is short, nothing is
    all_needs = list_needs(checkpoint, options, ConvertOptions(), LADDER if quant is None else (quant,))
    best = next((each.quant for each in all_needs if room.judge(each.needs) == "fits"), None)
    free = room.free_of(MAIN)
    if as_json:
        click.echo(json.dumps(_quant_facts(checkpoint.name, all_needs, room, best), indent=2))
    else:
        of_free = "" if free is None else f"; {free / 1e9:.2f} GB are free"
        size = options.decoder.n_ctx or min(checkpoint.config.language.n_ctx_train, 4096)
        show(printable_line(f"{checkpoint.name} with {size} positions would take{of_free}"))
        for each in all_needs:
            verdict = {"fits": "fits", "slow": "slow", "too much": "too much"}[room.judge(each.needs)]
            mark = "  <- the most exact that fits" if each.quant == best and len(all_needs) > 1 and free else ""
            show(f"  {each.quant:<8} {each.needs.n_bytes / 1e9:6.2f} GB  {verdict}{mark}")
    if best is None:
        raise click.exceptions.Exit(1)


def _quant_facts(name: str, all_needs: list[QuantNeeds], room: Room, best: str | None) -> dict[str, Any]:
    from edge_llava.fitting.needs import MAIN

    return {
        "checkpoint": name,
        "free_bytes": room.free_of(MAIN),
        "best": best,
        "quants": {
            each.quant: {
                "main_bytes": each.needs.n_bytes,
                "bundle_bytes": each.bundle_bytes,
                "verdict": room.judge(each.needs),
            }
            for each in all_needs
        },
    }

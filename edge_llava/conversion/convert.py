"""The door to the converters: what a user names becomes a bundle in its place. Knows both rooms, like `verify`."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_llava.bundle.bundle import Bundle
from edge_llava.conversion.memory_hint import find_shortage
from edge_llava.conversion.speed_hint import find_slowness
from edge_llava.demo import CHECKPOINT, NAME, NOTICE
from edge_llava.errors import ConversionError, MissingExtra
from edge_llava.fitting.needs import MAIN
from edge_llava.home.directories import bundles_directory, check_home, set_default_bundle
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent

if TYPE_CHECKING:
    from edge_llava.converters.checkpoint import Checkpoint
    from edge_llava.converters.options import ConvertOptions
    from edge_llava.fitting.room import Room

_log = logging.getLogger("edge_llava.convert")


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    options: ConvertOptions | None = None,
    *,
    room: Room | None = None,
    most_exact: bool = False,
    progress: ProgressCallback = silent,
    warn: Callable[[str], None] = _log.warning,
) -> Bundle:
    """Converts a checkpoint to a bundle.

    Args:
        source: Directory, hub id, or "demo".
        out: The bundle's directory; None puts it into the home as `<name>-<quant>` and makes it the default.
        options: What to make.
        room: The memory that the bundle is to run in: a quantization that fits takes the place of the options' own.
        most_exact: That is the most exact one that fits; otherwise Q4_K_M, or less where that does not fit.
        progress: Receives stages and bytes.
        warn: Called with a message if there is little memory, or another quantization than Q4_K_M was chosen.

    Raises:
        MissingExtra: If the [convert] extra is not installed.
        CheckpointError: If the source is not a supported, complete checkpoint.
        ConversionError: If the bundle cannot be made, or nothing fits into `room`; nothing is left behind.
        ImageError: If there are no images to measure with, or one cannot be read.
        DataError: If conversations to measure with cannot be read.
    """
    check_named(str(source), None if options is None else options.base)
    from edge_llava.conversion.measuring_set import MeasuringSet
    from edge_llava.converters.options import ConvertOptions
    from edge_llava.converters.staging import check_target

    options = options or ConvertOptions()
    if str(source) == NAME and options.notice is None:
        options = replace(options, notice=NOTICE)
    if out is None:
        check_home(", or name the bundle's directory with -o")
    target = _find_target(source, out, options)
    check_target(target, overwrite=options.overwrite)  # before a download of many gigabytes
    measuring = MeasuringSet.choose(options, is_demo=str(source) == NAME)
    checkpoint = open_checkpoint(source, options.vision_tower, options.base, progress=progress)
    progress(ProgressEvent("loading transformers", 0, 1, "items"))  # seconds, after what may be refused at once
    from edge_llava.converters.pipeline import stage
    from edge_llava.parity.verify import measure

    progress(ProgressEvent("loading transformers", 1, 1, "items"))
    if room is not None:
        options = _choose_quant(str(source), checkpoint, options, room, warn, most_exact=most_exact)
        target = _find_target(source, out, options)
    if hint := find_slowness(options.quant):
        warn(hint)
    shortage = find_shortage(checkpoint, tries_int8=options.tries_int8)
    if shortage is not None:
        warn(shortage)
    dialogues = measuring.dialogues if options.measures_importance else ()
    with stage(
        checkpoint, target, options, calibration=measuring.images(), dialogues=dialogues, progress=progress
    ) as staged:
        staged.seal(measure(staged.bundle, checkpoint, staged.truth, progress))
    bundle = Bundle.open(target)
    bundle.remember_digests()
    if out is None:
        set_default_bundle(str(bundle.path))
    return bundle


def _find_target(source: str | os.PathLike[str], out: str | os.PathLike[str] | None, options: ConvertOptions) -> Path:
    kind = options.quant if options.size_bytes is None else f"{options.size_bytes / 1e9:.3g}gb"
    target = default_output(str(source), kind) if out is None else Path(os.path.realpath(out))
    return target.resolve() if os.path.islink(target) else target  # a link stays, and what it points to is replaced


def _choose_quant(
    source: str,
    checkpoint: Checkpoint,
    options: ConvertOptions,
    room: Room,
    warn: Callable[[str], None],
    *,
    most_exact: bool,
) -> ConvertOptions:
    from edge_llava.converters.options import EXACT
    from edge_llava.fitting.quants import LADDER, USUAL, propose_quant

    quant = propose_quant(checkpoint, room, options, most_exact=most_exact)
    free = room.free_of(MAIN) or 0
    if quant is None and most_exact:
        raise ConversionError(
            f"{checkpoint.name} does not fit into {free / 1e9:.1f} GB, not even in {LADDER[-1]}. "
            f"See: edge-llava fit {source}"
        )
    if quant is None:
        warn(f"{checkpoint.name} fits in no quantization into the {free / 1e9:.1f} GB that are free here.")
        return options
    if most_exact:
        warn(f"{quant} is the most exact quantization that fits into {free / 1e9:.1f} GB.")
    elif quant != USUAL:
        warn(f"{quant}, because {USUAL} does not fit into the {free / 1e9:.1f} GB that are free here (--quant).")
    if options.imatrix is not None and quant in EXACT:
        warn(f"--imatrix changes nothing about {quant}: nothing is measured.")
        return replace(options, quant=quant, imatrix=None)
    return replace(options, quant=quant)


def open_checkpoint(
    source: str | os.PathLike[str],
    vision_tower: str | None = None,
    base: str | None = None,
    *,
    progress: ProgressCallback = silent,
) -> Checkpoint:
    """Opens what the user named: a directory, a hub id, or the embedded demo.

    Raises:
        MissingExtra, CheckpointError: As `convert`.
    """
    require_converters()
    from edge_llava.converters.places import Places

    named = str(CHECKPOINT if str(source) == NAME else source)
    places = Places.find(named, vision_tower, base, progress)
    progress(ProgressEvent("loading torch", 0, 1, "items"))
    from edge_llava.converters.checkpoint import Checkpoint  # after what is missing was refused

    progress(ProgressEvent("loading torch", 1, 1, "items"))
    return Checkpoint.read(places)


def check_named(source: str, base: str | None = None) -> None:
    """Checks what the user named, before anything slow: nothing is read or downloaded.

    Raises:
        MissingExtra, CheckpointError: As `convert`.
    """
    require_converters()
    from edge_llava.converters.places import check_source

    for named in (source, base):
        if named is not None and named != NAME:
            check_source(named)


def default_output(source: str, kind: str) -> Path:
    """Where a bundle goes when no directory is given: named after the checkpoint, in letters that a name may have.

    Args:
        source: What the user named.
        kind: Its quantization, or its size.
    """
    from edge_llava.converters.hub import find_snapshot

    directory = Path(os.path.expanduser(source)).absolute()
    snapshot = find_snapshot(directory)  # the hub's cache calls a model's directory by its commit
    name = directory.name if snapshot is None else snapshot[0].rpartition("/")[2]
    plain = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:100]
    return bundles_directory() / f"{plain or 'llava'}-{kind.lower()}"


def require_converters() -> None:
    """
    Raises:
        MissingExtra: If the [convert] extra is not installed; found without importing it.
    """
    from importlib.util import find_spec

    for package in ("torch", "transformers", "optimum", "onnx", "peft", "sentencepiece", "gguf", "huggingface_hub"):
        if find_spec(package) is None:
            raise MissingExtra("convert", "converting a checkpoint", package)
    if find_spec("onnxruntime") is None:  # the result is compared with the checkpoint
        raise MissingExtra("cpu", "checking the converted tower", "onnxruntime")

"""Refuses to load a bundle that cannot fit in memory, before any work; the system would just end the process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edge_llava.cli.display import note
from edge_llava.errors import BackendError

if TYPE_CHECKING:
    from edge_llava.bundle.bundle import Bundle
    from edge_llava.fitting.needs import MemoryNeeds
    from edge_llava.fitting.room import Room
    from edge_llava.fitting.settings import Predict, Setting
    from edge_llava.runtime.options import EngineOptions

_MOST_SHOWN = 3


def make_fit(
    bundle: Bundle,
    options: EngineOptions,
    *,
    force: bool | None,
    may_shorten: bool | None = None,
    may_move: bool | None = None,
    room: Room | None = None,
    predict: Predict | None = None,
    may_be_slow: bool = False,
) -> EngineOptions:
    """The options to load a bundle with: those given, or, where they do not fit, with what was left open changed.

    Notes what is changed.

    Args:
        bundle: To be loaded.
        options: How.
        force: Load it as requested in any case; None: the command has no --force.
        may_shorten: Whether the context was left open; None: if the options do not say its length.
        may_move: Whether the number of blocks on GPUs was left open, though `tune` may have chosen it; None: if the
            options do not say it.
        room: What is free; None: asks the system.
        predict: Says what is taken; None: by the whole bundle.
        may_be_slow: Whether weights may be read from the disk again and again where nothing else is possible.

    Raises:
        BackendError: If it cannot fit; the message says what would.
    """
    from edge_llava.fitting.bundle_needs import estimate_needs, predict_needs, used_devices
    from edge_llava.fitting.room import read_room
    from edge_llava.fitting.settings import adapt, find_settings
    from edge_llava.ggml.library import may_see_gpus

    devices = used_devices(options) if options.decoder.may_offload and may_see_gpus() else ()
    room = room or read_room(devices)
    if not devices and room.judge(estimate_needs(bundle, options)) == "fits":  # without asking llama.cpp
        return options
    predict = predict or predict_needs
    needs = predict(bundle, options)
    verdict = room.judge(needs)
    if verdict == "fits":
        return options
    is_open = options.decoder.n_ctx is None if may_shorten is None else may_shorten
    setting = None if force else adapt(bundle, options, room, predict, may_shorten=is_open, may_move=may_move)
    if setting is None and may_be_slow and verdict == "too much":
        setting = adapt(bundle, options, room, predict, may_shorten=is_open, may_move=may_move, verdict="slow")
    if setting is not None:
        note(f"edge-llava: {describe_memory(bundle.name, needs, room)}. Continuing with {setting.words}.")
        return setting.options
    fitting = find_settings(bundle, options, room, predict)
    slow = find_settings(bundle, options, room, predict, "slow") if verdict == "too much" and not fitting else []
    text = describe_shortage(bundle.name, needs, room, fitting, slow)
    if verdict == "too much" and not force:
        raise BackendError(text if force is None else f"{text} --force tries all the same.")
    note(f"edge-llava: {text}")
    return options


def describe_shortage(
    name: str, needs: MemoryNeeds, room: Room, settings: Sequence[Setting], slow: Sequence[Setting] = ()
) -> str:
    """What a bundle takes, what is free, and what would fit, or else run slowly."""
    fitting = ", ".join(f"{setting.words} ({setting.needs.n_bytes / 1e9:.2f} GB)" for setting in settings[:_MOST_SHOWN])
    advice = f"What fits: {fitting}." if fitting else "Close other programs, or convert with fewer bits (--quant)."
    if room.judge(needs) == "slow":
        advice = f"Its weights will be read from the disk again and again. {advice}"
    if slow:
        advice += f" Slow, because weights are read from the disk again and again: {slow[0].words}."
    return f"{describe_memory(name, needs, room)}. {advice} See: edge-llava fit"


def describe_memory(name: str, needs: MemoryNeeds, room: Room) -> str:
    """What a bundle takes, and what is free, on the device where it does not fit."""
    from edge_llava.fitting.needs import MAIN

    free_by_device = {device: room.free_of(device) for device in needs.devices}
    short = [device for device, free in free_by_device.items() if free is not None and needs.on_device(device) > free]
    device = short[0] if short else MAIN
    takes = needs.on_device(device) if short else room.main_needs(needs)
    place = f" of {device}" if short else ""
    free = room.free_of(device) or 0
    return f"{name} takes {takes / 1e9:.2f} GB{place} ({needs.describe(device)}), and {free / 1e9:.2f} GB are free"

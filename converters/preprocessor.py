"""A checkpoint's image processor: preprocessor_config.json, or, since transformers 5, part of processor_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_llava.converters.json_file import read_json, shown
from edge_llava.converters.towers import TowerKind

_RESAMPLE = (3, "bicubic")
_RESCALE = 1 / 255
_BOTH_SIDES = {"height", "width"}
_READ = ("do_pad", "image_mean", "image_std")
# How a single image is fitted by transformers' processors, "fast" or not. Unknown ones are the tower's own.
_ASPECTS = {"CLIPImageProcessor": "crop", "LlavaImageProcessor": "crop", "SiglipImageProcessor": "squash"}
_STEPS = ("do_resize", "do_rescale", "do_normalize")


def read_preprocessor(directory: Path, faults: list[str]) -> Mapping[str, Any]:
    """Returns the image processor's settings, if any; adds contradictions between the two files to `faults`."""
    path, outer = directory / "preprocessor_config.json", directory / "processor_config.json"
    own = read_json(path) if path.is_file() else {}
    inner = read_json(outer).get("image_processor") if outer.is_file() else None
    if inner is None:
        return own
    if not isinstance(inner, dict):
        faults.append(f"processor_config.json: image_processor is {shown(inner)}, expected an object")
        return own
    faults += [
        f"{key} is {shown(own[key])} in preprocessor_config.json and {shown(inner[key])} in processor_config.json"
        for key in (*_READ, *_STEPS, "do_center_crop", "resample", "rescale_factor", "size", "crop_size")
        if key in own and key in inner and own[key] != inner[key]
    ]
    return {**inner, **own}


def find_aspect(settings: Mapping[str, Any], kind: TowerKind) -> str:
    """Finds how images become one square in a checkpoint of the Hugging Face layout: "pad", "crop" or "squash".

    Args:
        settings: From `read_preprocessor`; may be sparse.
        kind: Of the tower.
    """
    named = str(settings.get("image_processor_type")).removesuffix("Fast").removesuffix("Pil")
    aspect, pads = _ASPECTS.get(named, kind.own_aspect), settings.get("do_pad")
    # The hub's CLIP processors crop, yet the models were trained padded; only an explicit do_pad false keeps the crop.
    is_padded = (kind.is_padded and aspect == "crop") if pads is None else pads is not False
    return "pad" if is_padded else aspect


def check_preprocessor(settings: Mapping[str, Any], aspect: str, image_size: int | None, faults: list[str]) -> None:
    """Adds the settings that differ from what the runtime computes, which is transformers' steps in their order.

    Args:
        settings: From `read_preprocessor`; may be sparse.
        aspect: "pad", "crop", "squash" or "anyres"; only "crop" needs the centre crop, and "squash" has none.
        image_size: Side of the tower's input in pixels; None if the tower is elsewhere.
        faults: List to add to.
    """
    steps = (*_STEPS, "do_center_crop") if aspect == "crop" else _STEPS
    wrong = [
        f"{key} is {shown(settings[key])}, expected true" for key in steps if settings.get(key) not in (True, None)
    ]
    if settings.get("resample") is not None and settings["resample"] not in _RESAMPLE:
        wrong.append(f"resample is {shown(settings['resample'])}, expected 3 (bicubic)")
    factor = settings.get("rescale_factor")
    if factor is not None and not (isinstance(factor, float) and abs(factor - _RESCALE) < 1e-9):
        wrong.append(f"rescale_factor is {shown(factor)}, expected {_RESCALE}")
    if aspect == "squash" and isinstance(settings.get("size"), dict) and settings["size"].keys() != _BOTH_SIDES:
        wrong.append(f"size is {shown(settings['size'])}, expected a height and a width")
    for key in ("size",) if aspect == "squash" else ("size", "crop_size"):
        sides = settings.get(key)
        lengths = sides.values() if isinstance(sides, dict) else [sides]
        if sides is not None and image_size is not None and any(length != image_size for length in lengths):
            wrong.append(f"{key} is {shown(sides)}, expected {image_size}, as the tower's image_size")
    faults += [f"preprocessor_config.json: {fault}" for fault in wrong]

"""Profiles: the settings that `edge-llava tune` found best for one bundle on one device, kept in the home.

<home>/profiles/<key>.json, UTF-8, sorted keys. The key is a digest of language.gguf's and vision.onnx's digests and of
the device: another CPU or GPU, another build of an engine or file starts from nothing. What is read is checked field by
field.
<key>.told is an empty file next to it: the user has seen the hint that tuning exists.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from edge_llava.bundle.json_fields import JsonFields
from edge_llava.bundle.manifest import Manifest
from edge_llava.device.cpu_times import BUSY_CPUS
from edge_llava.device.facts import DeviceFacts, this_device
from edge_llava.errors import BundleError, list_faults
from edge_llava.home.directories import check_home, home_directory
from edge_llava.home.files import write_text
from edge_llava.home.regular_file import read_text

FORMAT_VERSION = 2  # 2: n_gpu_layers
GOALS = ("total", "ttft", "throughput", "memory")
IMAGE_SIZE = (640, 480)  # width and height in pixels of the image that is measured with
KV_TYPES = ("auto", "f16", "f32", "q8_0")
_FLASH = {"auto": None, "on": True, "off": False}
MAX_PARALLEL = 16
_MAX_THREADS, _MAX_BATCH, _MAX_LAYERS = 1024, 1 << 20, 1 << 16

Goal = Literal["total", "ttft", "throughput", "memory"]
KvType = Literal["auto", "f16", "f32", "q8_0"]
_log = logging.getLogger("edge_llava.profile")


@dataclass(frozen=True)
class DeviceSettings:
    """What `tune` chooses. The engines' options explain each: `EngineOptions` and `DecoderOptions`.

    Attributes:
        n_vision_threads, vision_spinning: Of the vision tower.
        n_threads, repack, n_batch, flash_attention, kv_type: Of the language model.
        n_gpu_layers: Blocks on GPUs; None: as the options say.
    """

    n_vision_threads: int
    vision_spinning: bool
    n_threads: int
    repack: bool
    n_batch: int
    flash_attention: bool | None
    kv_type: KvType
    n_gpu_layers: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; flash_attention is "auto", "on" or "off"."""
        words = {value: word for word, value in _FLASH.items()}
        return asdict(self) | {"flash_attention": words[self.flash_attention]}


@dataclass(frozen=True)
class Profile:
    """Settings with what they were measured for and by.

    Attributes:
        settings: The choice.
        goal: What was made small: "total" time of a turn, "ttft", "throughput" or "memory".
        device: Where it was measured.
        language_sha256, vision_sha256: Of which files.
        measured: Medians of the choice: vision_s, projector_s, prefill_tps, decode_tps, turn_s, peak_rss_bytes; and
            other_cpus, the CPUs that other programs kept busy meanwhile.
        parallel: Answers at a time that give the most captions.
    """

    settings: DeviceSettings
    goal: Goal
    device: DeviceFacts
    language_sha256: str
    vision_sha256: str
    measured: dict[str, float | None]
    parallel: int = 1

    @property
    def was_busy(self) -> bool:
        """Whether other programs computed so much meanwhile that the best numbers of threads are not those found."""
        return (self.measured.get("other_cpus") or 0.0) > BUSY_CPUS


def profile_path(manifest: Manifest, device: DeviceFacts) -> Path:
    """Where the profile of a bundle and a device is, or would be."""
    facts = {**asdict(device), **_digests(manifest)}
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    return home_directory() / "profiles" / f"{key}.json"


def save_profile(profile: Profile, manifest: Manifest) -> Path:
    """Writes a profile by rename; the one before is replaced.

    Raises:
        BundleError: If the home cannot be written.
    """
    check_home()
    path = profile_path(manifest, profile.device)
    data = asdict(profile) | {"format_version": FORMAT_VERSION, "settings": profile.settings.to_dict()}
    try:
        write_text(path, json.dumps(data, indent=1, sort_keys=True) + "\n")
    except OSError as error:
        raise BundleError(
            f"{path} cannot be written: {error.strerror}. Set EDGE_LLAVA_HOME to a directory of yours."
        ) from error
    return path


def find_profile(
    manifest: Manifest, device: DeviceFacts | None = None, *, warn: Callable[[str], None] = _log.warning
) -> Profile | None:
    """The profile of a bundle on a device, or None where none was measured.

    Args:
        manifest: Of the bundle.
        device: None: this one.
        warn: Called with a message about a damaged profile, which is ignored.
    """
    device = device or this_device()
    path = profile_path(manifest, device)
    try:
        return _parse(read_text(path), manifest, device)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        warn(f"the profile {path} is ignored: {error.strerror}.")
    except (ValueError, RecursionError) as error:
        warn(f"the profile {path} is ignored: {error}. Measure again: edge-llava tune")
    return None


def _digests(manifest: Manifest) -> dict[str, str]:
    return {f"{role}_sha256": manifest.files[role].sha256 for role in ("language", "vision")}


def _parse(text: str, manifest: Manifest, device: DeviceFacts) -> Profile:
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError("it is not a JSON object")
    faults: list[str] = []
    fields = JsonFields(data, "", faults)
    fields.integer("format_version", FORMAT_VERSION, FORMAT_VERSION)
    goal, settings = fields.text("goal", GOALS), _parse_settings(fields.object("settings"))
    figures = fields.object("measured")
    measured = {name: figures.optional_number(name) for name in figures.names()}
    parallel = fields.integer("parallel", 1, MAX_PARALLEL) if "parallel" in data else 1  # older ones have none
    faults += [f"{name} is another one's" for name, value in _digests(manifest).items() if data.get(name) != value]
    if data.get("device") != asdict(device):
        faults.append("device is another one")
    if faults:
        raise ValueError(list_faults("", faults).strip())
    language, vision = _digests(manifest).values()
    return Profile(settings, cast(Goal, goal), device, language, vision, measured, parallel)


def _parse_settings(fields: JsonFields) -> DeviceSettings:
    settings = DeviceSettings(
        n_vision_threads=fields.integer("n_vision_threads", 1, _MAX_THREADS),
        vision_spinning=fields.boolean("vision_spinning"),
        n_threads=fields.integer("n_threads", 1, _MAX_THREADS),
        repack=fields.boolean("repack"),
        n_batch=fields.integer("n_batch", 1, _MAX_BATCH),
        flash_attention=_FLASH.get(fields.text("flash_attention", tuple(_FLASH))),
        kv_type=cast(KvType, fields.text("kv_type", KV_TYPES)),
        n_gpu_layers=fields.optional_integer("n_gpu_layers", 0, _MAX_LAYERS),
    )
    if settings.kv_type == "q8_0" and settings.flash_attention is False:
        fields.faults.append("settings.kv_type q8_0 needs flash attention")
    return settings

"""A profile of measured settings; a damaged one is ignored with a warning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from damage import damage_json
from frame import Kind, copy_small_bundle

from edge_llava.bundle.bundle import Bundle
from edge_llava.device.facts import this_device
from edge_llava.device.profile import DeviceSettings, Profile, find_profile, profile_path, save_profile
from edge_llava.errors import BundleError
from edge_llava.runtime.language.llama_params import context_params
from edge_llava.runtime.options import engine_options

_DEVICE = this_device()


def make(directory: Path) -> Sequence[bytes]:
    """One that `tune` would keep for the small bundle."""
    manifest = copy_small_bundle(directory).manifest
    digests = manifest.files["language"].sha256, manifest.files["vision"].sha256
    settings = DeviceSettings(2, True, 2, True, 64, None, "auto")
    return [save_profile(Profile(settings, "total", _DEVICE, *digests, {"turn_s": 1.5}), manifest).read_bytes()]


def read(directory: Path, content: bytes) -> None:
    """Finds it and makes the engines' options of it; ignoring it is an error here, to be counted."""
    manifest, warnings = Bundle.open(directory).manifest, list[str]()
    profile_path(manifest, _DEVICE).write_bytes(content)
    profile = find_profile(manifest, _DEVICE, warn=warnings.append)
    if profile is None:
        raise BundleError("\n".join(warnings))
    context_params(manifest.language, engine_options(profile.settings).decoder, on_cpu=True)


KIND = Kind(n_cases=800, make=make, damage=damage_json, read=read, errors=(BundleError,))

"""parity.safetensors of a bundle that is verified."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from damage import damage_safetensors
from frame import Kind, copy_small_bundle

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.manifest import Manifest
from edge_llava.bundle.parity_record import ParityRecord
from edge_llava.errors import BackendError, BundleError
from edge_llava.parity.engines import BundleEngines
from edge_llava.parity.verify import _check_embeddings, _check_pixels, _check_record


def make(directory: Path) -> Sequence[bytes]:
    """The small bundle's."""
    return [copy_small_bundle(directory).file("parity").read_bytes()]


def read(directory: Path, content: bytes) -> None:
    """Loads the record and makes the quick ones of the checks."""
    path = directory / "parity.safetensors"
    path.write_bytes(content)
    manifest = Manifest.from_json((directory / "manifest.json").read_text(encoding="utf-8"), "manifest.json")
    bundle, record = Bundle(directory, manifest), ParityRecord.load(path)
    _check_record(bundle, record)
    engines = BundleEngines(bundle)
    for check in (_check_pixels, _check_embeddings):
        check(bundle, engines, record)


KIND = Kind(n_cases=400, make=make, damage=damage_safetensors, read=read, errors=(BundleError, BackendError))

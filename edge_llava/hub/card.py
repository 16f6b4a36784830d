"""The README.md that is published with a bundle: what it is, where it comes from, how to get it."""

from __future__ import annotations

import re

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.contents import CARD_MARK, LICENSES
from edge_llava.bundle.manifest import Manifest
from edge_llava.hub.address import is_repository


def write_card(bundle: Bundle, address: str) -> str:
    """The card of a bundle, in Markdown, with the fields that hubs read in front.

    Args:
        bundle: To be published.
        address: What `edge-llava pull` takes.
    """
    manifest = bundle.manifest
    source, license_files = manifest.source, manifest.source.license_files
    header = ["---", "library_name: edge-llava", "pipeline_tag: image-text-to-text", "tags:", "- llava"]
    if is_repository(source.name):
        header.append(f"base_model: {source.name}")
    revision = f" at commit {_plain(source.revision)}" if source.revision else ""
    lines = [
        *header,
        "---",
        CARD_MARK,
        "",
        f"# {_plain(bundle.name)}",
        "",
        f"{_plain(source.name)}{revision}, converted by {_plain(manifest.created_by)} to run on a device: "
        f"{_plain(manifest.language.quant)} language model, {manifest.vision.precision} vision tower, "
        f"{bundle.n_bytes / 1e6:,.0f} MB.",
        "",
    ]
    if manifest.notice:
        lines += [f"**{_plain(manifest.notice)}**", ""]
    lines += ["To use it, install edge-llava, and run:", "", f"    edge-llava pull {address}"]
    lines += ["    edge-llava chat img.jpg", "", "## Compared with the checkpoint in float32", ""]
    lines += [f"- {_plain(stage)}: {parity.describe()}" for stage, parity in manifest.parity.items()]
    lines += ["", "`edge-llava verify` repeats this comparison on your device.", "", "## Licence", ""]
    if license_files:
        lines += [f"- [{_plain(name)}]({LICENSES}/{_plain(name)})" for name in license_files]
    else:
        lines.append("The checkpoint came without a licence file. The licence of its model applies.")
    return "\n".join(lines) + "\n\n## Files\n\n" + _list_files(manifest)


def _list_files(manifest: Manifest) -> str:
    rows = [f"| {_plain(entry.path)} | {entry.bytes:,} | `{entry.sha256}` |" for entry in manifest.files.values()]
    return "\n".join(["| file | bytes | sha256 |", "|---|---|---|", *rows]) + "\n"


def _plain(text: str) -> str:
    """Text of a manifest without anything that Markdown or HTML would read."""
    return re.sub(r"[^\w .,:;/@+()'-]", "?", text)

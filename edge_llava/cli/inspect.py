"""edge-llava inspect: shows what is in a bundle."""

from __future__ import annotations

import json

import click

from edge_llava.cli.completion import complete_bundles
from edge_llava.cli.display import format_bytes, show
from edge_llava.cli.options import json_option
from edge_llava.cli.places import expected_places
from edge_llava.cli.printable import printable_line
from edge_llava.cli.tiles import describe_range
from edge_llava.device.onnx_packages import expected_provider
from edge_llava.errors import BackendError


@click.command("inspect")
@click.argument("bundle", required=False, envvar="EDGE_LLAVA_MODEL", shell_complete=complete_bundles)
@json_option
def command(bundle: str | None, as_json: bool) -> None:
    """Show what is in a bundle and how close it is to its checkpoint.

    \b
    edge-llava inspect
    edge-llava inspect my-bundle --json
    """
    from edge_llava.bundle.bundle import open_bundle
    from edge_llava.runtime.options import EngineOptions

    opened = open_bundle(bundle)
    manifest = opened.manifest
    try:
        language_on, vision_on = expected_places(opened, EngineOptions())
    except BackendError:  # a bundle can be looked at where it cannot run
        language_on, vision_on = "unknown (llama.cpp cannot be loaded)", expected_provider("auto")
    if as_json:
        facts = {
            "bundle": str(opened.path),
            "bytes": opened.n_bytes,
            "manifest": json.loads(manifest.to_json()),
            "language_on": language_on,
            "vision_on": vision_on,
        }
        click.echo(json.dumps(facts, indent=2, sort_keys=True))
        return
    source, vision, projector, language = manifest.source, manifest.vision, manifest.projector, manifest.language
    revision = f" at {source.revision[:12]}" if source.revision else ""
    licenses = f", licence in licenses/: {', '.join(source.license_files)}" if source.license_files else ""
    blocks = "" if vision.n_blocks is None else f", {vision.n_blocks} blocks"
    lines = [
        ("bundle", f"{opened.path}, {format_bytes(opened.n_bytes)}, by {manifest.created_by}"),
        ("source", f"{source.name}{revision}, {source.layout} layout{licenses}"),
        (
            "vision",
            f"{vision.image_size} px ({vision.aspect}), {describe_range(vision)}, "
            f"width {vision.hidden_size}{blocks}, {vision.precision}",
        ),
        ("projector", f"{projector.kind}, {projector.in_features} to {projector.out_features}, {projector.quant}"),
        (
            "language",
            f"{language.n_layer} blocks of width {language.n_embd}, {language.n_head} heads ({language.n_head_kv} kv), "
            f"{language.n_vocab} tokens, trained for {language.n_ctx_train} positions",
        ),
        ("weights", language.describe_quantization()),
        ("template", language.template.name),
    ]
    if manifest.notice is not None:
        lines.append(("notice", manifest.notice))
    if vision.quantization is not None:
        lines.append(("int8", vision.quantization.describe()))
    lines += [("file", f"{entry.path}, {format_bytes(entry.bytes)}") for _, entry in sorted(manifest.files.items())]
    lines += [("parity", f"{stage}: {figures.describe()}") for stage, figures in manifest.parity.items()]
    lines.append(("runs on", f"language {language_on}, vision {vision_on}"))
    for label, text in lines:
        show(f"{label:<10} {printable_line(text)}")

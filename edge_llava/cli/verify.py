"""edge-llava verify: checks that a bundle computes here what its checkpoint does."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from edge_llava.cli.completion import complete_bundles
from edge_llava.cli.display import note, show, show_progress
from edge_llava.cli.options import EngineChoice, EngineCommand, engine_options, json_option
from edge_llava.cli.places import describe_places, expected_places
from edge_llava.cli.printable import printable_line
from edge_llava.cli.shortage import make_fit
from edge_llava.errors import BundleError

if TYPE_CHECKING:
    from edge_llava.bundle.bundle import Bundle
    from edge_llava.runtime.options import EngineOptions

_N_CTX = 512  # more than the record's prompt has


@click.command("verify", cls=EngineCommand)
@click.argument("bundle", required=False, envvar="EDGE_LLAVA_MODEL", shell_complete=complete_bundles)
@click.option(
    "--checkpoint", metavar="DIR", help="Compare with this checkpoint in float32 (needs the [convert] extra)."
)
@click.option("--vision-tower", metavar="DIR", help="The checkpoint's tower, if the checkpoint does not contain it.")
@click.option("--base", metavar="DIR", help="The model that the checkpoint is a delta or adapter of.")
@engine_options("threads", "gpu_layers", "devices", "rpc", "provider", "no_profile")
@json_option
def command(
    bundle: str | None,
    checkpoint: str | None,
    vision_tower: str | None,
    base: str | None,
    engines: EngineChoice,
    as_json: bool,
) -> None:
    """Check that a bundle computes what it should on this device.

    Its files are checked, and features, embeddings and greedy tokens are computed as `chat` would. The bundle is
    compared with the record that it contains, which does not need torch.

    \b
    edge-llava verify
    edge-llava verify my-bundle --gpu-layers 0 --provider cpu
    edge-llava verify my-bundle --checkpoint ./llava-1.5-7b-hf
    """
    from edge_llava.bundle.bundle import open_bundle
    from edge_llava.parity.verify import verify, verify_against

    if checkpoint is not None:
        from edge_llava.conversion.convert import check_named, open_checkpoint

        check_named(checkpoint, base)
    opened = open_bundle(bundle)
    options = _make_fit(opened, engines.options(opened))
    language_on, vision_on = expected_places(opened, options)
    note(describe_places(language_on, vision_on))
    with show_progress() as progress:
        reports = {"against the record it contains": verify(opened, progress, options)}
        if checkpoint is not None and all(report.ok for report in reports.values()):
            source = open_checkpoint(checkpoint, vision_tower, base, progress=progress)
            reports[f"against {checkpoint} in float32"] = verify_against(opened, source, progress, options)
    ok = all(report.ok for report in reports.values())
    if as_json:
        checks = [check.to_dict() for report in reports.values() for check in report.checks]
        places = {"language_on": language_on, "vision_on": vision_on}
        click.echo(json.dumps({"ok": ok, **places, "checks": checks}, indent=2))
    else:
        for title, report in reports.items():
            show(f"{opened.name} {title}:")
            for check in report.checks:
                show(f"  {'ok  ' if check.ok else 'FAIL'}  {check.name:<11} {printable_line(check.detail)}")
    if not ok:
        is_tuned = engines.options(opened) != replace(engines, no_profile=True).options(opened)
        advice = (
            "Try --no-profile: what `edge-llava tune` chose may be too inexact here."
            if is_tuned
            else "Copy it again, or convert the checkpoint again."
        )
        raise BundleError(f"{opened.path} failed its verification. {advice}")


def _make_fit(bundle: Bundle, options: EngineOptions) -> EngineOptions:
    """The engines are opened one after the other."""
    from edge_llava.fitting.bundle_needs import predict_language_needs, predict_tower_needs

    short = replace(options, decoder=replace(options.decoder, n_ctx=_N_CTX))
    fitting = make_fit(bundle, short, force=None, predict=predict_tower_needs, may_be_slow=True)
    fitting = make_fit(bundle, fitting, force=None, predict=predict_language_needs, may_be_slow=True)
    return replace(fitting, decoder=replace(fitting.decoder, n_ctx=options.decoder.n_ctx))

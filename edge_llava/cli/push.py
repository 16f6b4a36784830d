"""edge-llava push: publishes a bundle on a hub or in a directory for a web server."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from edge_llava.cli.display import format_bytes, note, show_progress, show_result
from edge_llava.cli.options import bundle_option, json_option
from edge_llava.cli.printable import printable_line


@click.command("push")
@click.argument("target", metavar="OWNER/NAME|DIRECTORY")
@bundle_option
@click.option("--public", is_flag=True, help="Make a new repository public. Default: private.")
@click.option("--force", is_flag=True, help="Replace a bundle that is in the directory.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def command(target: str, bundle: str | None, public: bool, force: bool, yes: bool, as_json: bool) -> None:
    """Publish a bundle, so that `edge-llava pull` can fetch it.

    The target is a repository on a hub, OWNER/NAME, for which your token (HF_TOKEN) must be allowed to write, or a
    directory for a web server. A relative directory begins with `./`. A card, README.md, is written for it. Publish
    only what the licence of the model allows.

    \b
    edge-llava push OWNER/NAME
    edge-llava push ./site/llava -m llava-1.5-7b-hf-q4_k_m
    """
    from edge_llava.bundle.bundle import open_bundle
    from edge_llava.hub.address import hub_endpoint, is_repository
    from edge_llava.hub.push import pack, push_to_directory, push_to_hub, require_hub_client

    is_on_hub = is_repository(target) and not os.path.isdir(target)
    if not is_on_hub and not (os.path.isabs(target) or target.startswith((".", "~")) or os.path.isdir(target)):
        raise click.UsageError(f"{target!r} is neither OWNER/NAME nor a directory; a directory begins with ./")
    if is_on_hub:
        require_hub_client()
    with show_progress() as progress:
        cargo = pack(open_bundle(bundle), progress)
    place = f"{hub_endpoint()}/{target}" if is_on_hub else target
    note(printable_line(f"{cargo.bundle.name} ({format_bytes(cargo.n_bytes)}) will be published: {place}"))
    if is_on_hub and not yes:
        note("  a new repository will be public" if public else "  a new repository will be private (see --public)")
        if not sys.stdin.isatty():
            raise click.UsageError("answer with --yes")
        if not click.confirm("Continue?", err=True):
            note("not published")
            return
    if is_on_hub:
        place = push_to_hub(cargo, target, is_public=public, shows_bars=sys.stderr.isatty())
        note(printable_line(f"Fetch it: edge-llava pull {target}"))
    else:
        place = str(push_to_directory(cargo, Path(os.path.abspath(os.path.expanduser(target))), overwrite=force))
        note("Serve this directory, and fetch it: edge-llava pull https://HOST/DIRECTORY/")
    if as_json:
        click.echo(json.dumps({"published": place, "bytes": cargo.n_bytes, "files": list(cargo.paths)}, indent=2))
    else:
        show_result(place)

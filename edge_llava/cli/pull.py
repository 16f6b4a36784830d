"""edge-llava pull: fetches a converted bundle from a hub or a web server."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

from edge_llava.cli.display import format_bytes, note, show_progress, show_result
from edge_llava.cli.options import json_option
from edge_llava.cli.printable import printable_line

if TYPE_CHECKING:
    from edge_llava.hub.pull import Offer


@click.command("pull")
@click.argument("address", metavar="OWNER/NAME|URL")
@click.option("--name", metavar="NAME", help="Name of the bundle here. Default: as it is called there.")
@click.option("--force", is_flag=True, help="Replace a bundle of this name once the new one is complete.")
@click.option(
    "--insecure-http",
    is_flag=True,
    help="Allow http:// to other computers. "
    "Anyone on the network path can replace the bundle and its digests together.",
)
@json_option
def command(address: str, name: str | None, force: bool, insecure_http: bool, as_json: bool) -> None:
    """Fetch a converted bundle, and make it the default.

    The address is a repository on a hub, OWNER/NAME or OWNER/NAME@REVISION, or the directory on a web server that
    contains manifest.json. An interrupted download resumes when you run the command again.

    \b
    edge-llava pull OWNER/NAME
    edge-llava pull https://example.com/bundles/llava/
    """
    from edge_llava.home.directories import check_bundle_name, check_home, set_default_bundle
    from edge_llava.hub.address import read_address
    from edge_llava.hub.pull import find_offer, pull

    check_home()
    if name is not None:
        check_bundle_name(name)
    started = time.perf_counter()

    def warn(text: str) -> None:
        note(printable_line(f"edge-llava: {text}"))

    offer = find_offer(read_address(address, may_be_insecure=insecure_http), warn=warn)
    name = name or offer.address.name
    with show_progress() as progress:
        whole = frozenset[str]() if force else offer.find_whole(name, progress)
    is_here = offer.is_here(name, whole)
    n_missing = 0 if is_here else offer.missing_bytes(name, whole)
    _describe(offer, name, n_missing, is_here=is_here)
    try:
        with show_progress() as progress:
            bundle = pull(offer, name, overwrite=force, progress=progress, warn=warn)
    except KeyboardInterrupt:
        note("What has arrived is kept: the same command resumes.")
        raise
    set_default_bundle(str(bundle.path))
    if as_json:
        facts = {
            "bundle": str(bundle.path),
            "bytes": bundle.n_bytes,
            "fetched_bytes": n_missing,
            "seconds": time.perf_counter() - started,
            "source": bundle.manifest.source.name,
            "quant": bundle.manifest.language.quant,
            "licenses": list(bundle.manifest.source.license_files),
            "notice": bundle.manifest.notice,
        }
        click.echo(json.dumps(facts, indent=2))
        return
    note(printable_line(f"{bundle.name} is now the default. Ask about an image: edge-llava chat img.jpg"))
    show_result(bundle.path)


def _describe(offer: Offer, name: str, n_missing: int, *, is_here: bool) -> None:
    """Says what will be fetched, before it is."""
    manifest = offer.manifest
    size = f"  size      {format_bytes(offer.n_bytes)}"
    if is_here:
        size += ", which is here already"
    elif n_missing < offer.n_bytes:
        size += f", of which {format_bytes(n_missing)} are still to be fetched"
    note(printable_line(f"{offer.address.shown}, as {name}:"))
    note(size)
    note(printable_line(f"  source    {manifest.source.name}, {manifest.language.quant}"))
    licenses = ", ".join(manifest.source.license_files) or "no licence file; the source's licence applies"
    note(printable_line(f"  licence   {licenses}"))
    if manifest.notice is not None:
        note(printable_line(f"  notice    {manifest.notice}"))

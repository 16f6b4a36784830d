"""edge-llava models: manages this user's bundles."""

from __future__ import annotations

import json
import os

import click

from edge_llava.cli.completion import complete_bundles, complete_own_bundles
from edge_llava.cli.display import format_bytes, note, show
from edge_llava.cli.options import json_option
from edge_llava.cli.printable import printable_line
from edge_llava.errors import BundleError


@click.group("models")
def command() -> None:
    """List, delete, or choose among the bundles in the data directory."""


@command.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List the bundles; the default is marked with a star."""
    from edge_llava.bundle.bundle import Bundle
    from edge_llava.home.directories import bundles_directory, default_bundle, has_home, list_bundles

    default = default_bundle()
    rows = []
    for path in list_bundles():
        try:
            bundle = Bundle.open(path)
        except BundleError as error:
            rows.append({"name": path.name, "default": path.name == default, "error": str(error).splitlines()[0]})
            continue
        rows.append(
            {
                "name": path.name,
                "default": path.name == default,
                "bytes": bundle.n_bytes,
                "quant": bundle.manifest.language.quant,
                "source": bundle.manifest.source.name,
            }
        )
    if as_json:
        directory = str(bundles_directory()) if has_home() else None
        click.echo(json.dumps({"directory": directory, "bundles": rows}, indent=2))
        return
    if not rows:
        note("No bundles yet. Make one: edge-llava convert CHECKPOINT. To try edge-llava first: edge-llava chat demo:1")
    if default is not None and os.path.isabs(default):
        note(f"The default is not in this list: {default}")
    width = max((len(str(row["name"])) for row in rows), default=0)
    for row in rows:
        star = "*" if row["default"] else " "
        facts = f"damaged: {row['error']}" if "error" in row else _facts(row)
        show(printable_line(f"{star} {row['name']:<{width}}  {facts}"))


def _facts(row: dict[str, object]) -> str:
    size = row["bytes"]
    return f"{format_bytes(size if isinstance(size, int) else 0):>9}  {row['quant']:<7} from {row['source']}"


@command.command("rm")
@click.argument("name", shell_complete=complete_own_bundles)
@click.option("--yes", is_flag=True, help="Do not ask.")
def rm_command(name: str, yes: bool) -> None:
    """Delete a bundle in the data directory by name."""
    from edge_llava.home.directories import default_bundle, own_bundle, remove_bundle

    directory = own_bundle(name)
    if not yes and not click.confirm(printable_line(f"Delete {directory}?"), err=True):
        note("kept")
        return
    was_default = default_bundle() == name
    note(f"deleted {remove_bundle(name)}")
    if was_default:
        left = default_bundle()
        note("There is no default bundle now." if left is None else f"{left} is now the default")


@command.command("default")
@click.argument("name", required=False, shell_complete=complete_bundles)
def default_command(name: str | None) -> None:
    """Show the default bundle, or choose another."""
    from edge_llava.home.directories import default_bundle, set_default_bundle

    if name is not None:
        set_default_bundle(name)
    current = default_bundle()
    if current is None:
        raise BundleError("there is no default bundle. Choose one: edge-llava models default NAME")
    show(current)

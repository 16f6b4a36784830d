"""edge-llava models: manages this user's bundles, and says which others would fit."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import click

from edge_llava.cli.completion import complete_bundles, complete_own_bundles
from edge_llava.cli.display import format_bytes, note, show
from edge_llava.cli.options import json_option
from edge_llava.cli.printable import printable_line
from edge_llava.errors import BundleError


@click.group("models", invoke_without_command=True, subcommand_metavar="[COMMAND] [ARGS]...")
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Show the bundles here, and which checkpoints fit.

    Memory and disk are those of a Q4_K_M bundle on the CPU, with up to 4,096 positions, computed as `fit` does. "slow":
    it fits only if its weights are read from the disk again and again.
    """
    from edge_llava.cli.recommending import recommend, recommendation_facts

    if ctx.invoked_subcommand is not None:
        if as_json:
            raise click.UsageError(f"--json belongs behind {ctx.invoked_subcommand}")
    elif as_json:
        click.echo(json.dumps({**_bundle_facts(), **recommendation_facts()}, indent=2))
    else:
        _show_bundles()
        recommend()


@command.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List the bundles; the default is marked with a star."""
    if as_json:
        click.echo(json.dumps(_bundle_facts(), indent=2))
    else:
        _show_bundles()


def _bundle_facts() -> dict[str, Any]:
    from edge_llava.home.directories import bundles_directory, has_home

    return {"directory": str(bundles_directory()) if has_home() else None, "bundles": _read_rows()}


def _read_rows() -> list[dict[str, Any]]:
    from edge_llava.bundle.bundle import Bundle
    from edge_llava.cli.recommending import tuned_seconds
    from edge_llava.home.directories import default_bundle, list_bundles

    default = default_bundle()
    rows: list[dict[str, Any]] = []
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
                "turn_s": tuned_seconds(bundle),
            }
        )
    return rows


def _show_bundles() -> None:
    from edge_llava.home.atomic_directory import list_resumable, resumable_path
    from edge_llava.home.directories import bundles_directory, default_bundle

    default, rows = default_bundle(), _read_rows()
    if not rows:
        note(
            "No bundles yet. Fetch one: edge-llava pull OWNER/NAME. Make one: edge-llava convert CHECKPOINT. "
            "To try edge-llava first: edge-llava chat demo:1"
        )
    if default is not None and os.path.isabs(default):
        note(f"The default is not in this list: {default}")
    width = max((len(str(row["name"])) for row in rows), default=0)
    for row in rows:
        star = "*" if row["default"] else " "
        facts = f"damaged: {row['error']}" if "error" in row else _facts(row)
        show(printable_line(f"{star} {row['name']:<{width}}  {facts}"))
    for out in list_resumable(bundles_directory()):
        growing = resumable_path(out)
        note(
            printable_line(
                f"{format_bytes(_tree_bytes(growing))} of an unfinished download: "
                f"`edge-llava pull ADDRESS --name {out.name}` resumes it, or delete {growing}"
            )
        )


def _tree_bytes(directory: Path) -> int:
    n_bytes = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            with contextlib.suppress(OSError):  # it was finished or deleted meanwhile
                n_bytes += os.stat(os.path.join(folder, name)).st_size
    return n_bytes


def _facts(row: dict[str, Any]) -> str:
    speed = "" if row["turn_s"] is None else f", {row['turn_s']:.1f} s an image and answer"
    return f"{format_bytes(row['bytes']):>9}  {row['quant']:<7} from {row['source']}{speed}"


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

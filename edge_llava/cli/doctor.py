"""edge-llava doctor: what this device can do, what it cannot, and how to change that."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from edge_llava.cli.completion import complete_bundles
from edge_llava.cli.display import show
from edge_llava.cli.options import json_option
from edge_llava.cli.printable import printable_line


@click.command("doctor")
@click.option(
    "-m",
    "--model",
    "bundle",
    metavar="BUNDLE",
    shell_complete=complete_bundles,
    help="Also verify this bundle: a name or a directory.",
)
@json_option
def command(bundle: str | None, as_json: bool) -> None:
    """Examine this device and this installation.

    Processor, GPUs, memory, power and both engines are examined. Each line is ok, a hint (it works, and could be
    better) or a problem, and says what to do next. The exit code is 1 if there is a problem. Attach the output of
    --json to a bug report: it names no user and no path of yours.

    \b
    edge-llava doctor
    edge-llava doctor -m my-bundle
    """
    from edge_llava.bundle.bundle import open_bundle
    from edge_llava.doctor.examination import examine

    examination = examine(None if bundle is None else open_bundle(bundle))
    if as_json:
        click.echo(_without_home(json.dumps(examination.to_dict(), indent=2)))
    else:
        for finding in examination.findings:
            show(f"{finding.level:<8} {finding.topic:<13} {printable_line(_without_home(finding.text))}")
            if finding.advice:
                show(f"{'':<22} -> {printable_line(_without_home(finding.advice))}")
    if not examination.ok:
        raise click.exceptions.Exit(1)


def _without_home(text: str) -> str:
    try:
        home = str(Path.home())
    except RuntimeError:  # this user has none
        return text
    return text.replace(f"'{home}{os.sep}", f"~{os.sep}'").replace(home, "~")  # shells expand no ~ between quotes

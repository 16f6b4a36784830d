"""edge-llava-selftest: checks that the engines are found and compute correctly, also inside a frozen app."""

from __future__ import annotations

import json

import click

from edge_llava.cli import run_command
from edge_llava.cli.display import show
from edge_llava.errors import BackendError


@click.command("edge-llava-selftest", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(bundle: str | None, as_json: bool) -> None:
    """Load llama.cpp and ONNX Runtime and compute with them, without a network.

    A tiny bundle of random weights is verified, and its answer is compared with that of transformers. With BUNDLE, a
    name or a directory, that bundle is verified and asked a question as well. Exit code 0 means that everything works.

    \b
    edge-llava-selftest
    edge-llava-selftest ./my-bundle
    """
    from edge_llava.bundle.bundle import open_bundle
    from edge_llava.selftest.checks import run_selftest

    opened = None if bundle is None else open_bundle(bundle)
    checks = []
    for check in run_selftest(opened):
        checks.append(check)
        if not as_json:
            show(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<12}  {check.detail}")
    ok = all(check.ok for check in checks)
    if as_json:
        click.echo(json.dumps({"ok": ok, "checks": [check.to_dict() for check in checks]}, indent=2))
    if not ok:
        raise BackendError("the self-test failed.")


def main(arguments: list[str] | None = None) -> None:
    """Entry point, for apps too: runs the self-test and exits with its code."""
    run_command(command, arguments, "edge-llava-selftest")

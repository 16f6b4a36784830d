"""python -m edge_llava.cli.doctor_probe NAME: a probe of `edge-llava doctor`, which starts it as a child."""

from __future__ import annotations

import json
import sys

import click

from edge_llava.doctor.probes import PROBES
from edge_llava.errors import EdgeLlavaError


def main(name: str, *arguments: str) -> None:
    """Prints a line of JSON for everything that the probe reports; an error of our own is one line on stderr."""
    try:
        for facts in PROBES[name](*arguments):
            click.echo(json.dumps(facts))
            sys.stdout.flush()
    except EdgeLlavaError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The option --json-schema: a file with the JSON schema that answers must follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

json_schema_option = click.option(
    "--json-schema",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="JSON schema that every answer must follow.",
)


def read_json_schema(path: Path | None) -> Any:
    """The JSON value of a file; None for no file.

    Raises:
        click.UsageError: If it cannot be read or is not JSON.
    """
    from edge_llava.home.regular_file import MAX_TEXT_BYTES, read_input

    if path is None:
        return None
    try:
        return json.loads(read_input(path, MAX_TEXT_BYTES).decode("utf-8-sig"))
    except OSError as error:
        raise click.UsageError(f"--json-schema: {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--json-schema: {path} is not JSON: {error}") from error

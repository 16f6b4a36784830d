"""What shells complete: names of bundles, or directories where the user types a path."""

from __future__ import annotations

import os

import click
from click.shell_completion import CompletionItem

from edge_llava.demo import NAME
from edge_llava.errors import EdgeLlavaError


def complete_bundles(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The bundles whose names begin like this, the demo among them; directories after a path's beginning."""
    from edge_llava.home.directories import list_bundles

    if os.path.dirname(incomplete) or incomplete.startswith("."):
        return [CompletionItem(incomplete, type="dir")]
    try:
        names = [path.name for path in list_bundles()]
    except EdgeLlavaError:  # a home that cannot be read; commands say so
        names = []
    return [CompletionItem(name) for name in dict.fromkeys([*names, NAME]) if name.startswith(incomplete)]


def complete_own_bundles(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """As `complete_bundles`, for commands that take nothing but names of the home's own."""
    return [
        item for item in complete_bundles(context, parameter, incomplete) if item.type != "dir" and item.value != NAME
    ]

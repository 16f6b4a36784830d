"""edge-llava cache: what chat stores about images that were asked about."""

from __future__ import annotations

import json

import click

from edge_llava.cli.display import format_bytes, note, show_result
from edge_llava.cli.options import json_option
from edge_llava.cli.printable import printable_line


@click.group("cache")
def command() -> None:
    """Show or delete what `chat` stores on disk about images.

    With it, `chat` answers faster about images that it has seen. An entry is the language model's state after the
    system prompt and an image. It is derived from the image, and only you can read it. The least recently used entries
    are deleted first; `chat --no-cache` stores nothing.
    """


@command.command("info")
@json_option
def info_command(as_json: bool) -> None:
    """Show where the cache is and how large it is."""
    from edge_llava.home.directories import cache_directory, has_cache, has_home, home_directory
    from edge_llava.runtime.kv.disk_cache import PrefixStore

    store = PrefixStore(cache_directory())
    files = store.files()
    n_bytes = sum(file.n_bytes for file in files)
    if as_json:
        facts = {
            "home": str(home_directory()) if has_home() else None,
            "directory": str(store.directory) if has_cache() else None,
            "entries": len(files),
            "bytes": n_bytes,
            "max_bytes": store.max_bytes,
        }
        click.echo(json.dumps(facts, indent=2))
        return
    show_result(
        store.directory if has_cache() else "none: this user has no home directory, and EDGE_LLAVA_CACHE is not set"
    )
    if has_home():
        note(printable_line(f"Everything that edge-llava keeps is in {home_directory()}"))
    show_result(f"{_count(len(files))}, {format_bytes(n_bytes)} of at most {format_bytes(store.max_bytes)}")


@command.command("clear")
@click.option("--yes", is_flag=True, help="Do not ask.")
def clear_command(yes: bool) -> None:
    """Delete every entry."""
    from edge_llava.home.directories import cache_directory
    from edge_llava.runtime.kv.disk_cache import PrefixStore

    store = PrefixStore(cache_directory())
    n_entries = len(store.files())
    question = printable_line(f"Delete {_count(n_entries)} in {store.directory}?")
    if not yes and n_entries and not click.confirm(question, err=True):
        note("kept")
        return
    note(f"deleted {_count(store.clear())}")


def _count(n_entries: int) -> str:
    return f"{n_entries} {'entry' if n_entries == 1 else 'entries'}"

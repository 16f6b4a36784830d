"""How edge-llava was installed, and so what a user types to add one of its extras."""

from __future__ import annotations

import json
import os
import shlex
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname


def install_command(extra: str = "") -> str:
    """The command that installs edge-llava again, from where it came, with one of its extras ("" for none)."""
    brackets = f"[{extra}]" if extra else ""
    clone, is_editable = _find_clone()
    what = _quote(f"{clone or 'edge-llava'}{brackets}")
    return f"{_installer()} {'-e ' if is_editable else ''}{what}"


def _installer() -> str:
    """Of the environment that this program is in: pipx and uv leave a file in those of their own."""
    if os.path.isfile(os.path.join(sys.prefix, "pipx_metadata.json")):
        return "pipx install --force"
    return "uv tool install" if os.path.isfile(os.path.join(sys.prefix, "uv-receipt.toml")) else "pip install"


def _quote(text: str) -> str:
    return f'"{text}"' if os.name == "nt" else shlex.quote(text)


def _find_clone() -> tuple[Path | None, bool]:
    """The directory that edge-llava was installed from, if it is still there, and whether it is editable.

    Source: PEP 610, direct_url.json.
    """
    try:
        text = distribution("edge-llava").read_text("direct_url.json")
        origin = json.loads(text) if text else {}
    except (PackageNotFoundError, OSError, ValueError):  # a frozen app, or a file that is damaged
        return None, False
    facts = origin.get("dir_info") if isinstance(origin, dict) else None
    if not isinstance(facts, dict) or not str(origin.get("url")).startswith("file:"):
        return None, False
    directory = Path(url2pathname(urlsplit(str(origin["url"])).path))
    has_sources = os.path.isfile(directory / "pyproject.toml")
    return (directory, facts.get("editable") is True) if has_sources else (None, False)

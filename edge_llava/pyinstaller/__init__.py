"""Hooks for PyInstaller, which finds them through the entry point `pyinstaller40`: an app needs no option for us."""

from __future__ import annotations

from pathlib import Path


def get_hook_dirs() -> list[str]:
    """Where the hooks lie."""
    return [str(Path(__file__).parent)]

"""Hooks for PyInstaller. It finds them through the entry point `pyinstaller40`, so that apps need no options."""

from __future__ import annotations

from pathlib import Path


def get_hook_dirs() -> list[str]:
    """The directory that contains the hooks."""
    return [str(Path(__file__).parent)]

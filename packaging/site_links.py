"""A hook of MkDocs: what pages link to outside docs/, such as examples, becomes a file of the site.

The pages are also read in the repository, so their links stay as they are: `../examples/ask.py` is copied to
`repository/examples/ask.py` of the site, and the link follows.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).parents[1]
_FOLDER = "repository"
_LINK = re.compile(r"(?<=\]\()(?P<path>(?:\.\./)+[^)#\s]+)")


def _outside(link: str, page: Path) -> Path | None:
    """The file of the repository that a link of a page leads to, if it is outside docs/."""
    path = Path(os.path.normpath(page.parent / link))
    is_outside = path.is_file() and path.is_relative_to(_ROOT) and not path.is_relative_to(_ROOT / "docs")
    return path.relative_to(_ROOT) if is_outside else None


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the linked files; Markdown becomes plain text, because its own links lead elsewhere."""
    for page in files.documentation_pages():
        source = Path(str(page.abs_src_path))
        for match in _LINK.finditer(source.read_text(encoding="utf-8")):
            path = _outside(match["path"], source)
            if path is not None and files.get_file_from_path(_name(path)) is None:
                files.append(File.generated(config, _name(path), content=(_ROOT / path).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points the links at the files."""
    source = Path(str(page.file.abs_src_path))

    def rewrite(match: re.Match[str]) -> str:
        path = _outside(match["path"], source)
        if path is None:
            return match["path"]
        return os.path.relpath(_name(path), Path(page.file.src_uri).parent).replace(os.sep, "/")

    return _LINK.sub(rewrite, markdown)


def _name(path: Path) -> str:
    return f"{_FOLDER}/{path.as_posix()}" + (".txt" if path.suffix == ".md" else "")

"""Image files in what a user types: terminals paste the path of a file that is dropped on them.

Each terminal writes such a path in its own way: in quotes, with backslashes before blanks, or as a file:// URL.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import url2pathname

from edge_llava.demo import NAME, find_image

_QUOTED = r"""(?:'[^']*'|"[^"]*")"""
_WORD = re.compile(
    rf"{_QUOTED}\S*|\S+"  # a backslash separates directories
    if os.name == "nt"
    else rf"(?:{_QUOTED}|\\.)(?:{_QUOTED}|\\.|[^\s'\"\\])*|(?:\\.|\S)+"
)
_PUNCTUATION = ".,;:!?)"
_DEMO = re.compile(rf"{NAME}:\d+")


@dataclass(frozen=True)
class TypedText:
    """What a user typed.

    Attributes:
        text: The words, without the paths of images before and after them. A path between words is replaced by the
            name of its file.
        paths: The images, in order: existing files, or names like "demo:1".
    """

    text: str
    paths: tuple[str, ...]


def find_images(line: str) -> TypedText:
    """Separates the images in a line from its words.

    A word is an image only if a file of that name exists and has the suffix of an image format.
    """
    if is_image_file(whole := line.strip()):  # a path with blanks that nothing protects
        return TypedText("", (expand_home(whole),))
    words = list(_WORD.finditer(line))
    found = [_find(word[0]) for word in words]
    paths = [path for path in found if path is not None]
    if not paths:
        return TypedText(line.strip(), ())
    others = [index for index, path in enumerate(found) if path is None]
    is_within = any(path is not None for path in found[others[0] : others[-1]]) if others else False
    text, end = "", 0
    for word, path in zip(words, found, strict=True):
        if path is not None:
            text += line[end : word.start()] + (os.path.basename(path) if is_within else "")
            end = word.end()
    return TypedText((text + line[end:]).strip(), tuple(paths))


def find_missing(line: str) -> str | None:
    """The first word that can only be the path of an image, or an image of the demo, and names none."""
    for word in _WORD.finditer(line):
        name = unquote(word[0].rstrip(_PUNCTUATION))
        if _find(word[0]) is None and _is_meant_as_image(name):
            return name
    return None


def _is_meant_as_image(name: str) -> bool:
    from edge_llava.home.image_files.formats import SUFFIXES

    has_place = name.startswith("~") or any(mark in name for mark in {"/", os.sep})
    return _DEMO.fullmatch(name) is not None or (has_place and os.path.splitext(name)[1].lower() in SUFFIXES)


def find_paths(argument: str) -> tuple[str, ...]:
    """The paths in the argument of a command, which may be quoted or escaped; whether they exist does not matter."""
    if os.path.exists(expanded := expand_home(argument)):
        return (expanded,)
    found = [_find(word[0]) for word in _WORD.finditer(argument)]
    paths = tuple(path for path in found if path is not None)
    return paths if len(paths) == len(found) else (expand_home(unquote(argument)),)


def is_image_file(path: str) -> bool:
    """Whether a file of this name exists and has the suffix of an image format."""
    from edge_llava.home.image_files.formats import SUFFIXES

    return os.path.splitext(path)[1].lower() in SUFFIXES and os.path.isfile(expand_home(path))


def expand_home(path: str) -> str:
    """The path with the directory that "~" stands for; as it is where it cannot be one."""
    try:
        return os.path.expanduser(path)
    except ValueError:  # a null character
        return path


def unquote(word: str) -> str:
    """A path as it is without quotes, backslashes or file://, as terminals paste it."""
    if word.startswith("file://"):
        try:
            url = urlsplit(word)
        except ValueError:  # a bracket without its other end
            return word
        return url2pathname(url.path) if url.netloc in ("", "localhost") else word
    if word[:1] in ("'", '"'):
        try:
            return " ".join(shlex.split(word, posix=os.name != "nt")).strip("'\"")
        except ValueError:  # a quote without its other end
            return word.strip("'\"")
    return word if os.name == "nt" else re.sub(r"\\(.)", r"\1", word)


def _find(word: str) -> str | None:
    """The image that a word names."""
    for text in (word, word.rstrip(_PUNCTUATION)):
        if find_image(text) is not None:
            return text
        for path in (text, unquote(text)):
            if is_image_file(path):
                return expand_home(path)
    return None

"""Where bundles live: one directory per user, moved by the environment variable EDGE_LLAVA_HOME.

A user without a home directory (a container's user id without an entry, HOME not set) has none: nothing is found there,
and nothing is kept.

<home>/bundles/<name>/   bundles made without an explicit output directory
<home>/default           name or absolute path of the default bundle, one line
<home>/amx.json          whether llama.cpp's AMX works, see `edge_llava.ggml.amx`
<home>/checked.json      digests already verified, by (path, size, mtime)
<home>/history          what was typed in conversations, see `edge_llava.cli.conversation.history`; private (0600)
<home>/conversation.json  the last one, see `edge_llava.cli.conversation.kept`; private (0600)
<home>/cache/            computed prefixes of conversations, see `edge_llava.runtime.kv.disk_cache`; private (0700)
<home>/crashes/          what a GPU's driver left when it ended a process, see `edge_llava.cli.crashes`
<home>/profiles/         measured settings, by bundle and device, see `edge_llava.device.profile`
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_data_path

from edge_llava.demo import BUNDLE, NAME
from edge_llava.errors import BundleError, EdgeLlavaError
from edge_llava.home.atomic_directory import mend_all, remove_directory, restore, restore_all
from edge_llava.home.bundle_names import match_beginning, suggest_names
from edge_llava.home.files import write_text
from edge_llava.home.lock import HeldElsewhere
from edge_llava.home.regular_file import read_text

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MANIFEST_NAME = "manifest.json"
_NOWHERE = Path(os.devnull, "edge-llava")  # below a file: nothing is there, and nothing can be put there


def home_directory() -> Path:
    """The directory that holds everything edge-llava keeps for this user; it may not exist yet, and see `has_home`.

    Raises:
        EdgeLlavaError: If EDGE_LLAVA_HOME names the home of a user who has none.
    """
    moved = os.environ.get("EDGE_LLAVA_HOME")
    return _expand("EDGE_LLAVA_HOME", moved) if moved else _user_directory()


def has_home() -> bool:
    """Whether there is a place for what is kept; the directory may still refuse it."""
    return home_directory() != _NOWHERE


def check_home(otherwise: str = "") -> None:
    """
    Args:
        otherwise: What else the user can do, for the message.

    Raises:
        BundleError: If there is no place for what is kept.
    """
    if not has_home():
        raise BundleError(
            "there is no data directory, because this user has no home directory. "
            f"Set EDGE_LLAVA_HOME to a directory of yours{otherwise}."
        )


def bundles_directory() -> Path:
    """Where bundles made without an explicit output directory go."""
    return home_directory() / "bundles"


def cache_directory() -> Path:
    """Where computed prefixes of conversations are kept; EDGE_LLAVA_CACHE moves it. It may not exist yet.

    Raises:
        EdgeLlavaError: As `home_directory`, for either variable.
    """
    moved = os.environ.get("EDGE_LLAVA_CACHE")
    return _expand("EDGE_LLAVA_CACHE", moved) if moved else home_directory() / "cache"


def has_cache() -> bool:
    """Whether there is a place for computed prefixes."""
    return has_home() or bool(os.environ.get("EDGE_LLAVA_CACHE"))


def check_bundle_name(name: str) -> str:
    """Returns `name` if it can name a bundle in the home.

    Raises:
        BundleError: If it is empty, too long, or holds anything but letters, digits, `.`, `_` and `-`.
    """
    if not _NAME.fullmatch(name) or name.endswith(".partial"):
        raise BundleError(f"{name!r} cannot name a bundle: use letters, digits, '.', '_' and '-' (not '*.partial').")
    return name


def list_bundles() -> list[Path]:
    """The directories of the home that look like bundles, by name. Their contents are not checked.

    Raises:
        BundleError: If the home cannot be read.
    """
    directory = bundles_directory()
    if not os.path.isdir(directory):
        return []
    restore_all(directory)
    try:
        found = [path for path in directory.iterdir() if os.path.isfile(path / MANIFEST_NAME)]
    except OSError as error:
        raise BundleError(f"{directory} cannot be read: {error.strerror}.") from error
    return sorted(path for path in found if not path.name.endswith(".partial"))


def default_bundle() -> str | None:
    """Name or absolute path of the default bundle: the chosen one, else the only one of the home; None otherwise.

    Raises:
        BundleError: If the home cannot be read.
    """
    chosen = _chosen_bundle()
    if chosen is not None:
        return chosen
    bundles = list_bundles()
    return bundles[0].name if len(bundles) == 1 else None


def set_default_bundle(name_or_path: str) -> None:
    """Makes a bundle the one that commands use when none is named.

    Raises:
        BundleError: If there is no such bundle, or the choice cannot be kept.
    """
    directory = find_bundle(name_or_path)
    if not os.path.isfile(directory / MANIFEST_NAME):
        raise BundleError(f"{directory} is not a bundle: it has no {MANIFEST_NAME}. {_available()}")
    is_named = directory.parent == bundles_directory()
    text = NAME if directory == BUNDLE else directory.name if is_named else str(directory)
    with _changing_home():
        write_text(home_directory() / "default", text + "\n")


def find_bundle(name_or_path: str | os.PathLike[str] | None = None) -> Path:
    """Turns what a user typed into a bundle directory.

    Args:
        name_or_path: A directory, a name in the home or the beginning of only one of them, "demo" for the bundle that
            comes with edge-llava, or None for the default bundle.

    Raises:
        BundleError: If there is none, or several names begin like that; the message lists the bundles that exist.
    """
    if name_or_path is None:
        return _find_default()
    # os.path's functions, because pathlib's raise where a name is too long or names no user
    as_path = Path(os.path.expanduser(name_or_path))
    named = bundles_directory() / as_path
    restore(as_path.absolute())
    if len(as_path.parts) == 1:
        restore(named)
    is_named = len(as_path.parts) == 1 and os.path.isdir(named)
    # a directory that merely has a bundle's name does not hide the bundle
    if os.path.isdir(as_path) and (not is_named or os.path.isfile(as_path / MANIFEST_NAME)):
        return as_path.absolute()
    if is_named:
        return named
    if str(name_or_path) == NAME:
        return BUNDLE
    typed, names = str(name_or_path), [path.name for path in list_bundles()]
    if (name := match_beginning(typed, names)) is not None:
        return bundles_directory() / name
    suggested = suggest_names(typed, [*names, NAME])
    raise BundleError(f"there is no bundle {typed!r}, neither as a directory nor by name. {suggested}{_available()}")


def own_bundle(name: str) -> Path:
    """The directory of a bundle of the home, by name.

    Raises:
        BundleError: If the home has no bundle of that name. Paths are refused.
    """
    directory = bundles_directory() / check_bundle_name(name)
    if directory not in list_bundles():
        suggested = suggest_names(name, [path.name for path in list_bundles()])
        raise BundleError(f"the home has no bundle {name!r}. {suggested}{_available()}")
    return directory


def remove_bundle(name: str) -> Path:
    """Deletes a bundle of the home by name; a default that pointed to it is forgotten.

    Raises:
        BundleError: If the home has no bundle of that name. Paths are refused.
    """
    directory = own_bundle(name)
    was_default, rest = _chosen_bundle() == name, None
    with _changing_home():
        mend_all(bundles_directory())
        if directory.is_symlink():
            directory.unlink()  # the bundle it points to lies outside the home and is not ours to delete
        else:
            rest = remove_directory(directory)
        if was_default:
            (home_directory() / "default").unlink(missing_ok=True)
    if rest is not None:
        raise BundleError(f"{rest} cannot be deleted completely. Delete the rest of it.")
    return directory


@contextmanager
def _changing_home() -> Iterator[None]:
    check_home()
    try:
        yield
    except HeldElsewhere as error:
        raise BundleError("another command is changing this bundle. Wait until it ends, and try again.") from error
    except OSError as error:
        raise BundleError(
            f"{home_directory()} cannot be changed: {error.strerror}. Set EDGE_LLAVA_HOME to a directory of yours."
        ) from error


def _user_directory() -> Path:
    try:
        directory = user_data_path("edge-llava", appauthor=False)
    except RuntimeError:  # from platformdirs, where it finds no home directory; its older versions leave the "~"
        return _NOWHERE
    return directory if directory.is_absolute() else _NOWHERE


def _expand(variable: str, value: str) -> Path:
    expanded = os.path.expanduser(value)
    if expanded.startswith("~"):
        raise EdgeLlavaError(f"{variable} is {value!r}: there is no such home directory. Write the whole path.")
    return Path(expanded).absolute()


def _chosen_bundle() -> str | None:
    try:
        text = read_text(home_directory() / "default").strip()
    except (OSError, UnicodeDecodeError):
        return None  # no choice was made, or it was lost: the user is asked to choose
    return text or None


def _find_default() -> Path:
    name_or_path = default_bundle()
    if name_or_path is None:
        raise BundleError(f"no bundle was named and there is no default. {_available()}")
    restore(bundles_directory() / name_or_path)
    directory = bundles_directory() / name_or_path  # a name is one of the home, whatever the current directory holds
    if name_or_path == NAME and not os.path.isdir(directory):
        return BUNDLE
    if not os.path.isdir(directory):
        raise BundleError(f"the default bundle {name_or_path!r} is gone. {_available()}")
    return directory


def _available() -> str:
    names = [path.name for path in list_bundles()]
    if names:
        return f"Available: {', '.join(names)}. Choose one with -m NAME or 'edge-llava models default NAME'."
    return "Make one: edge-llava convert CHECKPOINT. To try edge-llava first: edge-llava chat demo:1 (or -m demo)"

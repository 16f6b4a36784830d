"""The clipboard and the screen: an answer out, an image in."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys

import PIL.Image

from edge_llava.cli.conversation.pasted_paths import is_image_file
from edge_llava.errors import ImageError

_LIMIT_S = 10.0
_MAX_SEQUENCE = 74_994  # what xterm and others take of OSC 52


def copy_text(text: str) -> str | None:
    """Copies a text to the clipboard: by a program of the desktop, else by the terminal (OSC 52).

    Returns:
        What else to tell the user; None where it failed.
    """
    command = None if os.environ.get("SSH_CONNECTION") else _find_program()
    if command is not None and _run(command, text):
        return "copied"
    data = base64.b64encode(text.encode("utf-8", "replace")).decode()
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb" or len(data) > _MAX_SEQUENCE:
        return None
    sys.stderr.write(f"\x1b]52;c;{data}\x07")
    sys.stderr.flush()
    return "sent to the terminal's clipboard; some terminals ignore it"


def paste_image() -> PIL.Image.Image | str:
    """The image in the clipboard, or the path of an image file that was copied there.

    Raises:
        ImageError: If there is no image, or the system does not give it.
    """
    from PIL import ImageGrab

    try:
        found = ImageGrab.grabclipboard()
    except (OSError, NotImplementedError, ValueError, subprocess.SubprocessError) as error:
        raise ImageError(f"the clipboard cannot be read: {_first_line(error)}. Use /image PATH.") from error
    image = next(filter(is_image_file, found), None) if isinstance(found, list) else found
    if image is None:
        raise ImageError("there is no image in the clipboard.")
    return image


def grab_screen() -> PIL.Image.Image:
    """The screen as an image.

    Raises:
        ImageError: If there is no screen, or the system does not give it.
    """
    from PIL import ImageGrab

    try:
        return ImageGrab.grab()
    except (OSError, NotImplementedError, ValueError, subprocess.SubprocessError) as error:
        raise ImageError(f"the screen cannot be read: {_first_line(error)}. Use /image PATH.") from error


def _find_program() -> list[str] | None:
    environment = os.environ
    candidates = [
        (sys.platform == "darwin", ["pbcopy"]),
        (os.name == "nt", ["clip"]),
        (bool(environment.get("WAYLAND_DISPLAY")), ["wl-copy"]),
        (bool(environment.get("DISPLAY")), ["xclip", "-selection", "clipboard"]),
        (bool(environment.get("DISPLAY")), ["xsel", "--clipboard", "--input"]),
    ]
    return next((command for is_there, command in candidates if is_there and shutil.which(command[0])), None)


def _run(command: list[str], text: str) -> bool:
    data = text.encode("utf-16-le" if command == ["clip"] else "utf-8", "replace")
    try:
        # xclip stays in the background, so its output must not be waited for
        done = subprocess.run(
            command,
            input=data,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")

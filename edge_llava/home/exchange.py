"""Two directories exchange their names in one step, where the system can do that.

Source: renameat2(2) of Linux; renamex_np(2) of macOS.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = _RENAME_SWAP = 2
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}


def exchange(first: Path, second: Path) -> bool:
    """Exchanges two directories of one file system.

    Returns:
        Whether the system, and this file system, can do it; if not, nothing was changed.

    Raises:
        OSError: If they cannot be exchanged, for another reason.
    """
    if sys.platform not in ("linux", "darwin"):
        return False
    library, names = ctypes.CDLL(None, use_errno=True), (os.fsencode(first), os.fsencode(second))
    if sys.platform == "darwin":
        failed = library.renamex_np(*names, ctypes.c_uint(_RENAME_SWAP))
    elif hasattr(library, "renameat2"):
        failed = library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_RENAME_EXCHANGE))
    else:
        return False  # a C library older than 2018
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))

"""The images of folders, and files named one by one: found by name, everywhere below a folder, each directory once."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edge_llava.errors import EdgeLlavaError, ImageError
from edge_llava.runtime.vision.images.formats import HEIF_SUFFIXES, SUFFIXES, is_heif, reads_heif

OUTPUT_NAME = "captions.jsonl"
# Images that no part of edge-llava reads. They are counted, so that a folder of them is not passed over in silence.
UNREADABLE_SUFFIXES = frozenset(
    (
        ".jxl", ".jxr", ".psd", ".psb", ".svg", ".svgz", ".eps", ".ai", ".xcf", ".kra", ".exr", ".hdr", ".ico", ".icns",
        ".pcx", ".sgi", ".dds", ".fits", ".dicom", ".dcm", ".emf", ".wmf", ".qoi", ".bpg", ".flif",
        # raw files of cameras
        ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".raf", ".orf", ".rw2", ".raw", ".rwl",
        ".pef", ".ptx", ".x3f", ".srw", ".3fr", ".fff", ".iiq", ".dcr", ".kdc", ".erf", ".mef", ".mos", ".mrw", ".gpr",
    )
)  # fmt: skip
# What systems keep in a folder for themselves: thumbnails, deleted files and earlier versions. Names that begin with a
# dot are passed over, too, and directories that begin with "@" (Synology and QNAP).
_SYSTEM_DIRECTORIES = frozenset(
    (
        "#recycle", "#snapshot", "~snapshot", "$recycle.bin", "recycler", "recycled", "lost+found", "lost.dir",
        "system volume information", "network trash folder", "temporary items", "thumbs", "thumbs.db", "thumbnails",
        "__macosx", "_vti_cnf",
    )
)  # fmt: skip
_SYSTEM_SUFFIXES = (".lrdata", ".lrcat-data")  # Lightroom's previews
_RESCUED = re.compile(r"found\.\d{3}")  # by CHKDSK of Windows
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Fault:
    """A file or directory that could not be used: its path relative to the folder, and why."""

    path: str
    reason: str


@dataclass
class Folder:
    """What a walk found.

    Attributes:
        directory: What `names` are relative to: the folder, or the innermost one that holds all that was named.
        names: Paths of the images, with forward slashes, sorted.
        faults: Directories that cannot be listed, and names of images that are not files.
        unsupported: Numbers of image files of kinds that are not read, by suffix; of HEIC where its package is missing.
        n_links_out: Links that lead out of what was named; they are not followed.
        passed_over: Directories that systems keep for themselves.
    """

    directory: Path
    names: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    unsupported: Counter[str] = field(default_factory=Counter)
    n_links_out: int = 0
    passed_over: list[str] = field(default_factory=list)

    def path(self, name: str) -> Path:
        """Where an image lies."""
        return self.directory / name


def common_folder(sources: tuple[Path, ...]) -> Path:
    """The folder itself where one was named; otherwise the innermost folder that holds all that was named.

    Raises:
        EdgeLlavaError: If there is none: they lie on different drives.
    """
    if len(sources) == 1 and sources[0].is_dir():
        return sources[0]
    sources = _without_dots(sources)
    homes = [str(source if source.is_dir() else source.parent) for source in sources]
    try:
        return Path(homes[0] if len(set(homes)) == 1 else os.path.commonpath([os.path.abspath(home) for home in homes]))
    except ValueError as error:
        raise EdgeLlavaError("what was named lies on different drives. Caption each drive on its own.") from error


def find_pictures(*sources: Path, leave_out: Path) -> Folder:
    """Finds the images of folders, and of files.

    A file that is named is taken whatever its name. A folder is walked through: links are followed where they lead to
    something in what was named; a directory that is reached twice, or within itself, is read once, by its own name.

    Args:
        sources: Folders and files.
        leave_out: A file that is not an image, whatever its name.

    Raises:
        ImageError: If there is no image at all.
    """
    walk = _Walk(sources if len(sources) == 1 else _without_dots(sources), os.path.realpath(leave_out))
    walk.run()
    folder = walk.folder
    folder.names = sorted(set(folder.names))
    if not folder.names:
        raise ImageError(_say_nothing_found(sources, folder))
    return folder


def describe_unsupported(unsupported: dict[str, int]) -> str:
    """The image files of kinds that are not read, in words: "3 .jxl, 1 .dng"; and what reads HEIC."""
    kinds = ", ".join(
        f"{n:,} {suffix}" for suffix, n in sorted(unsupported.items(), key=lambda item: (-item[1], item[0]))
    )
    if not HEIF_SUFFIXES.isdisjoint(unsupported):
        return f"{kinds}. For HEIC: pip install 'edge-llava[heic]'."
    return f"{kinds}. Convert them to JPEG or PNG."


def _say_nothing_found(sources: tuple[Path, ...], folder: Folder) -> str:
    where = str(sources[0]) if len(sources) == 1 else f"{len(sources)} files and folders"
    shown = "".join(f" {fault.path}: {fault.reason}." for fault in folder.faults[:3])
    if folder.unsupported:
        return f"{where}: no image that can be read here, but {describe_unsupported(folder.unsupported)}{shown}"
    return f"{where} holds no images (.jpg .png .webp ...).{shown} Name a folder of images."


def digest_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


class _Walk:
    """One walk through what was named."""

    def __init__(self, sources: tuple[Path, ...], own: str) -> None:
        self.folder = Folder(common_folder(sources))
        self._sources, self._own = sources, own
        # a named folder may be a link itself: where it leads is what was named
        self._roots = [os.path.realpath(source) for source in sources if source.is_dir()]
        self._named = {os.path.realpath(source) for source in sources if not source.is_dir()}
        self._reads_heif = reads_heif()
        self._seen = set[tuple[int, int] | str]()

    def run(self) -> None:
        """Fills the folder."""
        for source in self._sources:
            if not source.is_dir():
                self._take(str(source))
        for entry in self._files():
            suffix = os.path.splitext(entry.name)[1].lower()
            if suffix in UNREADABLE_SUFFIXES and not entry.is_symlink():
                self.folder.unsupported[suffix] += 1
            elif suffix in SUFFIXES and os.path.realpath(entry.path) != self._own:
                if entry.is_symlink() and self._leads_out(entry.path):
                    continue
                if suffix in HEIF_SUFFIXES and not self._reads_heif and _is_heif_file(entry.path):
                    self.folder.unsupported[suffix] += 1
                    continue
                self._take(entry.path)

    def _take(self, path: str) -> None:
        name, fault = self._name(path), _find_fault(path)
        if fault is None:
            self.folder.names.append(name)
        else:
            self.folder.faults.append(Fault(name, fault))

    def _files(self) -> Iterator[os.DirEntry[str]]:
        """Every entry of the folders that is not a directory; directories that are links come after all others."""
        pending, links = deque(str(source) for source in self._sources if source.is_dir()), deque[str]()
        while pending or links:
            path = pending.popleft() if pending else links.popleft()
            try:
                known_by = _identity(path)
                if known_by in self._seen:
                    continue
                self._seen.add(known_by)
                with os.scandir(path) as listing:
                    entries = sorted(listing, key=lambda entry: entry.name)
            except OSError as error:
                fault = Fault(self._name(path), f"it cannot be listed: {error.strerror}")
                self.folder.faults.append(fault)
                continue
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not _is_directory(entry):
                    yield entry
                elif _is_system_directory(entry.name):
                    self.folder.passed_over.append(self._name(entry.path))
                elif not entry.is_symlink() and not _is_junction(entry.path):
                    pending.append(entry.path)
                elif not self._leads_out(entry.path):
                    links.append(entry.path)

    def _leads_out(self, link: str) -> bool:
        """Whether a link leads out of what was named, or to what is passed over there; such links are counted."""
        target = os.path.realpath(link)
        if not os.path.lexists(target) or target == os.path.abspath(link):  # it leads nowhere, and is a fault
            return False
        for root in self._roots:
            if target == root or target.startswith(root.rstrip(os.sep) + os.sep):
                parts = Path(os.path.relpath(target, root)).parts
                hidden = any(part != os.curdir and part.startswith(".") for part in parts)
                if not hidden and not any(map(_is_system_directory, parts[:-1] if os.path.isfile(target) else parts)):
                    return False
        if target in self._named:
            return False
        self.folder.n_links_out += 1
        return True

    def _name(self, path: str) -> str:
        if Path(path).is_relative_to(self.folder.directory):
            return Path(path).relative_to(self.folder.directory).as_posix()
        return Path(os.path.relpath(os.path.abspath(path), os.path.abspath(self.folder.directory))).as_posix()


def _without_dots(sources: tuple[Path, ...]) -> tuple[Path, ...]:
    """The same files and folders by paths without "..", so that what is named twice has one name."""
    return tuple(
        source
        if os.pardir not in source.parts
        else Path(os.path.realpath(source))
        if source.name == os.pardir
        else Path(os.path.realpath(source.parent)) / source.name
        for source in sources
    )


def _is_system_directory(name: str) -> bool:
    lower = name.lower()
    return (
        name.startswith("@")
        or lower in _SYSTEM_DIRECTORIES
        or lower.endswith(_SYSTEM_SUFFIXES)
        or _RESCUED.fullmatch(lower) is not None
    )


def _is_junction(path: str) -> bool:
    """Whether a directory is really elsewhere though it is not a link: a junction of Windows."""
    return os.name == "nt" and os.path.realpath(path) != os.path.join(
        os.path.realpath(os.path.dirname(path)), os.path.basename(path)
    )


def _is_heif_file(path: str) -> bool:
    """Whether it is HEIC as its name says: some programs leave the name to what they converted to JPEG."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError:
        return False
    return is_heif(head) or not head.startswith(b"\xff\xd8")


def _identity(path: str) -> tuple[int, int] | str:
    """What a directory is known by, whatever the way to it: some file systems number every file 0."""
    status = os.stat(path)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _find_fault(path: str) -> str | None:
    """Why something with a picture's name is no file; opening a pipe would wait for ever."""
    try:
        return None if stat.S_ISREG(os.stat(path).st_mode) else "it is no ordinary file"
    except OSError as error:
        leads_nowhere = error.errno in (errno.ENOENT, errno.ELOOP) and os.path.islink(path)
        return f"{'it is a link that leads nowhere' if leads_nowhere else 'it cannot be read'}: {error.strerror}"


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False

"""Finds the images in folders, by file name at any depth, and files that are named one by one."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edge_llava.errors import EdgeLlavaError, ImageError
from edge_llava.home.image_files.formats import HEIF_SUFFIXES, SUFFIXES, is_heif, reads_heif
from edge_llava.home.installation import install_command

OUTPUT_NAME = "captions.jsonl"
# Image formats that edge-llava does not read. Such files are counted and reported rather than skipped silently.
UNREADABLE_SUFFIXES = frozenset(
    (
        ".jxl", ".jxr", ".psd", ".psb", ".svg", ".svgz", ".eps", ".ai", ".xcf", ".kra", ".exr", ".hdr", ".ico", ".icns",
        ".pcx", ".sgi", ".dds", ".fits", ".dicom", ".dcm", ".emf", ".wmf", ".qoi", ".bpg", ".flif",
        # raw files from cameras
        ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".raf", ".orf", ".rw2", ".raw", ".rwl",
        ".pef", ".ptx", ".x3f", ".srw", ".3fr", ".fff", ".iiq", ".dcr", ".kdc", ".erf", ".mef", ".mos", ".mrw", ".gpr",
    )
)  # fmt: skip
# Directories that operating systems and applications keep for themselves: thumbnails, deleted files, earlier versions.
# Names that begin with a dot are skipped, too, and so are directories that begin with "@" (Synology and QNAP).
_SYSTEM_DIRECTORIES = frozenset(
    (
        "#recycle", "#snapshot", "~snapshot", "$recycle.bin", "recycler", "recycled", "lost+found", "lost.dir",
        "system volume information", "network trash folder", "temporary items", "thumbs", "thumbs.db", "thumbnails",
        "__macosx", "_vti_cnf",
    )
)  # fmt: skip
_SYSTEM_SUFFIXES = (".lrdata", ".lrcat-data")  # Lightroom's previews
_RESCUED = re.compile(r"found\.\d{3}")  # by Windows' CHKDSK


@dataclass(frozen=True)
class FileFault:
    """A file or directory that could not be used: its path relative to the folder, and why."""

    path: str
    reason: str


@dataclass
class Folder:
    """The images that a search found.

    Attributes:
        directory: The folder that `names` are relative to: the source, or the innermost one that contains all sources.
        names: Paths of the images, with forward slashes, sorted.
        faults: Directories that cannot be listed, and image names that do not belong to regular files.
        unsupported: Number of image files in unsupported formats, by suffix; HEIC is one if its package is missing.
        n_links_out: Number of links to places outside the sources; they are not followed.
        passed_over: Directories that operating systems and applications keep for themselves.
    """

    directory: Path
    names: list[str] = field(default_factory=list)
    faults: list[FileFault] = field(default_factory=list)
    unsupported: Counter[str] = field(default_factory=Counter)
    n_links_out: int = 0
    passed_over: list[str] = field(default_factory=list)

    def path(self, name: str) -> Path:
        """The path of an image."""
        return self.directory / name


def common_folder(sources: tuple[Path, ...]) -> Path:
    """The folder itself if it is the only source; otherwise the innermost folder that contains all sources.

    Raises:
        EdgeLlavaError: If there is none because the sources lie on different drives.
    """
    if len(sources) == 1 and sources[0].is_dir():
        return sources[0]
    sources = _without_dots(sources)
    homes = [str(source if source.is_dir() else source.parent) for source in sources]
    try:
        return Path(homes[0] if len(set(homes)) == 1 else os.path.commonpath([os.path.abspath(home) for home in homes]))
    except ValueError as error:
        raise EdgeLlavaError("the sources lie on different drives. Caption each drive on its own.") from error


def find_images(*sources: Path, leave_out: Path, may_be_none: bool = False) -> Folder:
    """Finds the images among files and in folders.

    A file that is named explicitly is taken whatever its suffix. Folders are searched recursively. Links are followed
    only if they lead to something inside the sources. A directory that is reached twice is read once.

    Args:
        sources: Folders and files.
        leave_out: A file to leave out whatever its name, such as the output.
        may_be_none: That there is no image is not an error.

    Raises:
        ImageError: If there is no image.
    """
    walk = _Walk(sources if len(sources) == 1 else _without_dots(sources), os.path.realpath(leave_out))
    walk.run()
    folder = walk.folder
    folder.names = sorted(set(folder.names))
    if not folder.names and not may_be_none:
        raise ImageError(_describe_nothing_found(sources, folder))
    return folder


def describe_unsupported(unsupported: dict[str, int]) -> str:
    """Describes image files in unsupported formats: "3 .jxl, 1 .dng"; and says what reads HEIC."""
    kinds = ", ".join(
        f"{n:,} {suffix}" for suffix, n in sorted(unsupported.items(), key=lambda item: (-item[1], item[0]))
    )
    if not HEIF_SUFFIXES.isdisjoint(unsupported):
        return f"{kinds}. For HEIC: {install_command('heic')}."
    return f"{kinds}. Convert them to JPEG or PNG."


def _describe_nothing_found(sources: tuple[Path, ...], folder: Folder) -> str:
    where = str(sources[0]) if len(sources) == 1 else f"{len(sources)} files and folders"
    shown = "".join(f" {fault.path}: {fault.reason}." for fault in folder.faults[:3])
    if folder.unsupported:
        return f"{where}: no image that can be read here, but {describe_unsupported(folder.unsupported)}{shown}"
    return f"{where} contains no images (.jpg .png .webp ...).{shown} Name a folder of images."


class _Walk:
    """One search through the sources."""

    def __init__(self, sources: tuple[Path, ...], own: str) -> None:
        self.folder = Folder(common_folder(sources))
        self._sources, self._own = sources, own
        # a source may be a link itself: its target is the source
        self._roots = [os.path.realpath(source) for source in sources if source.is_dir()]
        self._named = {os.path.realpath(source) for source in sources if not source.is_dir()}
        self._reads_heif = reads_heif()
        self._seen = set[tuple[int, int] | str]()

    def run(self) -> None:
        """Runs the search and fills `folder`."""
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
            self.folder.faults.append(FileFault(name, fault))

    def _files(self) -> Iterator[os.DirEntry[str]]:
        """Yields every entry that is not a directory; linked directories come after all others."""
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
                fault = FileFault(self._name(path), f"it cannot be listed: {error.strerror}")
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
        """Whether a link leads outside the sources, or to something that is skipped there. Counts such links."""
        target = os.path.realpath(link)
        if not os.path.lexists(target) or target == os.path.abspath(link):  # it is broken, which is a fault
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
    """Resolves ".." in the paths, so that a file that is named twice has one name."""
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
    """Whether a directory is a Windows junction: it points elsewhere although it is not a link."""
    return os.name == "nt" and os.path.realpath(path) != os.path.join(
        os.path.realpath(os.path.dirname(path)), os.path.basename(path)
    )


def _is_heif_file(path: str) -> bool:
    """Whether a file with a HEIC suffix is HEIC: some programs keep the name when they convert to JPEG."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError:
        return False
    return is_heif(head) or not head.startswith(b"\xff\xd8")


def _identity(path: str) -> tuple[int, int] | str:
    """Identifies a directory whatever its path. On file systems that number every file 0, the real path does."""
    status = os.stat(path)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _find_fault(path: str) -> str | None:
    """Why something with an image's name is not a regular file; opening a pipe would block for ever."""
    try:
        return None if stat.S_ISREG(os.stat(path).st_mode) else "it is not a regular file"
    except OSError as error:
        leads_nowhere = error.errno in (errno.ENOENT, errno.ELOOP) and os.path.islink(path)
        return f"{'it is a broken link' if leads_nowhere else 'it cannot be read'}: {error.strerror}"


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False

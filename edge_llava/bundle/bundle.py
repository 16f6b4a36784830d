"""A bundle: the directory that converters write and the runtime reads.

    manifest.json        written last; see `edge_llava.bundle.manifest`
    vision.onnx          pixel_values (B, 3, S, S) float32 -> patch_features (B, P, D) float32
    vision.onnx.data     its weights, where they are kept in a file of their own
    projector.gguf       mm.* tensors, quantized by ggml
    language.gguf        the language model, loads in any llama.cpp
    parity.safetensors   reference inputs and outputs, see `edge_llava.parity.engines`
    licenses/            licence files of the checkpoint

Nothing in it is executable and nothing is pickled.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from edge_llava.bundle.manifest import FileEntry, Manifest
from edge_llava.errors import BundleError, list_faults
from edge_llava.home.atomic_directory import restore
from edge_llava.home.directories import MANIFEST_NAME, find_bundle, home_directory
from edge_llava.home.files import digest_file, write_text
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent
from edge_llava.home.regular_file import read_text

_ADVICE = "Convert the checkpoint again, or fetch the bundle again: edge-llava pull OWNER/NAME --force"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest is valid and whose files exist with the right sizes.

    Attributes:
        path: Absolute directory.
        manifest: Its validated manifest.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Reads a bundle directory; cheap, no digest is computed.

        Raises:
            BundleError: If the manifest is missing or invalid, or a file is missing or of the wrong size.
        """
        directory = Path(path).absolute()
        manifest_path = directory / MANIFEST_NAME
        restore(directory)
        try:
            text = read_text(manifest_path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BundleError(
                f"{directory} is not a bundle: it has no {MANIFEST_NAME}. {_what_next(directory)}"
            ) from error
        except UnicodeDecodeError as error:
            raise BundleError(f"{manifest_path} is not UTF-8 text. {_ADVICE}") from error
        except OSError as error:
            raise BundleError(f"{manifest_path} cannot be read: {error.strerror}.") from error
        bundle = cls(directory, Manifest.from_json(text, str(manifest_path), _ADVICE))
        faults = [fault for entry in bundle.manifest.files.values() if (fault := bundle._size_fault(entry))]
        if faults:
            raise BundleError(list_faults(f"{directory} is damaged:", faults, _ADVICE))
        return bundle

    @property
    def name(self) -> str:
        """Directory name, for people."""
        return self.path.name

    @property
    def n_bytes(self) -> int:
        """Size of all files that the manifest names."""
        return sum(entry.bytes for entry in self.manifest.files.values())

    def file(self, role: str) -> Path:
        """Absolute path of the file with this role ("vision", "projector", "language", "parity")."""
        return self.path / self.manifest.files[role].path

    def verify_digests(self, *, trust_earlier: bool, progress: ProgressCallback = silent) -> None:
        """Compares every file with its sha256.

        Args:
            trust_earlier: Skip a file that was verified before and has not changed in size or mtime since.
            progress: Called with the bytes read.

        Raises:
            BundleError: If any file differs; all of them at once.
        """
        faults = self.find_damage(trust_earlier=trust_earlier, progress=progress)
        if faults:
            raise BundleError(list_faults(f"{self.path} was changed or damaged:", list(faults.values()), _ADVICE))

    def find_damage(self, *, trust_earlier: bool, progress: ProgressCallback = silent) -> dict[str, str]:
        """Compares every file with its sha256; if all are right, that is remembered.

        Args:
            trust_earlier: As of `verify_digests`.
            progress: Called with the bytes read.

        Returns:
            What is wrong, by the path in the manifest of the file that differs or cannot be read.
        """
        earlier = _read_checked() if trust_earlier else {}
        wanted = [(self.path / entry.path, entry) for entry in self.manifest.files.values()]
        to_read = [(path, entry) for path, entry in wanted if not _is_known(path, entry, earlier)]
        total, done = sum(entry.bytes for _, entry in to_read), 0
        faults: dict[str, str] = {}

        def count(n_bytes: int) -> None:
            nonlocal done
            done += n_bytes
            progress(ProgressEvent(f"checking {self.name}", done, total))

        for path, entry in to_read:
            try:
                found = digest_file(path, count)
            except OSError as error:
                faults[entry.path] = f"{entry.path} cannot be read: {error.strerror}"
                continue
            if found != entry.sha256:
                faults[entry.path] = f"{entry.path}: its sha256 is {found[:12]}..., expected {entry.sha256[:12]}..."
        if to_read and not faults:
            _remember_checked({str(path): _fingerprint(path, entry.sha256) for path, entry in to_read})
        return faults

    def remember_digests(self) -> None:
        """Notes that the files are what the manifest says; for those who have just hashed all of them."""
        entries = self.manifest.files.values()
        _remember_checked({str(self.path / e.path): _fingerprint(self.path / e.path, e.sha256) for e in entries})

    def _size_fault(self, entry: FileEntry) -> str | None:
        path = self.path / entry.path
        if not os.path.isfile(path):  # pathlib's own raises where a name is too long
            return f"{entry.path[:200]} is missing"
        size = path.stat().st_size
        return None if size == entry.bytes else f"{entry.path} has {size} bytes, expected {entry.bytes}"


def open_bundle(bundle: Bundle | str | os.PathLike[str] | None = None) -> Bundle:
    """Opens a bundle.

    Args:
        bundle: A name in the home or a directory; None is the default bundle. An opened one is returned as it is.

    Raises:
        BundleError: If there is no such bundle, or it is damaged.
    """
    return bundle if isinstance(bundle, Bundle) else Bundle.open(find_bundle(bundle))


def describe_file(path: Path, root: Path) -> FileEntry:
    """Reads a finished file once and returns its manifest entry."""
    return FileEntry(path.relative_to(root).as_posix(), path.stat().st_size, digest_file(path))


def _what_next(directory: Path) -> str:
    if os.path.isfile(directory / "config.json"):
        return f"It looks like a checkpoint: edge-llava convert {directory}"
    return "Make one: edge-llava convert CHECKPOINT -o DIR"


def _is_known(path: Path, entry: FileEntry, checked: dict[str, list[int | str]]) -> bool:
    return str(path) in checked and os.path.isfile(path) and checked[str(path)] == _fingerprint(path, entry.sha256)


def _fingerprint(path: Path, sha256: str) -> list[int | str]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, sha256]


def _checked_path() -> Path:
    return home_directory() / "checked.json"


def _read_checked() -> dict[str, list[int | str]]:
    try:
        data = json.loads(read_text(_checked_path()))
    except (OSError, ValueError, RecursionError):
        return {}  # a lost or damaged memory only costs reading the files once more
    return data if isinstance(data, dict) else {}


def _remember_checked(fingerprints: dict[str, list[int | str]]) -> None:
    try:
        known = {path: print_ for path, print_ in _read_checked().items() if os.path.exists(path)}
        write_text(_checked_path(), json.dumps(known | fingerprints, indent=1, sort_keys=True) + "\n")
    except OSError:
        return  # a read-only home: the files are verified again next time

"""Fetches a bundle: first the manifest, which says how much there is, then the files that it names, each by its digest.

A pull that was interrupted or killed leaves the older bundle or none, and what has arrived; the next one resumes.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.contents import LICENSES
from edge_llava.bundle.manifest import Manifest
from edge_llava.errors import BundleError, TransferError, list_faults
from edge_llava.home.atomic_directory import (
    InTheWay,
    NotReplaced,
    restore,
    resumable_directory,
    resumable_path,
)
from edge_llava.home.directories import MANIFEST_NAME, bundles_directory, check_bundle_name, check_home
from edge_llava.home.files import digest_file
from edge_llava.home.lock import HeldElsewhere
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent
from edge_llava.home.regular_file import MAX_TEXT_BYTES, open_regular
from edge_llava.hub.address import Address
from edge_llava.hub.download import Download
from edge_llava.hub.paths import find_path_faults
from edge_llava.hub.web import USUAL, NotFound, Patience, Web

_log = logging.getLogger("edge_llava.hub")
_MAX_LICENSE_BYTES = 1 << 20  # as of a conversion
_NO_BUNDLE = "Check that this is the address of a bundle; if it is, tell its publisher."
_SPARE_BYTES = 64 << 20  # a disk is not filled to the last byte


@dataclass(frozen=True)
class Offer:
    """A bundle on a server, before anything but its manifest was fetched.

    Attributes:
        address: Where it lies; on a hub, at the commit of the manifest.
        manifest: Validated.
        manifest_bytes: As served.
    """

    address: Address
    manifest: Manifest
    manifest_bytes: bytes

    @property
    def n_bytes(self) -> int:
        """Size of all files that the manifest names."""
        return sum(entry.bytes for entry in self.manifest.files.values())

    def missing_bytes(self, name: str, whole: Collection[str] = ()) -> int:
        """What is still to be fetched for a bundle of this name, as far as sizes tell.

        Args:
            name: Of the bundle in the home.
            whole: From `find_whole`: files that are taken from the bundle that is here.
        """
        directory = resumable_path(bundles_directory() / name)
        resumes = _has_manifest(directory, self.manifest_bytes)
        entries = [entry for entry in self.manifest.files.values() if entry.path not in whole]
        there = (min(entry.bytes, _size(directory / entry.path)) for entry in entries) if resumes else ()
        return sum(entry.bytes for entry in entries) - sum(there)

    def find_whole(self, name: str, progress: ProgressCallback = silent) -> frozenset[str]:
        """The paths of the files that the home has under a name as part of this very bundle, by their digests.

        Args:
            name: Of the bundle in the home.
            progress: Receives the bytes that are read; files that were checked before are not read.
        """
        directory = bundles_directory() / name
        restore(directory)
        if not _has_manifest(directory, self.manifest_bytes):
            return frozenset()
        damage = Bundle(directory, self.manifest).find_damage(trust_earlier=True, progress=progress)
        return frozenset(entry.path for entry in self.manifest.files.values() if entry.path not in damage)

    def is_here(self, name: str, whole: Collection[str]) -> bool:
        """Whether the home has this very bundle under a name, whole.

        Args:
            name: Of the bundle in the home.
            whole: From `find_whole`.
        """
        licenses = (bundles_directory() / name / LICENSES / file for file in self.manifest.source.license_files)
        return len(whole) == len(self.manifest.files) and all(path.is_file() for path in licenses)


def find_offer(address: Address, patience: Patience = USUAL, *, warn: Callable[[str], None] = _log.warning) -> Offer:
    """Fetches the manifest of a bundle.

    Args:
        address: Of the bundle.
        patience: How long the server is waited for.
        warn: Called with a message when the server is busy and is asked again.

    Raises:
        TransferError: If the server cannot be reached, refuses, or has no bundle there.
        BundleError: If the manifest is invalid or of a newer format, or names files that no bundle has.
    """
    web = Web(address, patience, warn)
    try:
        data, commit = web.read_small(MANIFEST_NAME, MAX_TEXT_BYTES)
    except NotFound as error:
        raise _no_bundle(web, error) from error
    where = address.url(MANIFEST_NAME)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"{where} is not UTF-8 text, so it is not the manifest of a bundle. {_NO_BUNDLE}") from error
    manifest = Manifest.from_json(text, where, _NO_BUNDLE)
    faults = find_path_faults(manifest)
    if faults:
        raise BundleError(list_faults(f"{where} is not a valid manifest:", faults, "Nothing was fetched."))
    return Offer(address.at_commit(commit), manifest, data)


def pull(
    offer: Offer,
    name: str | None = None,
    *,
    overwrite: bool = False,
    patience: Patience = USUAL,
    progress: ProgressCallback = silent,
    warn: Callable[[str], None] = _log.warning,
) -> Bundle:
    """Fetches an offered bundle into the home. Of one that is there already, only what is damaged is fetched.

    Args:
        offer: From `find_offer`.
        name: Of the bundle; None: as the repository or directory is called.
        overwrite: Replace a bundle of this name, whatever it is.
        patience: How long the server is waited for.
        progress: Receives the bytes that arrive, and those that are checked.
        warn: Called with a message when the connection broke and is tried again, or the bundle that is here is damaged.

    Raises:
        TransferError: If the server fails, a file is not what the manifest says, or the disk is full. What has arrived
            is kept for the next time, except for files with a wrong digest.
        BundleError: If the name cannot be one, is taken, or another command is changing the bundle.
    """
    check_home()
    name = check_bundle_name(offer.address.name if name is None else name)
    out = bundles_directory() / name
    whole = frozenset[str]() if overwrite else offer.find_whole(name, progress)
    if offer.is_here(name, whole):
        return Bundle.open(out)
    is_damaged = not overwrite and _has_manifest(out, offer.manifest_bytes)
    _check_target(out, overwrite=overwrite or is_damaged)
    if is_damaged:
        warn(f"{out.name} is here, but damaged. What differs is fetched again.")
    _check_disk(out, offer.missing_bytes(name, whole))
    with _translating(out), resumable_directory(out, overwrite=overwrite or is_damaged) as directory:
        _begin(directory, offer, out, whole)
        _fill(directory, offer, Web(offer.address, patience, warn), progress)
    bundle = Bundle.open(out)
    bundle.remember_digests()
    return bundle


def _begin(directory: Path, offer: Offer, older: Path, whole: Collection[str]) -> None:
    """Makes a directory hold the manifest, and what is there already of this version of the bundle."""
    if not _has_manifest(directory, offer.manifest_bytes):
        _empty(directory)  # of an earlier version of the bundle
        (directory / MANIFEST_NAME).write_bytes(offer.manifest_bytes)
    for path in map(Path, whole):
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).unlink(missing_ok=True)
        try:
            os.link(older / path, directory / path)
        except OSError:  # a file system without links
            shutil.copyfile(older / path, directory / path)


def _fill(directory: Path, offer: Offer, web: Web, progress: ProgressCallback) -> None:
    for license_file in offer.manifest.source.license_files:
        (directory / LICENSES).mkdir(exist_ok=True)
        text, _ = web.read_small(f"{LICENSES}/{license_file}", _MAX_LICENSE_BYTES)
        (directory / LICENSES / license_file).write_bytes(text)
    stage, n_before = f"downloading {offer.address.shown}", 0

    def report(n_there: int) -> None:
        progress(ProgressEvent(stage, min(n_before + n_there, max(offer.n_bytes - 1, 0)), offer.n_bytes))

    for entry in offer.manifest.files.values():
        path = directory / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        Download(web, entry.path, path, entry.bytes, report).run()
        n_before += entry.bytes
    progress(ProgressEvent(stage, offer.n_bytes, offer.n_bytes))
    _check_digests(directory, offer, progress)


def _check_digests(directory: Path, offer: Offer, progress: ProgressCallback) -> None:
    """Reads what lies on the disk, so that a resumed file is checked from its first byte."""
    faults, n_read = [], 0

    def count(n_bytes: int) -> None:
        nonlocal n_read
        n_read += n_bytes
        progress(ProgressEvent(f"checking {offer.address.shown}", n_read, offer.n_bytes))

    for entry in offer.manifest.files.values():
        found = digest_file(directory / entry.path, count)
        if found != entry.sha256:
            faults.append(f"{entry.path}: its sha256 is {found[:12]}..., expected {entry.sha256[:12]}...")
            (directory / entry.path).unlink()
    if faults:
        advice = "These files are fetched again if you run the command again; the others are kept."
        raise TransferError(list_faults(f"{offer.address.shown} arrived damaged:", faults, advice))


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _no_bundle(web: Web, error: NotFound) -> TransferError:
    address = web.address
    if address.repository is not None and web.exists("config.json"):
        return TransferError(
            f"{address.shown} is a checkpoint, not a bundle: it has a config.json and no {MANIFEST_NAME}. "
            f"Convert it: edge-llava convert {address.repository}"
        )
    return TransferError(f"there is no bundle at {address.shown}: {error} Check the name and the revision.")


def _check_target(out: Path, *, overwrite: bool) -> None:
    if not os.path.lexists(out):
        return
    if out.is_symlink():  # what it leads to is not ours to replace
        raise BundleError(f"{out} is a link. Choose another name with --name, or delete the link.")
    if not os.path.isfile(out / MANIFEST_NAME) and (not out.is_dir() or any(out.iterdir())):
        raise BundleError(f"{out} exists and is not a bundle; it is left alone. Choose another name with --name.")
    if not overwrite and os.path.isfile(out / MANIFEST_NAME):
        raise BundleError(
            f"there is another bundle called {out.name!r}. Replace it with --force, or choose a name with --name."
        )


def _check_disk(out: Path, n_missing: int) -> None:
    parent = next(path for path in out.parents if os.path.exists(path))
    free = shutil.disk_usage(parent).free
    if free < n_missing + _SPARE_BYTES:
        raise TransferError(
            f"{parent} has {free / 1e6:,.0f} MB free, and {n_missing / 1e6:,.0f} MB are to be fetched. "
            "Free some space, or set EDGE_LLAVA_HOME to a directory on another disk."
        )


@contextmanager
def _translating(out: Path) -> Iterator[None]:
    try:
        yield
    except HeldElsewhere as error:
        raise BundleError(f"another command is writing {out}. Wait until it ends, and try again.") from error
    except InTheWay as error:
        raise BundleError(
            f"{error.filename}: {error.strerror}. Move it, or choose another name with --name."
        ) from error
    except NotReplaced as error:
        raise BundleError(f"{out} cannot be replaced: {error.strerror}. The older bundle is still there.") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise TransferError(
                f"the disk of {out.parent} is full. What has arrived is kept: free some space, and run the command "
                "again."
            ) from error
        raise TransferError(f"{error.filename or out} cannot be written: {error.strerror or error}.") from error


def _has_manifest(directory: Path, data: bytes) -> bool:
    try:
        with open_regular(directory / MANIFEST_NAME, MAX_TEXT_BYTES) as file:
            return file.read() == data
    except OSError:
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

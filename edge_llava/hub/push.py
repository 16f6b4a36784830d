"""Publishes a bundle: in a repository of a hub, or as a directory for a plain web server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.contents import CARD_NAME, LICENSES, find_foreign, is_our_card
from edge_llava.bundle.manifest import Manifest
from edge_llava.errors import BundleError, MissingExtra, TransferError, list_faults
from edge_llava.home.atomic_directory import InTheWay, NotReplaced, atomic_directory
from edge_llava.home.directories import MANIFEST_NAME
from edge_llava.home.lock import HeldElsewhere
from edge_llava.home.progress import ProgressCallback, silent
from edge_llava.home.regular_file import read_text
from edge_llava.hub.address import hub_endpoint
from edge_llava.hub.card import write_card
from edge_llava.hub.paths import find_path_faults

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@dataclass(frozen=True)
class Cargo:
    """What is published of a bundle.

    Attributes:
        bundle: Opened.
        paths: Of its files, relative to its directory, with forward slashes; the manifest is the last.
    """

    bundle: Bundle
    paths: tuple[str, ...]

    @property
    def n_bytes(self) -> int:
        """Size of all files."""
        return sum((self.bundle.path / path).stat().st_size for path in self.paths)


def pack(bundle: Bundle, progress: ProgressCallback = silent) -> Cargo:
    """Lists what is published of a bundle, after its digests were compared. Other files in its directory stay there.

    Args:
        bundle: Opened.
        progress: Receives the bytes that are read.

    Raises:
        BundleError: If a file was changed or damaged, has a path that `pull` refuses, or a licence file is missing.
    """
    faults = find_path_faults(bundle.manifest)
    if faults:
        advice = "Convert the checkpoint again; a bundle like this can be used, but not published."
        raise BundleError(list_faults(f"{bundle.path} cannot be published:", faults, advice))
    bundle.verify_digests(trust_earlier=True, progress=progress)
    licenses = tuple(f"{LICENSES}/{name}" for name in bundle.manifest.source.license_files)
    missing = [path for path in licenses if not (bundle.path / path).is_file()]
    if missing:
        raise BundleError(f"{bundle.path} lacks {', '.join(missing)}. Convert the checkpoint again, or pull it again.")
    files = tuple(entry.path for entry in bundle.manifest.files.values())
    return Cargo(bundle, (*licenses, *files, MANIFEST_NAME))


def push_to_directory(cargo: Cargo, out: Path, *, overwrite: bool = False) -> Path:
    """Copies a bundle, with a card, into a directory that a web server can serve.

    Args:
        cargo: From `pack`.
        out: Appears whole or not at all.
        overwrite: Replace a bundle that is there.

    Raises:
        TransferError: If it exists already, is not a bundle, holds files that are not the bundle's, or cannot be
            written.
    """
    out = out.resolve()  # a link stays, and what it points to is replaced
    if out == cargo.bundle.path.resolve():
        raise TransferError(f"{out} is the bundle itself. Serve this directory, or name another one.")
    _check_target(out, overwrite=overwrite)
    try:
        with atomic_directory(out, overwrite=overwrite) as directory:
            for path in cargo.paths:
                (directory / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(cargo.bundle.path / path, directory / path)
            (directory / CARD_NAME).write_text(write_card(cargo.bundle, "https://HOST/DIRECTORY/"), encoding="utf-8")
    except HeldElsewhere as error:
        raise TransferError(f"another command is writing {out}. Wait until it ends, and try again.") from error
    except (InTheWay, NotReplaced) as error:
        raise TransferError(f"{error.filename or out} is in the way: {error.strerror}. Name another one.") from error
    except OSError as error:
        raise TransferError(f"{out} cannot be written: {error.strerror or error}. Nothing was kept.") from error
    return out


def _check_target(out: Path, *, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    foreign = find_foreign(out)
    if foreign is None or not _has_valid_manifest(out):
        raise TransferError(f"{out} exists already. It is not a bundle, and is left alone. Name another directory.")
    if not overwrite:
        raise TransferError(f"{out} exists already. Replace it with --force, or name another directory.")
    if foreign:
        raise TransferError(
            list_faults(
                f"{out} holds files that do not belong to its bundle, and --force would delete them:",
                foreign,
                "Move them, or name another directory.",
            )
        )


def _has_valid_manifest(directory: Path) -> bool:
    try:
        Manifest.from_json(read_text(directory / MANIFEST_NAME), "")
    except (OSError, UnicodeDecodeError, BundleError):
        return False
    return True


def require_hub_client() -> None:
    """
    Raises:
        MissingExtra: If the hub's own client, which uploads, is not installed; found without importing it.
    """
    if find_spec("huggingface_hub") is None:
        raise MissingExtra("convert", "publishing a bundle on a hub", "huggingface_hub")


def push_to_hub(cargo: Cargo, repository: str, *, is_public: bool = False, shows_bars: bool = False) -> str:
    """Uploads a bundle, with a card, in one commit. A repository that does not exist is made.

    Args:
        cargo: From `pack`.
        repository: "owner/name". A card that it has already stays if `push` did not write it.
        is_public: Of a repository that is made; otherwise it is private.
        shows_bars: Whether the hub's client draws its progress on stderr.

    Returns:
        The address of the repository's page.

    Raises:
        MissingExtra: As `require_hub_client`.
        TransferError: If the hub cannot be reached or refuses.
    """
    require_hub_client()
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils import disable_progress_bars

    if not shows_bars:
        disable_progress_bars()
    api = HfApi(endpoint=hub_endpoint(), library_name="edge-llava")
    files = [CommitOperationAdd(path, str(cargo.bundle.path / path)) for path in cargo.paths]
    with _translating(repository):
        api.create_repo(repository, private=not is_public, exist_ok=True)
        if _may_write_card(api, repository):
            files.insert(0, CommitOperationAdd(CARD_NAME, write_card(cargo.bundle, repository).encode()))
        api.create_commit(repository, files, commit_message=f"Publish {cargo.bundle.name}")
    return f"{hub_endpoint()}/{repository}"


def _may_write_card(api: HfApi, repository: str) -> bool:
    """Whether the repository has no card, or one that `push` wrote."""
    if not api.file_exists(repository, CARD_NAME):
        return True
    with TemporaryDirectory() as directory:  # not the hub's cache: it is read once
        path = api.hf_hub_download(repository, CARD_NAME, local_dir=directory)
        return is_our_card(Path(path).read_text(encoding="utf-8", errors="replace"))


@contextmanager
def _translating(repository: str) -> Iterator[None]:
    """The errors of the hub's client as ours."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
    from requests.exceptions import RequestException

    try:
        yield
    except HFValidationError as error:
        raise TransferError(f"{repository!r} cannot name a repository: {_first_line(error)}.") from error
    except LocalTokenNotFoundError as error:
        raise TransferError(
            "the hub needs a token with write access. Set HF_TOKEN, or log in with the hub's tool."
        ) from error
    except HfHubHTTPError as error:
        raise TransferError(
            f"the hub refuses {repository!r}: {_first_line(error)}. Check the owner's name, and that your token "
            "(HF_TOKEN) has write access."
        ) from error
    except (RequestException, OSError) as error:
        raise TransferError(
            f"{repository!r} could not be uploaded: {_first_line(error)}. Run the same command again; files that "
            "were uploaded already are not sent again."
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300].rstrip(".")

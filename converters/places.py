"""Where the files of a checkpoint lie: directories that the user names, or hub ids that are downloaded."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from edge_llava.converters.hub import download, find_snapshot, is_hub_id
from edge_llava.converters.json_file import plain, shown
from edge_llava.errors import CheckpointError
from edge_llava.home.directories import MANIFEST_NAME, list_bundles
from edge_llava.home.progress import ProgressCallback, silent

_GGUF, _XTUNER = ".gguf", "xtuner_config.py"
_QUANTIZED = (
    " GGUF files, as of Ollama and LM Studio, were converted and quantized already. Give the checkpoint that they were "
    "made from: a directory with safetensors files, or a hub id such as llava-hf/llava-1.5-7b-hf."
)


@dataclass(frozen=True)
class Places:
    """What the user named, found.

    Attributes:
        source: The checkpoint, as the user wrote it.
        directory: Where its files lie.
        revision: Commit of the hub repository, or None.
        base: Directory of the model that it is a delta, an adapter or a projector for, or None.
        vision_tower: Directory or hub id of the tower, as the user wrote it, or None.
        progress: Told what is downloaded.
    """

    source: str
    directory: Path
    revision: str | None = None
    base: Path | None = None
    vision_tower: str | None = None
    progress: ProgressCallback = field(default=silent, repr=False)

    @classmethod
    def find(cls, source: str, vision_tower: str | None, base: str | None, progress: ProgressCallback) -> Places:
        """Finds the checkpoint and its base; the tower is looked for once it is known to be needed.

        Raises:
            CheckpointError: If one of them is neither a directory nor a hub id.
        """
        directory, revision = _locate(source, progress)
        base_directory = None if base is None else _locate(base, progress)[0]
        return cls(source, directory, revision, base_directory, vision_tower, progress)

    @property
    def name(self) -> str:
        """Hub id or directory name, for people."""
        snapshot = find_snapshot(self.directory)
        if snapshot is not None:
            return snapshot[0]
        return self.source if is_hub_id(self.source) else self.directory.resolve().name

    @property
    def commit(self) -> str | None:
        """The revision of a download, or of a directory in the hub's cache; else None."""
        snapshot = find_snapshot(self.directory)
        return self.revision if snapshot is None else snapshot[1]

    def find_tower(self, named: str | None) -> Path:
        """Finds the tower of a checkpoint that does not hold it.

        Args:
            named: What the checkpoint names; what the user names comes before.

        Raises:
            CheckpointError: If there is none.
        """
        reference = self.vision_tower or named
        if reference is None:
            raise CheckpointError(
                f"{self.directory} contains no vision tower and names none. Give it: --vision-tower DIR"
            )
        here, beside = Path(os.path.expanduser(reference)), self.directory / os.path.expanduser(reference)
        # what a checkpoint names is looked for in it first, what the user names where the user is
        for candidate in (here, beside) if self.vision_tower else (beside, here):
            if os.path.isdir(candidate):
                return candidate.absolute()
        if is_hub_id(reference) and (is_hub_id(self.source) or self.vision_tower is not None):
            return download(reference, self.progress)[0]
        raise CheckpointError(
            f"{self.directory} contains no vision tower; it names {shown(reference)}, which is not a directory here. "
            f"Give it: --vision-tower DIR (or --vision-tower {plain(reference)} to download it)."
        )

    def refuse_tower(self) -> None:
        """
        Raises:
            CheckpointError: If the user names a tower; called where the checkpoint holds its own.
        """
        if self.vision_tower is not None:
            raise CheckpointError(
                f"{self.source} holds its own vision tower; --vision-tower would replace it. Leave it out."
            )


def check_source(source: str) -> Path | None:
    """The directory that the user named; None for a hub id. At once: no file is read.

    Raises:
        CheckpointError: If it is neither, or a bundle, or cannot be a checkpoint.
    """
    directory = Path(os.path.expanduser(source))
    if os.path.isdir(directory):
        _check_directory(source, directory)
        return directory.absolute()
    if os.path.exists(directory):
        _refuse_file(source, directory)
    if is_hub_id(source):
        return None
    if any(path.name == source for path in list_bundles()):
        raise CheckpointError(f"{source} is a bundle already. Use it: edge-llava chat IMAGE -m {source}")
    raise CheckpointError(f"no such directory: {source} (and it is not a hub id like owner/name).")


def _check_directory(source: str, directory: Path) -> None:
    try:
        found = list(os.scandir(directory))
    except OSError as error:
        raise CheckpointError(f"{source} cannot be read: {error.strerror}.") from error
    names = {entry.name for entry in found}
    if "config.json" in names:
        return
    if MANIFEST_NAME in names:
        raise CheckpointError(f"{source} is a bundle already. Use it: edge-llava chat IMAGE -m {source}")
    if not any(entry.name.endswith((".json", _XTUNER)) or entry.is_dir() for entry in found):
        why = _QUANTIZED if any(name.endswith(_GGUF) for name in names) else ""
        raise CheckpointError(f"{source} is not a checkpoint: it has no config.json.{why}")


def _refuse_file(source: str, path: Path) -> NoReturn:
    if path.name.endswith(_GGUF):
        raise CheckpointError(f"{source} is not a checkpoint.{_QUANTIZED}")
    raise CheckpointError(f"{source} is a file. Give the checkpoint's directory.")


def _locate(source: str, progress: ProgressCallback) -> tuple[Path, str | None]:
    directory = check_source(source)
    return download(source, progress) if directory is None else (directory, None)

"""Where the files of a checkpoint lie: directories that the user names, or hub ids that are downloaded."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from edge_llava.converters.hub import download, find_snapshot, is_hub_id
from edge_llava.converters.json_file import plain, shown
from edge_llava.errors import CheckpointError
from edge_llava.home.progress import ProgressCallback, silent


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


def _locate(source: str, progress: ProgressCallback) -> tuple[Path, str | None]:
    directory = Path(os.path.expanduser(source))
    if os.path.isdir(directory):
        return directory.absolute(), None
    if os.path.exists(directory):
        raise CheckpointError(f"{source} is a file. Give the checkpoint's directory.")
    if is_hub_id(source):
        return download(source, progress)
    raise CheckpointError(f"there is no directory {source}, and it is no hub id (owner/name) either.")

"""What is written for each image besides its line: a sidecar file, and its description."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edge_llava.captioning.caption import Caption
from edge_llava.captioning.metadata.descriptions import Description, Descriptions
from edge_llava.captioning.options import CaptionOptions
from edge_llava.captioning.sidecar import Sidecars
from edge_llava.errors import ImageError


class Beside:
    """Writes what the options ask for. What cannot be written is a fault of its image, which keeps its line.

    Attributes:
        sidecars: Counts what was written next to images.
        descriptions: Counts what was written into images or XMP sidecars; None if none are asked for.
    """

    def __init__(
        self, directory: Path, out: Path, options: CaptionOptions, on_fault: Callable[[str, str], None]
    ) -> None:
        """
        Args:
            directory: The folder that names are relative to.
            out: The output file, which is not a sidecar.
            options: What to write.
            on_fault: Called with the name of an image and the reason if something cannot be written for it.
        """
        self._directory, self._out, self._options, self._on_fault = directory, out, options, on_fault
        self.descriptions = (
            None if options.describe is None else Descriptions(options.describe, replace=options.replace_descriptions)
        )
        self.sidecars = self._assign(())

    def take_names(self, names: Sequence[str]) -> None:
        """Decides the sidecar of each image anew, where sidecars are asked for.

        Raises:
            EdgeLlavaError: As `Sidecars`.
        """
        before, self.sidecars = self.sidecars, self._assign(names if self._options.sidecars else ())
        self.sidecars.n_written, self.sidecars.n_kept = before.n_written, before.n_kept

    def prepare(self, caption: Caption) -> Description | None:
        """The description that an image is to get; None if it gets none."""
        if self.descriptions is None:
            return None
        try:
            return self.descriptions.prepare(self._directory / caption.path, caption.sha256, caption.answer)
        except OSError as error:
            self._on_fault(caption.path, f"its description cannot be written: {error.strerror}")
        except ImageError as error:
            self._on_fault(caption.path, str(error).replace(str(self._directory / caption.path), "it", 1))
        return None

    def write(self, caption: Caption, description: Description | None) -> None:
        """Writes the sidecar, and the description that was prepared."""
        try:
            if self._options.sidecars:
                self.sidecars.write(caption.path, caption.answer)
        except OSError as error:
            self._on_fault(caption.path, f"its sidecar cannot be written: {error.strerror}")
        try:
            if self.descriptions is not None and description is not None:
                self.descriptions.write(description)
        except OSError as error:
            self._on_fault(caption.path, f"its description cannot be written: {error.strerror}")

    def _assign(self, names: Sequence[str]) -> Sidecars:
        suffix = ".txt" if self._options.schema is None else ".json"
        return Sidecars(self._directory, names, self._out, suffix=suffix, overwrite=self._options.overwrite)

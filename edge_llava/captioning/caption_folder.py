"""Captioning a folder in one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_llava.captioning.job import CaptionJob
from edge_llava.captioning.options import CaptionOptions
from edge_llava.captioning.report import CaptionReport
from edge_llava.home.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from edge_llava.runtime.model import LlavaModel


def caption_folder(
    model: LlavaModel,
    directory: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] | None = None,
    options: CaptionOptions | None = None,
    *,
    progress: ProgressCallback = silent,
) -> CaptionReport:
    """Captions every image of a folder, or of several folders and files; resumes where an earlier run stopped.

    Args:
        model: An opened bundle.
        directory: The folder, with everything below it; or a list of folders and files.
        out: The output: FILE.jsonl has JSON lines, FILE.csv is CSV. None is captions.jsonl in the folder, or in the
            innermost one that contains all.
        options: What to ask.
        progress: Called with the number of images done. An exception from it stops the run; the next run resumes.

    Returns:
        What was done; images that cannot be used are its faults.

    Raises:
        ImageError: If the folder contains no image.
        EdgeLlavaError: If the output cannot be written or was begun with other settings, or an engine fails.
    """
    sources = [directory] if isinstance(directory, (str, os.PathLike)) else directory
    with CaptionJob(
        [Path(source) for source in sources],
        None if out is None else Path(out),
        model.bundle,
        options or CaptionOptions(),
        visual_tokens=model.options.visual_tokens,
        alpha=model.options.alpha,
        max_tiles=model.options.max_tiles,
    ) as job:
        job.check(progress)
        job.caption(model, progress)
        return job.report

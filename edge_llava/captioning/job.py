"""Captioning a folder: finds the images, skips those that are done, and captions the rest in order."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from edge_llava.bundle.bundle import Bundle
from edge_llava.captioning.asking import Asking, Said
from edge_llava.captioning.caption import Caption, Provenance
from edge_llava.captioning.caption_file import CaptionFile
from edge_llava.captioning.folder import OUTPUT_NAME, FileFault, common_folder, find_images
from edge_llava.captioning.one_ahead import work_one_ahead
from edge_llava.captioning.options import CaptionOptions
from edge_llava.captioning.prepared import Damaged, Prepared, Ready, Seen, Unread
from edge_llava.captioning.report import CaptionReport
from edge_llava.captioning.sidecar import Sidecars
from edge_llava.errors import BackendError, ContextOverflow, EdgeLlavaError, ImageError
from edge_llava.home.files import digest_file
from edge_llava.home.image_files.alpha import Alpha
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent
from edge_llava.runtime.language.grammar import GrammarFault
from edge_llava.runtime.vision.image import Image
from edge_llava.runtime.vision.image_embedding import ImageEmbedding
from edge_llava.runtime.vision.tower import wait_for

if TYPE_CHECKING:
    from edge_llava.runtime.model import LlavaModel


class CaptionJob:
    """One run: open it, `check()` what earlier runs did, then `caption()` the images of `todo`.

    Attributes:
        todo: Paths of the images that have no line yet, relative to the folder.
        first_failure: Why the first image without an answer has none; None if every image so far has one.
    """

    def __init__(
        self,
        sources: Path | Sequence[Path],
        out: Path | None,
        bundle: Bundle,
        options: CaptionOptions,
        *,
        visual_tokens: int | None = None,
        alpha: Alpha = "white",
        max_tiles: int | None = None,
    ) -> None:
        """
        Args:
            sources: A folder; or several folders and files.
            out: The output; see `CaptionFile`. None is captions.jsonl in the folder, or in the innermost one that
                contains all sources. Paths in it are relative to that folder.
            bundle: The bundle that will answer; no engine is opened.
            options: What to ask.
            visual_tokens, alpha, max_tiles: See `EngineOptions`; those of the model that will answer.

        Raises:
            ImageError: If the folder contains no image.
            EdgeLlavaError: If the output cannot be written, was begun with other settings, or is a sidecar file.
        """
        self._started = time.perf_counter()
        named = (sources,) if isinstance(sources, Path) else tuple(sources)
        if not named:
            raise ValueError("there is nothing to caption")
        out = common_folder(named) / OUTPUT_NAME if out is None else out
        self._folder = find_images(*named, leave_out=out)
        self._options = options
        kind = "caption" if options.schema is None else "json"
        settings = options.digest(bundle.manifest, visual_tokens, alpha, max_tiles)
        provenance = Provenance(kind, bundle.name, options.prompt, settings)
        names = self._folder.names
        suffix = ".txt" if options.schema is None else ".json"
        with_sidecar = names if options.sidecars else ()
        self._sidecars = Sidecars(self._folder.directory, with_sidecar, out, suffix=suffix, overwrite=options.overwrite)
        self._file = CaptionFile(out, provenance, overwrite=options.overwrite)
        self.todo = list(names)
        self._faults = list(self._folder.faults)
        self.first_failure: EdgeLlavaError | None = None
        self._reasons: dict[str, str] = {}  # by sha256: why an image has no answer in this run
        self._engine_failed = False  # on the last image
        self._claimed: set[str] = set()  # sha256 of images that this run asks about
        self._n_captioned = self._n_duplicates = self._n_earlier = self._n_tokens = self._n_truncated = 0
        self._alpha = alpha

    def __enter__(self) -> CaptionJob:
        return self

    def __exit__(self, *unused: object) -> None:
        self._file.close()

    @property
    def report(self) -> CaptionReport:
        """What has been done so far."""
        return CaptionReport(
            out=self._file.path,
            n_images=len(self._folder.names),
            n_captioned=self._n_captioned,
            n_duplicates=self._n_duplicates,
            n_earlier=self._n_earlier,
            n_tokens=self._n_tokens,
            n_sidecars=self._sidecars.n_written,
            n_sidecars_kept=self._sidecars.n_kept,
            seconds=time.perf_counter() - self._started,
            faults=tuple(self._faults),
            unsupported=dict(self._folder.unsupported),
            n_truncated=self._n_truncated,
            n_links_out=self._folder.n_links_out,
            passed_over=tuple(self._folder.passed_over),
        )

    def check(self, progress: ProgressCallback = silent) -> None:
        """Removes from `todo` the images that have a line for their present bytes."""
        have_line = [name for name in self.todo if name in self._file.names()]
        done = set()
        for index, name in enumerate(have_line, start=1):
            try:
                sha256 = digest_file(self._folder.path(name))
                if self._file.has(name, sha256):
                    done.add(name)
                    self._write_sidecar(name, self._file.find(sha256))
            except OSError:
                pass  # it stays in `todo`, and becomes a fault there
            progress(ProgressEvent("looking for what is done", index, len(have_line), "items"))
        self._n_earlier = len(done)
        self.todo = [name for name in self.todo if name not in done]

    def caption(self, model: LlavaModel, progress: ProgressCallback = silent) -> None:
        """Asks about every image of `todo`. Images that cannot be used become faults in the report.

        So does an image on which an engine fails. If it fails on the next image, too, the engine is at fault.

        Raises:
            EdgeLlavaError: If the output cannot be read or written, or an engine fails. Written lines stay.
        """
        if not self.todo:
            return
        ahead = self._options.encode_ahead

        def prepare(name: str, stop: threading.Event) -> Prepared:
            image = self._read(name)
            if isinstance(image, Ready) and (model.on_gpu if ahead is None else ahead):
                return _encode(model, image, stop)
            return image

        progress(ProgressEvent("captioning", 0, len(self.todo), "items"))
        waiting = deque[tuple[str, Prepared, Future[Said] | None]]()
        n_done = 0

        def settle() -> None:
            nonlocal n_done
            self._settle(*waiting.popleft())
            n_done += 1
            progress(ProgressEvent("captioning", n_done, len(self.todo), "items"))

        with closing(work_one_ahead(self.todo, prepare)) as prepared, Asking(model, self._options) as asking:
            for name, image in prepared:
                waiting.append((name, image, asking.ask(image) if isinstance(image, Ready) else None))
                del image  # before the work on the one after next begins
                if len(waiting) >= model.options.parallel:
                    settle()
            while waiting:
                settle()

    def _read(self, name: str) -> Prepared:
        path = self._folder.path(name)
        try:
            before = os.stat(path)
            sha256 = digest_file(path)
            if sha256 in self._claimed or self._file.knows(sha256):
                return Seen(sha256)
            image = _open(path, sha256, self._alpha)
            after = os.stat(path)
        except OSError as error:
            return Unread(f"it cannot be read: {error.strerror}.")
        if (before.st_size, before.st_mtime_ns, before.st_ino) != (after.st_size, after.st_mtime_ns, after.st_ino):
            return Unread("it changed while it was read. Run the same command again.")
        self._claimed.add(sha256)
        return image

    def _settle(self, name: str, image: Prepared, asked: Future[Said] | None) -> None:
        """Writes the line of an image, or notes why it gets none."""
        match image:
            case Unread(reason):
                self._note(name, reason, ImageError(reason))
            case Seen(sha256) if sha256 in self._reasons:
                self._faults.append(FileFault(name, self._reasons[sha256]))
            case Seen(sha256):
                self._n_duplicates += 1
                self._keep(self._file.find(sha256).for_duplicate(name))
            case Damaged(sha256, fault):
                self._blame(name, sha256, fault)
            case Ready() if asked is not None:
                try:
                    self._take(name, image, asked.result())
                except (ImageError, ContextOverflow, BackendError, _Unfinished) as error:
                    self._blame(name, image.sha256, error)

    def _blame(self, name: str, sha256: str, fault: EdgeLlavaError) -> None:
        """Notes why these bytes have no answer.

        Raises:
            BackendError: If the engine failed on two images in a row: then the engine is at fault.
        """
        if isinstance(fault, BackendError) and not isinstance(fault, GrammarFault):
            if self._engine_failed:
                raise fault
            self._engine_failed = True
        reason = str(fault).replace(str(self._folder.path(name)), "it", 1)
        self._reasons[sha256] = reason
        self._note(name, reason, fault)

    def _note(self, name: str, reason: str, failure: EdgeLlavaError) -> None:
        self.first_failure = self.first_failure or failure
        self._faults.append(FileFault(name, reason))

    def _take(self, name: str, ready: Ready, said: Said) -> None:
        self._engine_failed = False
        answer = said.text if self._options.schema is None else _parse(said.text, said.n_tokens)
        self._n_captioned += 1
        self._n_tokens += said.n_tokens
        self._n_truncated += ready.truncated
        self._keep(
            Caption(
                name,
                ready.sha256,
                answer,
                said.finish_reason,
                said.n_tokens,
                said.seconds,
                truncated=ready.truncated,
            )
        )

    def _keep(self, caption: Caption) -> None:
        self._file.append(caption)
        self._write_sidecar(caption.path, caption)

    def _write_sidecar(self, name: str, caption: Caption) -> None:
        if not self._options.sidecars:
            return
        try:
            self._sidecars.write(name, caption.answer)
        except OSError as error:
            self._faults.append(FileFault(name, f"its sidecar cannot be written: {error.strerror}"))


class _Unfinished(EdgeLlavaError):
    """An answer that ended before its JSON was complete; never leaves this module."""


def _open(path: Path, sha256: str, alpha: Alpha) -> Damaged | Ready:
    try:
        image = Image.open(path, alpha=alpha)
        return Ready(sha256, image, image.truncated)
    except ImageError as error:
        return Damaged(sha256, error)


def _encode(model: LlavaModel, ready: Ready, stop: threading.Event) -> Damaged | Ready:
    if isinstance(ready.image, ImageEmbedding):
        return ready
    try:
        embedding = wait_for(model.tower.start(ready.image), stop)
        return Ready(ready.sha256, embedding, ready.truncated)
    except BackendError as error:
        return Damaged(ready.sha256, error)


def _parse(text: str, n_tokens: int) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _Unfinished(
            f"its answer was cut at {n_tokens} tokens, before the JSON was complete. Allow more with -n: images that "
            "already have a line keep it."
        ) from error


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
        out: The output, JSON lines; None is captions.jsonl in the folder, or in the innermost one that contains all.
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

"""Captioning a folder: finds the images, skips those that are done, and captions the rest in order."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_llava.bundle.bundle import Bundle
from edge_llava.captioning.asking import Answerer, Asking, Pending, Said
from edge_llava.captioning.beside import Beside
from edge_llava.captioning.caption import Caption, Provenance
from edge_llava.captioning.caption_file import CaptionFile
from edge_llava.captioning.folder import OUTPUT_NAME, FileFault, common_folder, find_images
from edge_llava.captioning.one_ahead import work_one_ahead
from edge_llava.captioning.options import CaptionOptions
from edge_llava.captioning.prepared import Damaged, Prepared, Ready, Seen, Unread
from edge_llava.captioning.reading import Reader
from edge_llava.captioning.report import CaptionReport
from edge_llava.errors import BackendError, ContextOverflow, EdgeLlavaError, ImageError
from edge_llava.home.files import digest_file
from edge_llava.home.image_files.alpha import Alpha
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent
from edge_llava.runtime.language.grammar import GrammarFault

if TYPE_CHECKING:
    from edge_llava.runtime.model import LlavaModel


class CaptionJob:
    """One run: open it, `check()` what earlier runs did, then `caption()` the images of `todo`.

    Attributes:
        todo: Paths of the images that have no line yet, relative to the folder.
        captioned: Names of the images that got a line from the last `caption()`.
        faults: What could not be used so far; what the search found to be unusable is in `search_faults`.
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
        self._named, self._out, self._options = named, out, options
        self._folder = find_images(*named, leave_out=out, may_be_none=options.watch)
        kind = "caption" if options.schema is None else "json"
        settings = options.digest(bundle.manifest, visual_tokens, alpha, max_tiles)
        provenance = Provenance(kind, bundle.name, options.prompt, settings)
        names = self._folder.names
        self._beside = Beside(self._folder.directory, out, options, self._add_fault)
        self._beside.take_names(names)
        self._file = CaptionFile(out, provenance, overwrite=options.overwrite)
        self._reader = Reader(alpha, self._file.knows, waits_for_ends=options.watch)
        self.todo, self.captioned = list(names), list[str]()
        self.faults = list[FileFault]()  # of this run; those of the search are in the folder
        self.first_failure: EdgeLlavaError | None = None
        self._reasons: dict[str, str] = {}  # by sha256: why an image has no answer in this run
        self._engine_failed = False  # on the last image
        self._finished: set[str] = set()  # names of images that were counted
        self._n_captioned = self._n_duplicates = self._n_earlier = self._n_tokens = self._n_truncated = 0

    def __enter__(self) -> CaptionJob:
        return self

    def __exit__(self, *unused: object) -> None:
        self._file.close()

    @property
    def report(self) -> CaptionReport:
        """What has been done so far."""
        descriptions = self._beside.descriptions
        return CaptionReport(
            out=self._file.path,
            n_images=len(self._folder.names),
            n_captioned=self._n_captioned,
            n_duplicates=self._n_duplicates,
            n_earlier=self._n_earlier,
            n_tokens=self._n_tokens,
            n_sidecars=self._beside.sidecars.n_written,
            n_sidecars_kept=self._beside.sidecars.n_kept,
            n_descriptions=0 if descriptions is None else descriptions.n_written,
            n_descriptions_kept=0 if descriptions is None else descriptions.n_kept,
            seconds=time.perf_counter() - self._started,
            faults=(*self._folder.faults, *self.faults),
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
                    self._make_up_for(name, sha256)
            except OSError:
                pass  # it stays in `todo`, and becomes a fault there
            progress(ProgressEvent("looking for what is done", index, len(have_line), "items"))
        self._n_earlier += len(done - self._finished)
        self._finished |= done
        self.todo = [name for name in self.todo if name not in done]

    def look_again(self) -> list[str]:
        """Searches the sources once more.

        Returns:
            The names of all images that are there now.

        Raises:
            EdgeLlavaError: If a sidecar could have no other name than the output.
        """
        names = self._folder.names
        self._folder = find_images(*self._named, leave_out=self._out, may_be_none=True)
        if self._folder.names != names:
            self._beside.take_names(self._folder.names)
        return self._folder.names

    @property
    def search_faults(self) -> list[FileFault]:
        """Directories that cannot be listed, and image names that do not belong to regular files."""
        return self._folder.faults

    def path(self, name: str) -> Path:
        """The path of an image."""
        return self._folder.path(name)

    def forget_faults(self, names: Collection[str]) -> None:
        """Takes the faults of these images out of the report, because they are tried again or have disappeared."""
        self.faults = [fault for fault in self.faults if fault.path not in names]

    def caption(self, model: LlavaModel, progress: ProgressCallback = silent) -> None:
        """Asks about every image of `todo`. Images that cannot be used become faults in the report.

        So does an image on which an engine fails. If it fails on the next image, too, the engine is at fault.

        Raises:
            EdgeLlavaError: If the output cannot be read or written, or an engine fails. Written lines stay.
        """
        self.captioned = []
        if self.todo:
            with Asking(model, self._options) as asking:
                self.caption_with(asking, progress)

    def caption_with(self, answerer: Answerer, progress: ProgressCallback = silent) -> None:
        """As `caption`, with the answers of whatever computes them."""
        self.captioned = []

        def prepare(name: str, stop: threading.Event) -> Prepared:
            image = self._reader.read(self._folder.path(name))
            return answerer.prepare(image, stop) if isinstance(image, Ready) else image

        progress(ProgressEvent("captioning", 0, len(self.todo), "items"))
        waiting = deque[tuple[str, Prepared, Pending | None]]()
        n_done = 0

        def settle() -> None:
            nonlocal n_done
            self._settle(*waiting.popleft())
            n_done += 1
            progress(ProgressEvent("captioning", n_done, len(self.todo), "items"))

        with closing(work_one_ahead(self.todo, prepare)) as prepared:
            for name, image in prepared:
                waiting.append((name, image, answerer.ask(image) if isinstance(image, Ready) else None))
                del image  # before the work on the one after next begins
                if len(waiting) >= answerer.n_at_once:
                    settle()
            while waiting:
                settle()

    def _settle(self, name: str, image: Prepared, asked: Pending | None) -> None:
        """Writes the line of an image, or notes why it gets none."""
        self._finished.add(name)
        match image:
            case Unread(reason):
                self._note(name, reason, ImageError(reason))
            case Seen(sha256) if sha256 in self._reasons:
                self._add_fault(name, self._reasons[sha256])
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
        self._add_fault(name, reason)

    def _add_fault(self, name: str, reason: str) -> None:
        self.faults.append(FileFault(name, reason))

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
        description = self._beside.prepare(caption)
        if description is not None:  # recorded before it is written: after a kill in between, the bytes are known
            caption = replace(caption, written_sha256=description.image_sha256)
        self._file.append(caption)
        self.captioned.append(caption.path)
        self._beside.write(caption, description)

    def _make_up_for(self, name: str, sha256: str) -> None:
        """Writes what an earlier run did not write besides the line of an image: other options, or a kill."""
        if not self._options.sidecars and self._options.describe is None:
            return
        found = self._file.find(sha256)
        caption = found if found.path == name else found.for_duplicate(name)
        is_described = self._options.describe == "image" and self._file.written(name) == sha256
        description = None if is_described else self._beside.prepare(caption)
        if description is not None and description.image_sha256 not in (None, self._file.written(name)):
            self._file.append(replace(caption, written_sha256=description.image_sha256))
        self._beside.write(caption, description)


class _Unfinished(EdgeLlavaError):
    """An answer that ended before its JSON was complete; never leaves this module."""


def _parse(text: str, n_tokens: int) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _Unfinished(
            f"its answer was cut at {n_tokens} tokens, before the JSON was complete. Allow more with -n: images that "
            "already have a line keep it."
        ) from error

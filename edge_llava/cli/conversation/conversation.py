"""A conversation: a session of the model, the images that go with the next question, and what was said."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from edge_llava.cli.answer import read_answer
from edge_llava.cli.conversation.input_line import without_echo
from edge_llava.cli.conversation.kept import check_images, find_present
from edge_llava.cli.conversation.preview import show_preview
from edge_llava.cli.conversation.shown_image import ShownImage, find_file
from edge_llava.cli.conversation.transcript import AnsweredQuestion, Transcript, to_messages
from edge_llava.cli.display import note, note_truncated
from edge_llava.cli.images import open_image
from edge_llava.cli.pace import Pace, measured_pace
from edge_llava.cli.printable import printable
from edge_llava.cli.tiles import note_tiles
from edge_llava.errors import EdgeLlavaError

if TYPE_CHECKING:
    from pathlib import Path

    from edge_llava.cli.conversation.kept import KeptConversation
    from edge_llava.cli.conversation.model_slot import ModelSlot
    from edge_llava.home.image_files.alpha import Alpha
    from edge_llava.runtime.model import LlavaModel
    from edge_llava.runtime.session import Session
    from edge_llava.runtime.vision.image import Image
    from edge_llava.runtime.vision.image_embedding import ImageEmbedding

_MOST_PREVIEWS = 4
Keep = Callable[["Path", str, list[AnsweredQuestion]], bool]
"""Keeps a conversation, of bundle, system text and turns, and says whether that was possible."""


@dataclass(frozen=True)
class Manners:
    """How a conversation treats its images, and whether it is kept.

    Attributes:
        alpha: How transparency is treated in images that are added.
        tuned: Whether times may be estimated from what `edge-llava tune` measured.
        has_preview: Whether images are shown on the terminal.
        keep: Called after every answer; None keeps nothing.
    """

    alpha: Alpha
    tuned: bool
    has_preview: bool
    keep: Keep | None


class Conversation:
    """What the commands of the conversation work on.

    Attributes:
        session: The model's side.
        pending: Images that go with the next question.
        turns: What was said.
        system: The user's system text; "" where the bundle's own is used.
    """

    def __init__(self, slot: ModelSlot, session: Session, manners: Manners, system: str = "") -> None:
        self.session, self.system = session, system
        self.pending: list[ShownImage] = []
        self.turns: list[AnsweredQuestion] = []
        self._slot, self._manners = slot, manners
        self._keep_as, self._is_kept = manners.keep, False
        self._misses_image = False  # and the user was told

    @property
    def model(self) -> LlavaModel:
        """The model that answers."""
        return self._slot.model

    @property
    def images(self) -> list[ShownImage]:
        """Those of earlier questions, then those of the next one."""
        return [*(image for turn in self.turns for image in turn.images), *self.pending]

    @property
    def transcript(self) -> Transcript:
        """What was said, for an export."""
        return Transcript(self.model.bundle.name, self.system, tuple(self.turns))

    def begin(self, images: list[ShownImage], kept: KeptConversation | None) -> None:
        """Begins with these images for the first question, after an earlier conversation if there is one.

        Raises:
            EdgeLlavaError: As `Session.resume`.
        """
        if kept is not None:
            self.resume(self.system or kept.system, kept.turns)
            note(f"Continuing a conversation of {len(self.turns)} question{'s' * (len(self.turns) != 1)}")
        self.pending = images
        for image in images[:_MOST_PREVIEWS]:
            self.preview(image.open())

    def ask(self, question: str) -> None:
        """Asks a question about the pending images, and writes the answer.

        Raises:
            EdgeLlavaError: As `Session.ask`.
        """
        self.pending = list(find_present(self.pending))
        self._note_missing_image()
        n_before, shown = self.session.n_dropped, [image.open() for image in self.pending]
        with without_echo():
            answer = read_answer(self.session, question, shown, self.model.tower, stream=True, pace=self._pace())
        if n_dropped := self.session.n_dropped - n_before:
            note_dropped(n_dropped)
        if answer.finish_reason == "cancelled" and not answer.tokens:
            return  # stopped before the first token: the question does not count, its images go with the next one
        self.turns.append(AnsweredQuestion(question, tuple(self.pending), answer.text))
        for image in self.pending:
            image.let_go()
        self.pending = []
        self._keep()

    def _pace(self) -> Pace:
        return measured_pace(self.model.manifest, tuned=self._manners.tuned)

    def add(self, name: str) -> None:
        """Adds an image to the next question; `name` is as of `open_image`.

        Raises:
            ImageError: If it cannot be read.
        """
        self.add_opened(name, open_image(name, self._manners.alpha), find_file(name))

    def add_opened(self, name: str, image: Image, file: Path | None) -> None:
        """As `add`, of an image that is open; `file` is where from, if it has one."""
        note_truncated([(name, image)])
        self.pending.append(ShownImage.of(name, image, self._manners.alpha, file=file))
        form = self.model.tower.forms.choose(len(self.session.images) + len(self.pending))
        note_tiles([(name, image)], self.model.manifest, form, tuned=self._manners.tuned)
        self.preview(image)

    def preview(self, image: Image | ImageEmbedding) -> None:
        """Shows an image on a terminal that can."""
        from edge_llava.runtime.vision.image import Image

        if self._manners.has_preview and isinstance(image, Image):
            show_preview(image.pixels)

    def prepare(self) -> None:
        """Begins to encode and read the pending images while the question is typed.

        Raises:
            EdgeLlavaError: As `Session.prepare`.
        """
        self.pending = list(find_present(self.pending))
        self.session.prepare([image.open() for image in self.pending])

    def undo(self) -> AnsweredQuestion | None:
        """Takes back the last question and its answer; its images go with the next one. None: there was none.

        Raises:
            EdgeLlavaError: As `Session.resume`; nothing changed.
        """
        if not self.turns:
            return None
        last = self.turns[-1]
        self.resume(self.system, self.turns[:-1])
        self.pending = [*find_present(last.images), *self.pending]
        return last

    def clear(self, *, keep_images: bool) -> None:
        """Begins anew, about the same images if `keep_images`."""
        images = list(find_present(self.images)) if keep_images else []
        self.resume(self.system, [])
        self.pending, self._misses_image = images, False

    def change_system(self, text: str) -> None:
        """Sets the system text for the whole conversation; "" restores the bundle's own.

        Raises:
            EdgeLlavaError: As `Session.resume`; nothing changed.
        """
        self.resume(text, self.turns)

    def load(self, name: str) -> None:
        """Loads another bundle and begins anew; images stay, except for embeddings, which belong to a bundle.

        Raises:
            EdgeLlavaError: If the bundle cannot be opened; the one before it is opened again.
        """
        before = self.model
        try:
            with without_echo():
                self._slot.load(name)
        except EdgeLlavaError:
            if self.model is not before:
                self._begin_session(self.turns)
            raise
        self.pending = list(find_present([image for image in self.images if not image.is_embedding]))
        self._begin_session([])

    def _begin_session(self, turns: Sequence[AnsweredQuestion]) -> None:
        self.session = self.model.session(self.session.options, on_full=self.session.on_full)
        self.resume(self.system, turns)

    def resume(self, system: str, turns: Sequence[AnsweredQuestion]) -> None:
        """Puts another conversation in the place of this one, without the images that are gone.

        Raises:
            EdgeLlavaError: As `Session.resume`; nothing changed.
        """
        present = check_images(turns)
        self.session.resume(to_messages(system, present))
        self.system, self.turns = system, present
        self._keep()

    def _keep(self) -> None:
        if self._keep_as is not None and (self.turns or self._is_kept):  # an earlier conversation stays until then
            can_keep = self._keep_as(self.model.bundle.path, self.system, self.turns)
            self._keep_as, self._is_kept = self._keep_as if can_keep else None, bool(self.turns)

    def _note_missing_image(self) -> None:
        if not (self.session.images or self.pending or self._misses_image):
            self._misses_image = True
            note_missing_image("/image PATH adds one")


def note_dropped(n_questions: int) -> None:
    """Notes that the oldest questions went to make room for a new one."""
    if n_questions == 1:
        note("The context was full: the oldest question and its answer were dropped.")
    else:
        note(f"The context was full: the oldest {n_questions} questions and their answers were dropped.")


def note_missing_image(advice: str) -> None:
    """Notes that a question goes without an image, which its answer may not show."""
    note_dim(f"no image in this conversation; {advice}")


def note_dim(text: str) -> None:
    """Prints a line for people that matters less."""
    click.secho(printable(text), err=True, dim=sys.stderr.isatty())

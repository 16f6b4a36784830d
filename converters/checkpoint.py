"""A LLaVA checkpoint, opened: configs first, then shapes of every tensor, data only on demand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from edge_llava.converters.bundle_specs import find_limit_faults
from edge_llava.converters.checkpoint_config import CheckpointConfig
from edge_llava.converters.contents import read_contents
from edge_llava.converters.expected_tensors import (
    NEWLINE,
    expected_language_shapes,
    expected_projector_shapes,
    expected_vision_shapes,
)
from edge_llava.converters.json_file import shorten
from edge_llava.converters.licenses import find_licenses
from edge_llava.converters.model_configs import TowerConfig
from edge_llava.converters.parts import Parts
from edge_llava.converters.places import Places
from edge_llava.converters.taps import FeatureTap, TapChoice, find_tap
from edge_llava.converters.tensor_store import TensorSource, TensorStore, refuse_unread
from edge_llava.converters.tokenizers.reading import read_vocabulary
from edge_llava.converters.tokenizers.vocabulary import Vocabulary
from edge_llava.converters.weight_files import list_weights
from edge_llava.errors import CheckpointError, list_faults
from edge_llava.home.progress import ProgressCallback, silent

_LEAST_NORM = 0.05


@dataclass(frozen=True)
class Checkpoint:
    """A complete, readable LLaVA checkpoint. The source is only ever read.

    Attributes:
        name: Directory name or hub id; for people and file names.
        directory: Where its files lie.
        revision: Commit of the hub repository, or None.
        config: What its JSON files say.
        tower: The tower's config, wherever the tower lies.
        tap: Where the tower's features are taken from.
        vocabulary: Tokens; exactly those whose rows are deployed.
        kind: "whole", "delta", "lora" or "projector", see `sources.Sources`.
        tokenizer: Directory of the tokenizer's files.
        base: Directory of the model that it is a delta, an adapter or a projector for, or None.
        tower_directory: Directory of a tower that lies on its own, or None.
        parts: Where the parts lie that xtuner saved, each in its directory; None in the other layouts.
    """

    name: str
    directory: Path
    revision: str | None
    config: CheckpointConfig
    tower: TowerConfig
    tap: FeatureTap
    vocabulary: Vocabulary
    _stores: tuple[TensorSource, ...]
    kind: str
    tokenizer: Path
    base: Path | None = None
    tower_directory: Path | None = None
    parts: Parts | None = None

    @classmethod
    def open(
        cls,
        source: str,
        vision_tower: str | None = None,
        base: str | None = None,
        progress: ProgressCallback = silent,
    ) -> Checkpoint:
        """Finds what the user named, and reads it.

        Args:
            source: Directory, or hub id such as "llava-hf/llava-1.5-7b-hf". A directory never touches the network.
            vision_tower: Directory or hub id of the tower, for checkpoints that do not hold it.
            base: Directory or hub id of the model that `source` is a delta or an adapter of, or a projector for.
            progress: Told what is downloaded.

        Raises:
            CheckpointError: If there is none, or as `read`.
        """
        return cls.read(Places.find(source, vision_tower, base, progress))

    @classmethod
    def read(cls, places: Places) -> Checkpoint:
        """Reads a checkpoint's files and checks that every tensor is there with the right shape.

        Raises:
            CheckpointError: If it is not a supported LLaVA, or incomplete; all missing tensors at once.
        """
        contents = read_contents(places)
        config, tower, sources = contents.config, contents.tower, contents.sources
        choice = TapChoice(config.feature_layer, config.drop_cls, tower.n_layers, is_inside=contents.holds_tower)
        configs = [path for path in (places.directory, places.base) if path is not None]
        checkpoint = cls(
            name=places.name,
            directory=places.directory,
            revision=places.commit,
            config=config,
            tower=tower,
            tap=find_tap(config.tap_rule, choice),
            vocabulary=read_vocabulary(sources.tokenizer, config.language.n_rows, config.image_token, configs),
            _stores=sources.stores,
            kind=sources.kind,
            tokenizer=sources.tokenizer,
            base=places.base,
            tower_directory=contents.tower_directory,
            parts=contents.parts,
        )
        checkpoint._check()
        return checkpoint

    @property
    def n_blocks(self) -> int:
        """Tower blocks that are run."""
        return self.tap.n_blocks

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one of our tensors (see `tensor_names`)."""
        return self._store(name).infos[name].shape

    def n_bytes(self, name: str) -> int:
        """Size of a tensor on disk."""
        return self._store(name).infos[name].n_bytes

    def load(self, name: str) -> torch.Tensor:
        """One tensor, with the dtype of the file."""
        return self._store(name).load(name)

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds a tensor."""
        return any(name in store.infos for store in self._stores)

    def language_tensors(self) -> list[str]:
        """Our names of the language model's tensors, in the order of the file: embedding, blocks, norm, head.

        The head is left out where it is tied to the embedding.
        """
        names = list(expected_language_shapes(self.config.language))
        has_head = self.has("language.lm_head.weight") and not self.config.language.tied
        return names if has_head else [name for name in names if name != "language.lm_head.weight"]

    def projector_names(self) -> list[str]:
        """Our names of the projector's tensors, layer by layer: weight, bias."""
        return list(expected_projector_shapes(self.tower, self.config.language, self.config.projector_kind))

    def license_files(self) -> list[Path]:
        """Files of the checkpoint that state its licence."""
        return find_licenses(self.directory)

    def _store(self, name: str) -> TensorSource:
        # The checkpoint before the tower's own directory: a tower that was trained on is saved with the rest.
        return next(store for store in self._stores if name in store.infos)

    def _check(self) -> None:
        faults = find_limit_faults(self)
        if faults:
            raise CheckpointError(list_faults(f"{self.directory} is beyond the limits of a bundle:", shorten(faults)))
        self._check_tensors()
        self._check_that_it_is_no_delta()
        self._check_head()

    def _check_tensors(self) -> None:
        expected = (
            expected_vision_shapes(self.tower, self.n_blocks)
            | expected_projector_shapes(self.tower, self.config.language, self.config.projector_kind)
            | ({NEWLINE: (self.config.language.n_embd,)} if self.config.has_newline else {})
            | {
                name: shape
                for name, shape in expected_language_shapes(self.config.language).items()
                if self._needs(name)
            }
        )
        self._refuse_unread(expected)
        faults = [f"{name} is missing" for name in expected if not self.has(name)]
        present = [name for name in expected if self.has(name)]
        faults += [
            f"{n} has shape {self.shape(n)}, expected {expected[n]}" for n in present if self.shape(n) != expected[n]
        ]
        if faults:
            over = "" if self.base is None else f" over {self.base}"
            headline = f"{self.directory}{over} is incomplete or does not match its config:"
            raise CheckpointError(list_faults(headline, shorten(faults), self._name_other_files()))

    def _refuse_unread(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Every tensor must have a use, or be known to have none: a part of the model must not get lost unseen."""
        used = {*expected, *expected_vision_shapes(self.tower, self.tower.n_layers)}
        used.add("language.lm_head.weight")  # of a tied model
        if self.config.layout == "original":  # a 1.6 that was trained on without tiles keeps the row
            used.add(NEWLINE)
        unread = {
            info.source_name
            for store in self._stores
            for name, info in store.infos.items()
            if name not in used and not name.startswith(self.tower.kind.unused)
        }
        refuse_unread(self.directory, sorted(unread), "the model that config.json describes does not have")

    def _name_other_files(self) -> str:
        """What lies beside the files that were read, since the missing tensors may be in it."""
        read = {file for store in self._stores if isinstance(store, TensorStore) for file in store.files}
        others = [file.name for file in list_weights(self.directory) if file.suffix != ".json" and file not in read]
        if not read or not others:
            return ""
        names = ", ".join(sorted(file.name for file in read if file.parent == self.directory))
        return f"Read: {names}. Not read: {', '.join(shorten(others))}. Keep the whole ones only."

    def _check_that_it_is_no_delta(self) -> None:
        # a config does not tell; a trained norm is near 1, and the difference of two is near 0
        if self.kind == "whole" and self.load("language.norm.weight").float().abs().mean() < _LEAST_NORM:
            raise CheckpointError(
                f"{self.directory} is a delta: its last norm is next to nothing. "
                "Give the LLaMA that it is for: --base DIR"
            )

    def _check_head(self) -> None:
        """A tied model may hold a copy of its embedding as its head, and nothing else."""
        head, embedding = "language.lm_head.weight", "language.embed_tokens.weight"
        is_tied = self.config.language.tied and self.has(head)
        if is_tied and not torch.equal(self.load(head).float(), self.load(embedding).float()):
            raise CheckpointError(
                f"{self.directory} has tie_word_embeddings true in config.json, and a head of its own: versions of "
                "transformers use one or the other. Set it to false to keep the head, or remove the head's weights."
            )

    def _needs(self, name: str) -> bool:
        # Every released LLaVA has its own head; where it is missing nevertheless, the embedding serves.
        return name != "language.lm_head.weight" or self.has(name)

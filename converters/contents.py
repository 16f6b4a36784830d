"""What the files of a checkpoint say and hold, in whichever layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge_llava.converters.checkpoint_config import CheckpointConfig, read_checkpoint_config, read_tower_config
from edge_llava.converters.expected_tensors import PATCHES, infer_tower
from edge_llava.converters.model_configs import TowerConfig
from edge_llava.converters.parts import Parts, find_parts, holds_parts
from edge_llava.converters.parts_config import read_parts_config
from edge_llava.converters.places import Places
from edge_llava.converters.sources import Sources, find_kind, open_parts, open_sources
from edge_llava.converters.tensor_store import TensorSource, TensorStore
from edge_llava.converters.xtuner_config import read_xtuner_config


@dataclass(frozen=True)
class Contents:
    """A checkpoint's configs and tensors; nothing is compared yet.

    Attributes:
        config: What its JSON files say.
        sources: Its tensors, the tower's included, and its tokenizer.
        tower: The tower's config, wherever it comes from.
        holds_tower: Whether the tower is among the checkpoint's own tensors.
        tower_directory: Directory of a tower that lies on its own, or None.
        parts: See `Checkpoint`.
    """

    config: CheckpointConfig
    sources: Sources
    tower: TowerConfig
    holds_tower: bool
    tower_directory: Path | None
    parts: Parts | None = None


def read_contents(places: Places) -> Contents:
    """Reads a checkpoint's configs, and the shapes of its tensors.

    Raises:
        CheckpointError: If it is not a supported LLaVA, or files are missing or damaged.
    """
    return _read_parts(places) if holds_parts(places.directory) else _read_whole(places)


def _read_whole(places: Places) -> Contents:
    """Reads a LLaVA whose language model and projector are one model: the Hugging Face and the original layout."""
    directory, base = places.directory, places.base
    find_kind(directory, base)  # says first whether a base is missing
    # an adapter of a LLaVA in Hugging Face layout has no config of its own
    described = directory if base is None or (directory / "config.json").is_file() else base
    config = read_checkpoint_config(described)
    sources = open_sources(directory, config.layout, base)
    if sources.n_rows is not None:
        config = replace(config, language=replace(config.language, n_rows=sources.n_rows))
    tower, tower_directory = config.tower or _infer_tower(sources.stores), None
    holds_tower = tower is not None
    if tower is None:
        tower_directory = places.find_tower(config.tower_reference)
        tower = read_tower_config(tower_directory)
        sources = replace(sources, stores=(*sources.stores, TensorStore.open(tower_directory, "clip")))
    else:
        places.refuse_tower()
    if config.tower is None:
        config = replace(read_checkpoint_config(described, tower), language=config.language)
    return Contents(config, sources, tower, holds_tower, tower_directory)


def _infer_tower(stores: Sequence[TensorSource]) -> TowerConfig | None:
    """The config of a tower among a checkpoint's tensors; None if there is none."""
    shapes = {name: info.shape for store in stores for name, info in store.infos.items()}
    return infer_tower(shapes) if PATCHES in shapes else None


def _read_parts(places: Places) -> Contents:
    """Reads a LLaVA whose parts lie in directories of their own: xtuner's layout."""
    training = read_xtuner_config(places.directory)
    parts = find_parts(places, training)
    config, tower = read_parts_config(parts, training)
    sources = open_parts(parts)
    if sources.n_rows is not None:
        config = replace(config, language=replace(config.language, n_rows=sources.n_rows))
    return Contents(config, sources, tower, parts.holds_tower, parts.tower, parts)

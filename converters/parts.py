"""Where the parts of a LLaVA lie in xtuner's layout: each in its directory, whole or an adapter of a model elsewhere.

Source: xtuner's pth_to_hf and LLaVAModel, which save what was trained, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_llava.converters.json_file import plain, shown
from edge_llava.converters.places import Places
from edge_llava.converters.weight_files import list_weights
from edge_llava.converters.xtuner_config import NAME, XtunerConfig
from edge_llava.errors import CheckpointError

_PROJECTOR, _LANGUAGE_ADAPTER = "projector", "llm_adapter"
_TOWER, _TOWER_ADAPTER = "visual_encoder", "visual_encoder_adapter"


@dataclass(frozen=True)
class Parts:
    """Directories of the parts.

    Attributes:
        checkpoint: Where the others lie, if they were trained.
        language, tower: Whole models, as transformers saves them.
        projector: Of its own config and weights.
        language_adapter, tower_adapter: What was trained instead of all weights, as peft saves it, or None.
    """

    checkpoint: Path
    language: Path
    tower: Path
    projector: Path
    language_adapter: Path | None = None
    tower_adapter: Path | None = None

    @property
    def holds_tower(self) -> bool:
        """Whether the whole tower lies in the checkpoint."""
        return self.tower == self.checkpoint / _TOWER

    @property
    def kind(self) -> str:
        """What there is of the language model, see `sources.Sources.kind`."""
        if self.language == self.checkpoint:
            return "whole"
        return "projector" if self.language_adapter is None else "lora"


def holds_parts(directory: Path) -> bool:
    """Whether a directory is in xtuner's layout, which alone has a projector of its own."""
    projector = directory / _PROJECTOR
    return projector.is_dir() and ((projector / "config.json").is_file() or bool(list_weights(projector)))


def find_parts(places: Places, training: XtunerConfig) -> Parts:
    """Finds the parts.

    Args:
        places: Of the checkpoint, and of what the user names to complete it.
        training: Names the models that were trained.

    Raises:
        CheckpointError: If a part is missing, or there twice; says how to give it.
    """
    directory = places.directory
    language, language_adapter = _find_language(places, training)
    own, tower_adapter = _optional(directory, _TOWER), _optional(directory, _TOWER_ADAPTER)
    if own is not None and tower_adapter is not None:
        raise _twice(directory, f"a whole tower in {_TOWER}/", _TOWER_ADAPTER)
    if own is not None:
        places.refuse_tower()
    tower = own or places.find_tower(training.tower)
    return Parts(directory, language, tower, directory / _PROJECTOR, language_adapter, tower_adapter)


def _find_language(places: Places, training: XtunerConfig) -> tuple[Path, Path | None]:
    directory, adapter = places.directory, _optional(places.directory, _LANGUAGE_ADAPTER)
    if not list_weights(directory):
        if places.base is not None:
            return places.base, adapter
        what = f"an adapter of its language model ({_LANGUAGE_ADAPTER}/)" if adapter else "no language model"
        named = training.language
        says = "" if named is None else f"; {NAME} names {shown(named)} (--base {plain(named)} to download it)"
        raise CheckpointError(f"{directory} holds {what}. Give the one that it was trained with: --base DIR{says}.")
    if adapter is not None:
        raise _twice(directory, "a whole language model", _LANGUAGE_ADAPTER)
    if places.base is not None:
        raise CheckpointError(f"{places.source} holds its own language model; --base would replace it. Leave it out.")
    return directory, None


def _optional(directory: Path, name: str) -> Path | None:
    return directory / name if (directory / name).is_dir() else None


def _twice(directory: Path, whole: str, adapter: str) -> CheckpointError:
    return CheckpointError(f"{directory} contains {whole} and {adapter}/. Move away the one that is not meant.")

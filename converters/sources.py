"""Where a checkpoint's tensors come from: its own files, or a base and changes to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_llava.converters.delta import DeltaStore
from edge_llava.converters.json_file import read_json
from edge_llava.converters.lora import LoraStore, TrainedStore, trainables_name
from edge_llava.converters.parts import Parts
from edge_llava.converters.tensor_names import own_name, unwrap_name
from edge_llava.converters.tensor_store import TensorSource, TensorStore
from edge_llava.converters.weight_files import list_weights
from edge_llava.errors import CheckpointError

_ADAPTER, _TRAINABLES, _PROJECTOR = "adapter_config.json", "non_lora_trainables.bin", "mm_projector.bin"
_FACTORS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class Sources:
    """Tensors and tokens of a checkpoint.

    Attributes:
        kind: "whole", "delta", "lora" or "projector" (a base LLM with a trained projector).
        stores: Stores in the order in which a tensor is looked up.
        tokenizer: Directory of the tokenizer.
        n_rows: Rows of the embedding if an adapter changed their number; else None, and the config's number applies.
    """

    kind: str
    stores: tuple[TensorSource, ...]
    tokenizer: Path
    n_rows: int | None = None


def find_kind(directory: Path, base: Path | None) -> str:
    """Detects what a directory contains, by its files; see `Sources.kind`.

    Raises:
        CheckpointError: If it needs a base and there is none, or if it is ambiguous.
    """
    is_whole = bool(list_weights(directory))
    adapter = [name for name in (*_FACTORS, _TRAINABLES) if (directory / name).is_file()]
    if is_whole and adapter and base is None:
        raise CheckpointError(
            f"{directory} contains whole weights and {adapter[0]}. Move that away to convert the whole weights, "
            "or give the model that the adapter belongs to: --base DIR"
        )
    if adapter or ((directory / _ADAPTER).is_file() and not is_whole):  # merged models keep adapter_config.json
        kind = "lora"
    elif (directory / _PROJECTOR).is_file() and not is_whole:
        kind = "projector"
    else:
        kind = "whole" if base is None else "delta"
    if base is None and kind != "whole":
        what = "a LoRA adapter" if kind == "lora" else "a projector on its own"
        raise CheckpointError(f"{directory} is {what}. Give the model that it belongs to: --base DIR")
    return kind


def open_sources(directory: Path, layout: str, base: Path | None) -> Sources:
    """Opens the files that contain a checkpoint's tensors, or that they are computed from.

    Args:
        directory: The checkpoint.
        layout: "hf" or "original".
        base: The model that it is a delta or an adapter of.

    Raises:
        CheckpointError: If files are missing or damaged, or do not belong together.
    """
    kind = find_kind(directory, base)
    if base is None:
        return Sources(kind, (TensorStore.open(directory, layout),), directory)
    own = TensorStore.open(base, layout)
    tokenizer = directory if _has_tokenizer(directory) else base
    if kind == "delta":
        return Sources(kind, (DeltaStore(TensorStore.open(directory, layout), own, directory, base),), tokenizer)
    if kind == "projector":
        projector = TensorStore.read([directory / _PROJECTOR], _projector_name)
        return Sources(kind, (projector, own), tokenizer)
    store: TensorSource = own
    if (directory / _TRAINABLES).is_file():
        store = TrainedStore(TensorStore.read([directory / _TRAINABLES], trainables_name), own)
    if not (directory / _ADAPTER).is_file():
        return Sources(kind, (store,), tokenizer)
    lora = LoraStore(directory, store, layout, says_whether_tied=_says_whether_tied(base, layout))
    return Sources(kind, (lora,), tokenizer, lora.n_rows)


def open_parts(parts: Parts) -> Sources:
    """Opens the files of a LLaVA whose parts lie in directories of their own, and merges their adapters.

    Raises:
        CheckpointError: If files are missing or damaged, or an adapter does not fit its base.
    """
    language: TensorSource = TensorStore.open(parts.language, "language")
    tower: TensorSource = TensorStore.open(parts.tower, "clip")
    projector, n_rows = TensorStore.open(parts.projector, "projector"), None
    if parts.language_adapter is not None:
        says = _says_whether_tied(parts.language, "language")
        lora = LoraStore(parts.language_adapter, language, "language", says_whether_tied=says)
        language, n_rows = lora, lora.n_rows
    if parts.tower_adapter is not None:
        tower = LoraStore(parts.tower_adapter, tower, "clip", says_whether_tied=False)
    tokenizer = parts.checkpoint if _has_tokenizer(parts.checkpoint) else parts.language
    return Sources(parts.kind, (language, projector, tower), tokenizer, n_rows)


def _says_whether_tied(directory: Path, layout: str) -> bool:
    """Whether it is certain from a base's config if its head is its embedding."""
    config = read_json(directory / "config.json")
    language = config.get("text_config") if layout == "hf" else config
    if isinstance(language, dict) and language.get("tie_word_embeddings") is True:
        return True
    # LLaVA's classes in transformers 4 read a missing value as true, LLaMA's as false
    return config.get("tie_word_embeddings", layout == "hf") is False


def _projector_name(source_name: str) -> str | None:
    if "mm_projector." not in source_name:
        return own_name(unwrap_name(source_name), "original")
    return own_name(f"model.mm_projector.{source_name.rpartition('mm_projector.')[2]}", "original")


def _has_tokenizer(directory: Path) -> bool:
    return any((directory / name).is_file() for name in ("tokenizer.model", "tokenizer.json"))

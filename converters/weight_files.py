"""Finds the files of a checkpoint's weights: one file, or shards with or without an index, of two kinds."""

from __future__ import annotations

import json
import re
from pathlib import Path

from edge_llava.converters.json_file import plain, shorten
from edge_llava.errors import CheckpointError, list_faults
from edge_llava.home.border import blaming_file

# transformers puts a variant ("fp16") before the suffix of a file, and after an index's
_KINDS = (("model", "safetensors"), ("pytorch_model", "bin"))
_MUCH_LARGER = 4  # more than the ratio of float32 to half precision
_VARIANT = r"[A-Za-z0-9_]+"


def find_shards(directory: Path) -> list[Path]:
    """Returns the files that contain all weights.

    An index takes precedence over names, safetensors over pickles, and a variant is used only if there is nothing else.
    If several groups of files look complete, the first is used, unless it is the rest of an interrupted save and
    another one is much larger.

    Raises:
        CheckpointError: If there are none, or some are missing.
    """
    preferred, *others = _find_groups(directory)
    larger = (files for files in others if _count_bytes(files) > _MUCH_LARGER * _count_bytes(preferred))
    return next(larger, preferred)


def _find_groups(directory: Path) -> list[list[Path]]:
    """Returns groups of files that each look like all weights, the preferred one first."""
    names = sorted(path.name for path in directory.iterdir() if path.is_file())
    groups = [group for stem, suffix in _KINDS for group in _find_kind(directory, names, stem, suffix, "")]
    if not groups:
        variants = _find_variants(names)
        if len(variants) > 1:
            found = ", ".join(variants)
            raise CheckpointError(
                f"{directory} contains its weights in the variants {found} only. Keep the files of one of them."
            )
        groups = [
            group
            for variant in variants
            for stem, suffix in _KINDS
            for group in _find_kind(directory, names, stem, suffix, variant)
        ]
    if not groups:
        raise CheckpointError(f"{directory} has no weights (model.safetensors, pytorch_model.bin, or their shards).")
    whole = [group for group in groups if not _is_partial(group)]
    if not whole:
        listed = ", ".join(shorten([path.name for path in groups[0]]))
        kind = "bin" if groups[0][0].suffix == ".bin" else "safetensors"
        raise CheckpointError(f"{directory} has only some {kind} shards ({listed}). Download the others.")
    return whole


def list_weights(directory: Path) -> list[Path]:
    """Returns every file of a directory that is named like weights or their index, complete or not."""
    suffix = rf"(?:\.{_VARIANT})?(?:-\d+-of-\d+)?\.(?:safetensors|bin)(?:\.index\.json)?"
    pattern = re.compile(rf"(?:pytorch_)?model{suffix}")
    return sorted(path for path in directory.iterdir() if pattern.fullmatch(path.name) and path.is_file())


def _count_bytes(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _find_kind(directory: Path, names: list[str], stem: str, suffix: str, variant: str) -> list[list[Path]]:
    """Returns the groups of one kind: that of the index, the single file, the series."""
    dotted = f".{variant}" if variant else ""
    index = directory / f"{stem}.{suffix}.index{dotted}.json"
    single = f"{stem}{dotted}.{suffix}"
    series = [name for name in names if re.fullmatch(rf"{stem}{re.escape(dotted)}-\d+-of-\d+\.{suffix}", name)]
    groups = [_shards_of_index(index)] if index.is_file() else []
    if single in names:
        groups.append([directory / single])
    if series and not index.is_file():
        groups.append([directory / name for name in series])
    return groups


def _find_variants(names: list[str]) -> list[str]:
    pattern = re.compile(rf"(?:model|pytorch_model)\.({_VARIANT})(?:-\d+-of-\d+)?\.(?:safetensors|bin)")
    found = {match.group(1) for name in names if (match := pattern.fullmatch(name))}
    return sorted(found - {"safetensors", "bin"})


def _is_partial(group: list[Path]) -> bool:
    """Whether shards without an index are not the whole series that their names promise. An index is checked before."""
    counts = {match.group(1) for path in group if (match := re.search(r"-of-(\d+)\.", path.name))}
    return len(counts) > 1 or (len(counts) == 1 and len(group) != int(next(iter(counts))))


def _shards_of_index(index: Path) -> list[Path]:
    with blaming_file(CheckpointError, index, "Download it again.", "is not a shard index"):
        data = json.loads(index.read_bytes())
        names = sorted({str(name) for name in data["weight_map"].values()})
        outside = [name for name in names if Path(name).name != name]
        missing = [name for name in names if name not in outside and not (index.parent / name).is_file()]
    if not names:
        raise CheckpointError(f"{index} is not a shard index: its weight_map is empty. Download it again.")
    if missing or outside:
        faults = [f"{plain(name)} is missing" for name in missing]
        faults += [f"{plain(name)} leaves the directory" for name in outside]
        headline = f"{index.parent} is incomplete:"
        raise CheckpointError(list_faults(headline, shorten(faults), "Download the files again."))
    return [index.parent / name for name in names]

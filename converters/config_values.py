"""Values of a config that need more than a look: canvases, indices, ids, triples. Faults are noted in a list."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from edge_llava.converters.json_file import shown

# Pixels lie between 0 and 1 when they are normalized.
_BOUNDS = {"image_mean": (0.0, 1.0), "image_std": (1e-6, 1e6)}
_GRID = re.compile(r"\((\d{1,3})x(\d{1,3})\)")  # LLaVA-NeXT's "(1x1),...,(6x6)"


def read_pinpoints(value: Any, image_size: int | None, faults: list[str]) -> tuple[tuple[int, int], ...]:
    """Reads a list of pairs, a string that contains one, or LLaVA-NeXT's "(1x1),...,(6x6)" in units of the input.

    Args:
        value: Of the config.
        image_size: Side of the tower's input in pixels; None while it is unknown, which leaves such a range empty.
        faults: List to add to.
    """
    if isinstance(value, str) and (ends := _GRID.findall(value)):
        (first_across, first_down), (last_across, last_down) = (map(int, pair) for pair in (ends[0], ends[-1]))
        across, down = range(first_across, last_across + 1), range(first_down, last_down + 1)
        return tuple((i * (image_size or 0), j * (image_size or 0)) for i in across for j in down)
    try:
        pairs = ast.literal_eval(value) if isinstance(value, str) else value
        found = tuple((first, second) for first, second in pairs)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        found = ()
    if found and all(type(x) is int and 0 < x < 1 << 16 for pair in found for x in pair):
        return found
    faults.append(f"image_grid_pinpoints is {shown(value)}, expected a list of pairs of pixels")
    return ()


def read_feature_layer(value: Any, key: str, faults: list[str]) -> int:
    """Reads one index; transformers also accepts a list, which must contain exactly one."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    faults.append(f"{key} is {shown(value)}, expected one integer")
    return -2


def read_image_token(config: Mapping[str, Any], faults: list[str]) -> int | None:
    """Reads the id, `image_token_index` in transformers 4 and `image_token_id` in some configs of transformers 5."""
    ids = {key: config[key] for key in ("image_token_index", "image_token_id") if config.get(key) is not None}
    if len(set(ids.values())) > 1:
        faults.append(f"image_token_index is {ids['image_token_index']} and image_token_id {ids['image_token_id']}")
    key, token = next(iter(ids.items()), ("", None))
    n_rows = (config.get("text_config") or {}).get("vocab_size")
    if token is not None and type(n_rows) is int and not 0 <= token < n_rows:
        faults.append(f"{key} is {token}; the embedding has {n_rows} rows (text_config.vocab_size)")
    return token


def read_triple(
    section: Mapping[str, Any], key: str, default: tuple[float, float, float], faults: list[str]
) -> tuple[float, float, float]:
    """Reads the mean or the deviation of red, green and blue."""
    value = section.get(key, default)
    low, high = _BOUNDS[key]
    if isinstance(value, (list, tuple)) and len(value) == 3 and all(_is_number(x, low, high) for x in value):
        red, green, blue = (float(x) for x in value)
        return red, green, blue
    expected = "three positive numbers" if key == "image_std" else "three numbers from 0 to 1"
    faults.append(f"preprocessor_config.json: {key} is {shown(value)}, expected {expected}")
    return default


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high

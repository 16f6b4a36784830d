"""xtuner's training config: Python, of which literal assignments are read; it is never run.

Source: xtuner's configs for LLaVA, as written and as mmengine dumps them; LLaVAModel's defaults.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_llava.converters.json_file import shown
from edge_llava.errors import CheckpointError, list_faults
from edge_llava.home.border import blaming_file
from edge_llava.home.regular_file import read_text

NAME = "xtuner_config.py"
_MAX_BYTES = 64 * 1024  # published ones have 8 to 12 KB
_MAX_NAMES = 8  # that stand for one another
_MAX_LAYER = 1000
_NUMBERS: Mapping[str, int] = {"visual_select_layer": -2, "token_merge_ratio": 1}
_CLASS = "LLaVAModel"
_INHERITING = (
    "it continues another config (_base_ or read_base), which is not here. Put the one that mmengine saved beside the "
    "checkpoints of the training, which is complete, in its place"
)


@dataclass(frozen=True)
class XtunerConfig:
    """What a training config says of the model.

    Attributes:
        template: Name in xtuner's PROMPT_TEMPLATE; None if the config names none.
        feature_layer: Which of the tower's hidden states feeds the projector.
        language, tower: What they were before training, directory or hub id; None if the config does not name them.
        n_positions: Length that training stretched the language model's positions to, if that is above its own; None:
            it did not.
    """

    template: str | None = None
    feature_layer: int = -2
    language: str | None = None
    tower: str | None = None
    n_positions: int | None = None


def read_xtuner_config(directory: Path) -> XtunerConfig:
    """Reads xtuner_config.py of a checkpoint; xtuner's defaults if there is none.

    Raises:
        CheckpointError: If it is not Python, or the model computes something else; all faults at once.
    """
    path = directory / NAME
    if not path.exists():
        return XtunerConfig()
    with blaming_file(CheckpointError, path, "Remove it if the training changed no defaults.", "cannot be read"):
        assigned, inherits = _parse(read_text(path, _MAX_BYTES))
        model = _keywords(_follow(assigned.get("model"), assigned))
        template = _last_name(_follow(assigned.get("prompt_template"), assigned))
        type_ = _last_name(model.get("type")) or _CLASS
        layer, ratio = (_literal(_follow(model.get(key), assigned), default) for key, default in _NUMBERS.items())
        positions = _literal(_follow(model.get("max_position_embeddings"), assigned), None)
        language, tower = (_text(assigned.get(f"{part}_name_or_path")) for part in ("llm", "visual_encoder"))
        faults = [_INHERITING] if inherits else []
        if type_ != _CLASS:
            faults.append(f"model.type is {shown(type_)}, expected {_CLASS}")
        if type(layer) is not int or abs(layer) > _MAX_LAYER:
            faults.append(f"model.visual_select_layer is {shown(layer)}, expected an index of a layer")
        if ratio != 1:
            faults.append(f"model.token_merge_ratio is {shown(ratio)}, expected 1")
        if positions is not None and type(positions) is not int:
            faults.append(f"model.max_position_embeddings is {shown(positions)}, expected an integer")
    if faults:
        raise CheckpointError(list_faults(f"{path} describes a model that cannot be converted:", faults))
    return XtunerConfig(template, layer, language, tower, positions)


def _parse(text: str) -> tuple[dict[str, ast.expr], bool]:
    """Returns what is assigned at the top, by name, and whether another config comes first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about unusual escapes
        body = ast.parse(text).body
    assigned = {
        target.id: node.value
        for node in body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return assigned, "_base_" in assigned or any(isinstance(node, ast.With) for node in body)


def _follow(value: ast.expr | None, assigned: Mapping[str, ast.expr]) -> ast.expr | None:
    """The expression that a name stands for."""
    for _ in range(_MAX_NAMES):
        if not isinstance(value, ast.Name) or value.id not in assigned:
            break
        value = assigned[value.id]
    return value


def _keywords(value: ast.expr | None) -> dict[str, ast.expr]:
    """The entries of `dict(key=...)` or `{"key": ...}`."""
    if isinstance(value, ast.Call):
        return {keyword.arg: keyword.value for keyword in value.keywords if keyword.arg is not None}
    if isinstance(value, ast.Dict):
        pairs = zip(map(_text, value.keys), value.values, strict=True)
        return {key: entry for key, entry in pairs if key is not None}
    return {}


def _last_name(value: ast.expr | None) -> str | None:
    """The name in `PROMPT_TEMPLATE.name` and in "xtuner.utils.PROMPT_TEMPLATE.name"; else the expression as written."""
    if isinstance(value, ast.Attribute):
        return value.attr
    text = _text(value)
    return text.rpartition(".")[2] if text is not None else None if value is None else ast.unparse(value)


def _text(value: ast.expr | None) -> str | None:
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None


def _literal(value: ast.expr | None, default: int | None) -> Any:
    """A number or text; the expression as it is written if it is neither."""
    if value is None:
        return default
    if isinstance(value, ast.Constant):
        return value.value
    if isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.USub) and isinstance(value.operand, ast.Constant):
        number = value.operand.value
        return -number if isinstance(number, int) else number
    return ast.unparse(value)

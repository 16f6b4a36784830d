"""xtuner_config.py: the training config of a checkpoint, which is Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from damage import NUMBERS, TEXTS, damage_bytes
from frame import Kind, Random

from edge_llava.converters.xtuner_config import NAME, read_xtuner_config
from edge_llava.errors import CheckpointError

_CONFIG = """
from xtuner.utils import PROMPT_TEMPLATE
llm_name_or_path = 'a/b'
visual_encoder_name_or_path = 'c/d'
prompt_template = PROMPT_TEMPLATE.llama3_chat
layer = -2
model = dict(type=LLaVAModel, visual_select_layer=layer, token_merge_ratio=1, llm=dict(type='x', y=llm_name_or_path))
"""
_PLACES = ("'a/b'", "'c/d'", "PROMPT_TEMPLATE.llama3_chat", "-2", "=layer", "=1", "dict(", "model", "LLaVAModel")
_HOSTILE = (
    "(",
    "[" * 3000,
    "a" + ".b" * 9000,
    "-" * 5000 + "1",
    "0x" + "f" * 20_000,
    "{**a, None: 1}",
    "lambda: x",
    "**",
)


def make(directory: Path) -> Sequence[bytes]:
    """As written by hand, and as mmengine saves it."""
    saved = _CONFIG.replace("PROMPT_TEMPLATE.llama3_chat", "'xtuner.utils.PROMPT_TEMPLATE.llama3_chat'")
    return [_CONFIG.encode(), saved.encode()]


def damage(content: bytes, rng: Random) -> bytes:
    """Other bytes, or a value that nobody writes."""
    if rng.random() < 0.4:
        return damage_bytes(content, rng)
    values = (*_HOSTILE, *(repr(value) for value in (*NUMBERS, *TEXTS)))
    return content.replace(rng.choice(_PLACES).encode(), rng.choice(values).encode(), rng.choice((1, 9)))


def read(directory: Path, content: bytes) -> None:
    """Reads it; what it names is only looked for."""
    (directory / NAME).write_bytes(content)
    read_xtuner_config(directory)


KIND = Kind(n_cases=200, make=make, damage=damage, read=read, errors=(CheckpointError,))

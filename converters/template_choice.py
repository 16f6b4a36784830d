"""Which conversation template a checkpoint was trained with: its family's, its own chat template, or its tokens'.

Configs name no template. What decides, in this order: the user; the row of the family in `families`, where its training
code knows one template; a chat template in its files that knows images, cut into texts; the special tokens of the
vocabulary, which only one template uses. A vocabulary of LLaMA's kind without any of these means llava_v1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_llava.bundle.template_spec import TemplateSpec, describe_template
from edge_llava.bundle.templates import TEMPLATES, Template, with_image_marks
from edge_llava.converters.chat_template import cut_template, find_chat_template
from edge_llava.converters.json_file import read_json
from edge_llava.converters.tokenizers.added_tokens import read_added_tokens
from edge_llava.errors import CheckpointError

if TYPE_CHECKING:
    from edge_llava.converters.checkpoint import Checkpoint


@dataclass(frozen=True)
class _Marks:
    """Special tokens that stand in one template only.

    Attributes:
        tokens: All of them are in the vocabulary.
        template: Its name in TEMPLATES.
        tiled: The name for checkpoints that were trained on tiles, where it differs.
        is_chat_template: Whether LLaVAs were trained by the language model's own chat template, if there is one.
    """

    tokens: tuple[str, ...]
    template: str
    tiled: str | None = None
    is_chat_template: bool = False


_MARKS = (
    # xtuner trained without a system text, LLaVA-NeXT, which knows tiles, with one
    _Marks(("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "llama_3", tiled="llama_3_vision"),
    _Marks(("<|user|>", "<|assistant|>", "<|end|>"), "phi_3"),
    # Yi, which has <|endoftext|>, too, and whose own chat template has newlines
    _Marks(("<|im_start|>", "<|im_end|>", "<|startoftext|>"), "chatml_direct"),
    # the versions of Qwen, and nanoLLaVA, differ in the system text only
    _Marks(("<|im_start|>", "<|im_end|>", "<|endoftext|>"), "qwen_chatml", is_chat_template=True),
    _Marks(("<|im_start|>", "<|im_end|>"), "chatml_direct"),
)


def checkpoint_template(checkpoint: Checkpoint, wanted: str | None) -> TemplateSpec:
    """The template that a checkpoint's bundle records.

    Args:
        checkpoint: Opened.
        wanted: Name in TEMPLATES that the user states; None leaves it to the checkpoint.

    Raises:
        CheckpointError: As `choose_template`, or if the checkpoint names a template that is not among ours.
    """
    config, vocabulary = checkpoint.config, checkpoint.vocabulary
    if wanted is None and config.template_fault:
        raise CheckpointError(config.template_fault)
    image = None if config.image_token is None else read_added_tokens(checkpoint.tokenizer).get(config.image_token)
    template = choose_template(
        checkpoint.tokenizer,
        vocabulary.specials(),
        wanted=wanted or config.template,
        image_text="<image>" if image is None else image.text,
        is_sentencepiece=vocabulary.spec.model == "llama",
        is_tiled=config.aspect == "anyres",
    )
    return describe_template(with_image_marks(template) if config.image_marks else template, vocabulary.specials())


def choose_template(
    directory: Path,
    specials: Mapping[str, int],
    *,
    wanted: str | None,
    image_text: str,
    is_sentencepiece: bool,
    is_tiled: bool,
) -> Template:
    """Chooses a template.

    Args:
        directory: The tokenizer's files.
        specials: Special tokens of the vocabulary by text.
        wanted: Name that the user or the family's row states; None leaves it to the checkpoint's files.
        image_text: What stands for an image in texts that the chat template writes.
        is_sentencepiece: Whether its tokenizer is LLaMA's.
        is_tiled: Whether the checkpoint was trained on tiles.

    Raises:
        CheckpointError: If its chat template does not cut, or there is none and its tokens do not tell.
    """
    if wanted is not None:
        return TEMPLATES[wanted]
    marks = next((marks for marks in _MARKS if all(token in specials for token in marks.tokens)), None)
    if marks is None and is_sentencepiece:
        return TEMPLATES["llava_v1"]  # merged models of all LLaVAs up to 1.6 look alike
    source = find_chat_template(directory)
    # one that knows no images is the language model's own
    if source is not None and (marks is None or marks.is_chat_template or "image" in source or image_text in source):
        return cut_template(source, _special_tokens(directory), image_text)
    if marks is not None:
        return TEMPLATES[(is_tiled and marks.tiled) or marks.template]
    raise CheckpointError(
        f"{directory} has no chat template, and its special tokens match no known template. Choose the one "
        f"that it was trained with: --template {', '.join(TEMPLATES)}."
    )


def _special_tokens(directory: Path) -> dict[str, str]:
    """What a chat template may refer to by name: bos_token and others."""
    path = directory / "tokenizer_config.json"
    config: Mapping[str, Any] = read_json(path) if path.is_file() else {}
    texts = {
        name: value.get("content") if isinstance(value, dict) else value
        for name, value in config.items()
        if name.endswith("_token") and not name.startswith("add_")
    }
    return {name: text for name, text in texts.items() if isinstance(text, str)}

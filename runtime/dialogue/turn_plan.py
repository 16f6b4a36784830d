"""A turn as runs of tokens and image rows, and whether they fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edge_llava.bundle.manifest import LanguageSpec
from edge_llava.bundle.templates import Template
from edge_llava.errors import ContextOverflow
from edge_llava.home.unicode_text import is_unicode
from edge_llava.runtime.dialogue.prompt import ImageSegment, Segment, TextSegment
from edge_llava.runtime.language.language_model import LanguageModel
from edge_llava.runtime.runs import ImageRun, Run, TokenRun

_READ_AT_ONCE = 100_000  # characters; half a second at the worst, and the number of positions is exact


def plan_turn(
    language: LanguageModel,
    template: Template,
    segments: Sequence[Segment],
    images: Sequence[ImageRun],
    *,
    is_first: bool,
    carry: str = "",
) -> list[Run]:
    """The runs of one turn; the text on each side of an image is tokenized on its own, BOS once.

    Args:
        language: Tokenizes.
        template: The conversation template.
        segments: What `build_turn` gives.
        images: The images of the turn.
        is_first: Whether the conversation begins here.
        carry: Text of the answer before that is not in the conversation as tokens, see `AnswerText.remainder`.
    """
    runs: list[Run] = []
    for segment in segments:
        match segment:
            case TextSegment(text) if not runs and not is_first and (carry or template.joins_text):
                runs.append(TokenRun(tuple(language.tokenize_within(carry + text))))
            case TextSegment(text):
                runs.append(TokenRun(tuple(language.tokenize(text, add_bos=is_first and not runs))))
            case ImageSegment(index):
                runs.append(images[index])
    return runs


def check_text(text: str, name: str) -> None:
    """
    Raises:
        ValueError: If the text, called `name`, is not valid Unicode.
    """
    if not is_unicode(text):
        raise ValueError(f"{name} contains unpaired surrogates, which are not valid text")


def check_length(texts: Iterable[str], language: LanguageModel, n_ctx: int) -> None:
    """Refuses texts that cannot fit before they are tokenized, which would take minutes for megabytes.

    Raises:
        ContextOverflow: If the texts alone are longer than a context of `n_ctx` positions.
    """
    texts = list(texts)
    if sum(map(len, texts)) <= _READ_AT_ONCE:
        return
    n_needed = sum(map(language.count_at_least, texts)) + 1
    if n_needed > n_ctx:
        raise ContextOverflow(n_needed, n_ctx, "or more, of text alone", "Use a shorter prompt.")


def count_quickly(text: str, language: LanguageModel) -> int:
    """Tokens of a text; of one that is far too long, only what it has at least."""
    if len(text) > _READ_AT_ONCE:
        return language.count_at_least(text)
    return len(language.tokenize(text, add_bos=False))


def check_room(runs: Sequence[Run], n_earlier: int, n_ctx: int, spec: LanguageSpec) -> None:
    """
    Args:
        runs: A turn.
        n_earlier: Positions of the conversation before it.
        n_ctx: Positions of the context.
        spec: Says how long a context the model was trained with.

    Raises:
        ContextOverflow: If the turn and one token of its answer do not fit.
    """
    images = [run.n_tokens for run in runs if isinstance(run, ImageRun)]
    n_image, n_text = sum(images), sum(run.n_tokens for run in runs if isinstance(run, TokenRun))
    n_needed = n_earlier + n_text + n_image + 1
    if n_needed > n_ctx:
        detail = f"{n_earlier} earlier, {n_text} text, {n_image} for {len(images)} images, 1 answer"
        larger = f"a larger context (-c {n_needed + 512}), " if n_needed <= spec.n_ctx_train else ""
        raise ContextOverflow(
            n_needed, n_ctx, detail, f"Use {larger}a shorter prompt, fewer images, or begin a new conversation."
        )

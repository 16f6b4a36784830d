"""Conversation templates as data: what the converter records, the runtime writes and training teaches.

Source: LLaVA's conversation.py; LLaVA-1.5's own command line uses `llava_v1`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_llava.errors import BundleError

_HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
_USER = _HUMAN.replace("human", "user")


@dataclass(frozen=True)
class Template:
    """The text around a conversation, exactly as in training.

    Attributes:
        name: Key in TEMPLATES, recorded in the manifest.
        opening: From the start (BOS excluded) to the first question.
        after_question: From the end of a question to where the model writes.
        between_turns: From the end of an answer to the next question.
        stop: Text that ends an answer, beside the end-of-sequence token.
    """

    name: str
    opening: str
    after_question: str
    between_turns: str
    stop: str


TEMPLATES: Mapping[str, Template] = {
    template.name: template
    for template in (
        Template("llava_v1", f"{_HUMAN} USER: ", " ASSISTANT:", "</s>USER: ", "</s>"),
        Template("vicuna_v1", f"{_USER} USER: ", " ASSISTANT:", "</s>USER: ", "</s>"),
    )
}


def find_template(name: str) -> Template:
    """Returns the template of that name.

    Raises:
        BundleError: If this version has none.
    """
    if name not in TEMPLATES:
        raise BundleError(
            f"there is no conversation template {name!r}; known: {', '.join(TEMPLATES)}. Upgrade edge-llava."
        )
    return TEMPLATES[name]

"""Conversation templates as data: what the converter records, the runtime writes and training teaches.

Source: LLaVA's conversation.py; LLaVA-1.5's own command line uses `llava_v1`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edge_llava.errors import BundleError

_HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
_USER = _HUMAN.replace("human", "user")
_LLAMA_2 = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
_CHATML = "Answer the questions."


@dataclass(frozen=True)
class Template:
    """The text around a conversation, exactly as in training.

    Attributes:
        name: Key in TEMPLATES, recorded in the manifest.
        opening: From the start (BOS excluded) to the first question.
        after_question: From the end of a question to where the model writes.
        between_turns: From the end of an answer to the next question.
        stop: Text that ends an answer, in addition to the end-of-sequence token.
        joins_text: Whether `between_turns` continues in the middle of a text, as "###" does; the others begin with a
            special token, after which a new text begins (with SentencePiece's space).
        system: The part of `opening` that a system message takes the place of; "" where training had none.
        before_answer: What stood before an answer's text in training; the model writes it itself.
    """

    name: str
    opening: str
    after_question: str
    between_turns: str
    stop: str
    joins_text: bool = False
    system: str = ""
    before_answer: str = " "

    def with_system(self, text: str) -> Template:
        """The template with another system text; where it has none, the text stands before the first question."""
        opening = self.opening.replace(self.system, text, 1) if self.system else f"{self.opening}{text}\n\n"
        return replace(self, opening=opening, system=text)


TEMPLATES: Mapping[str, Template] = {
    template.name: template
    for template in (
        Template("llava_v1", f"{_HUMAN} USER: ", " ASSISTANT:", "</s>USER: ", "</s>", system=_HUMAN),
        Template("vicuna_v1", f"{_USER} USER: ", " ASSISTANT:", "</s>USER: ", "</s>", system=_USER),
        Template(
            "llava_v0", f"{_HUMAN}###Human: ", "###Assistant:", "###Human: ", "###", joins_text=True, system=_HUMAN
        ),
        # the models write the space before </s> themselves: training put it there
        Template(
            "llava_llama_2",
            f"[INST] <<SYS>>\n{_LLAMA_2}\n<</SYS>>\n\n",
            " [/INST]",
            "</s><s>[INST] ",
            "</s>",
            system=_LLAMA_2,
        ),
        Template("mistral_instruct", "[INST] ", " [/INST]", "</s>[INST] ", "</s>"),
        Template(
            "chatml_direct",
            f"<|im_start|>system\n{_CHATML}<|im_end|><|im_start|>user\n",
            "<|im_end|><|im_start|>assistant\n",
            "<|im_end|><|im_start|>user\n",
            "<|im_end|>",
            system=_CHATML,
            before_answer="",
        ),
    )
}


# An answer that ends with the end-of-sequence token can be taught as LLaVA teaches it.
TRAINED_TEMPLATES = tuple(name for name, template in TEMPLATES.items() if template.stop == "</s>")


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

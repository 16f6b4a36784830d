"""Conversation templates as data: what the converter records, the runtime writes and training teaches.

Source: conversation.py of LLaVA, LLaVA-NeXT and Bunny, xtuner's templates, chat templates of the published
checkpoints. LLaVA-1.5's own command line uses `llava_v1`.
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
_ASSISTANT = "You are a helpful assistant."
_JOY_DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 July 2024\n\n"
_JOY = f"{_JOY_DATES}You are a helpful image captioner."
_LLAMA_3_USER = "<|start_header_id|>user<|end_header_id|>\n\n"
_LLAMA_3_SYSTEM = ("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>")
_LLAMA_3_ANSWER = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
_QWEN_USER = "<|im_start|>user\n"
_QWEN_SYSTEM = ("<|im_start|>system\n", "<|im_end|>\n")
_QWEN_ANSWER = "<|im_end|>\n<|im_start|>assistant\n"
_QWEN_NEXT = f"<|im_end|>\n{_QWEN_USER}"


@dataclass(frozen=True)
class Template:
    """The text around a conversation, exactly as in training, special tokens written out.

    Attributes:
        name: Key in TEMPLATES, or "chat_template" if it was cut out of a checkpoint's own.
        opening: From the start (BOS excluded) to the first question or its images.
        after_question: From the end of a question to where the model writes.
        between_turns: From the end of an answer to the next question or its images.
        stop: Text that ends an answer, in addition to the end-of-sequence token.
        joins_text: Whether `between_turns` continues in the middle of a text, as "###" does; the others begin with a
            special token, after which a new text begins (with SentencePiece's space).
        system: The part of `opening` that a system message takes the place of; "" where training had none.
        around_system: What stands before and after a system message, in front of `opening`, where `system` is "";
            None: the message stands between `opening` and the first question, followed by an empty line.
        image_before, image_after: Around each image.
        before_question: Between the images of a question, if it has any, and its text.
        before_answer: What stood before an answer's text in training; the model writes it itself.
        after_past_question: What follows a question once another question comes after its answer; None: as
            `after_question`.
    """

    name: str
    opening: str
    after_question: str
    between_turns: str
    stop: str
    joins_text: bool = False
    system: str = ""
    around_system: tuple[str, str] | None = None
    image_before: str = ""
    image_after: str = "\n"
    before_question: str = ""
    before_answer: str = " "
    after_past_question: str | None = None

    def with_system(self, text: str) -> Template:
        """The template with another system text."""
        if self.system:
            opening = self.opening.replace(self.system, text, 1)
        elif self.around_system is not None:
            before, after = self.around_system
            opening = f"{before}{text}{after}{self.opening}"
        else:
            opening = f"{self.opening}{text}\n\n"
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
        # xtuner's PROMPT_TEMPLATE.llama3_chat
        Template(
            "llama_3",
            _LLAMA_3_USER,
            _LLAMA_3_ANSWER,
            f"<|eot_id|>{_LLAMA_3_USER}",
            "<|eot_id|>",
            around_system=_LLAMA_3_SYSTEM,
            before_answer="",
        ),
        # LLaVA-NeXT's conv_llava_llama_3
        Template(
            "llama_3_vision",
            f"{_LLAMA_3_SYSTEM[0]}{_LLAMA_2}<|eot_id|>{_LLAMA_3_USER}",
            _LLAMA_3_ANSWER,
            f"<|eot_id|>{_LLAMA_3_USER}",
            "<|eot_id|>",
            system=_LLAMA_2,
            before_answer="",
        ),
        # JoyCaption beta-one; the dates are Meta's wording and stay where the sentence after them changes
        Template(
            "joycaption",
            f"{_LLAMA_3_SYSTEM[0]}{_JOY}<|eot_id|>{_LLAMA_3_USER}",
            _LLAMA_3_ANSWER,
            f"<|eot_id|>{_LLAMA_3_USER}",
            "<|eot_id|>",
            system=_JOY.removeprefix(_JOY_DATES),
            image_before="<|reserved_special_token_70|>",
            image_after="<|reserved_special_token_71|>",
            before_answer="",
        ),
        # xtuner's PROMPT_TEMPLATE.phi3_chat
        Template(
            "phi_3",
            "<|user|>\n",
            "<|end|>\n<|assistant|>\n",
            "<|end|>\n<|user|>\n",
            "<|end|>",
            around_system=("<|system|>\n", "<|end|>\n"),
            before_answer="",
        ),
        # xtuner's PROMPT_TEMPLATE.vicuna: no system text, BOS at every turn
        Template(
            "vicuna_xtuner",
            "USER: ",
            " ASSISTANT:",
            "</s>\n<s>USER: ",
            "</s>",
            around_system=(f"{_USER} ", "\n "),
        ),
        # LLaVA-NeXT's conv_qwen; LLaVA-OneVision in its original layout
        Template(
            "qwen_chatml",
            f"{_QWEN_SYSTEM[0]}{_ASSISTANT}{_QWEN_SYSTEM[1]}{_QWEN_USER}",
            _QWEN_ANSWER,
            _QWEN_NEXT,
            "<|im_end|>",
            system=_ASSISTANT,
            before_answer="",
        ),
        # the same without a system text: LLaVA-OneVision in Hugging Face layout, nanoLLaVA 1.5
        Template(
            "chatml",
            _QWEN_USER,
            _QWEN_ANSWER,
            _QWEN_NEXT,
            "<|im_end|>",
            around_system=_QWEN_SYSTEM,
            before_answer="",
        ),
        # llava-interleave-qwen: the newline belongs to the text, and past answers have one, too
        Template(
            "interleave",
            _QWEN_USER,
            _QWEN_ANSWER,
            _QWEN_NEXT,
            "<|im_end|>",
            around_system=("<|im_start|>system\n\n", "<|im_end|>\n"),
            image_after="",
            before_question="\n",
            before_answer="",
            after_past_question=f"{_QWEN_ANSWER}\n",
        ),
        # Bunny v1.0: vicuna_v1's words, and the end token of the language model
        Template(
            "bunny_endoftext",
            f"{_USER} USER: ",
            " ASSISTANT:",
            "<|endoftext|>USER: ",
            "<|endoftext|>",
            system=_USER,
        ),
        Template(
            "bunny_llama_3",
            f"{_USER} USER: ",
            " ASSISTANT:",
            "<|end_of_text|>USER: ",
            "<|end_of_text|>",
            system=_USER,
        ),
    )
}


def with_image_marks(template: Template) -> Template:
    """The template with <im_start> and <im_end> around every image, as v0 was trained."""
    return replace(template, image_before="<im_start>", image_after="<im_end>\n")


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

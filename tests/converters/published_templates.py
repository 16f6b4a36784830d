"""Chat templates and conversations as published checkpoints and their training code have them, word for word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

IMAGE = "<image>"
LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# {0} before the images, {1} after each, {2} before a text, {3} after a message
PARTS = (
    "{{% for message in messages %}}{{{{'<|im_start|>' + message['role'] + '{0}'}}}}"
    "{{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}}"
    "{{{{ '<image>{1}' }}}}{{% endfor %}}"
    "{{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}}"
    "{{{{ '{2}' + content['text'] }}}}{{% endfor %}}"
    "{{{{'<|im_end|>{3}'}}}}{{% endfor %}}"
    "{{% if add_generation_prompt %}}{{{{ '<|im_start|>assistant\n' }}}}{{% endif %}}"
)
ONEVISION = PARTS.format("\n", "\n", "", "\n")
INTERLEAVE = PARTS.format("\n", "", "\n", "\n")
NO_NEWLINES = PARTS.format(" ", "\n", "\n", "")
QWEN_1_5 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
JOYCAPTION = (
    "{{- bos_token }}{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}"
    "{%- set messages = messages[1:] %}{%- else %}"
    "{%- set system_message = 'You are a helpful image captioner.' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    "Today Date: 26 July 2024\n\n' }}{{- system_message }}{{- '<|eot_id|>' }}{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{%- if message['role']=='user' and loop.first %}"
    "{{- '<|reserved_special_token_70|><image><|reserved_special_token_71|>' }}{%- endif %}"
    "{{- message['content'] | replace('<image>','') | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
PHI_3 = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}"
    "{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
# nanoLLaVA's tokenizer_config.json
NANOLLAVA = QWEN_1_5.replace("You are a helpful assistant.", "Answer the question")
LLAVA_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@dataclass(frozen=True)
class Said:
    """A message: who says it, its text, and the number of images in front of it."""

    role: str
    text: str
    n_images: int = 0

    @property
    def content(self) -> str:
        """As training data has it."""
        return f"{IMAGE}\n" * self.n_images + self.text

    @property
    def parts(self) -> list[dict[str, str]]:
        """As transformers' processors take it."""
        return [{"type": "image"}] * self.n_images + [{"type": "text", "text": self.text}]


Render = Callable[[Sequence[Said]], str]


def by_chat_template(source: str, **specials: str) -> Render:
    """What transformers makes of a conversation by a chat template; without BOS, which its tokenizers add."""
    from transformers.utils.chat_template_utils import render_jinja_template

    def render(said: Sequence[Said]) -> str:
        as_parts = "selectattr" in source
        messages = [{"role": s.role, "content": s.parts if as_parts else s.content} for s in said]
        (text,), _ = render_jinja_template([messages], chat_template=source, add_generation_prompt=True, **specials)
        return str(text).removeprefix(specials.get("bos_token", ""))

    return render


def _with_default(said: Sequence[Said], system: str) -> tuple[str, Sequence[Said]]:
    if said[0].role == "system":
        return said[0].text, said[1:]
    return system, said


def yi(said: Sequence[Said]) -> str:
    """LLaVA's conv_chatml_direct: SeparatorStyle.MPT."""
    system, turns = _with_default(said, "Answer the questions.")
    text = f"<|im_start|>system\n{system}<|im_end|>"
    for turn in turns:
        text += f"<|im_start|>{turn.role}\n{turn.content}<|im_end|>"
    return f"{text}<|im_start|>assistant\n"


def llava_llama_3(said: Sequence[Said]) -> str:
    """LLaVA-NeXT's conv_llava_llama_3 as its training (preprocess_llama3) writes it."""
    system, turns = _with_default(said, LLAVA_SYSTEM)
    return by_chat_template(LLAMA_3, bos_token="<|begin_of_text|>")([Said("system", system), *turns])


def bunny(end: str) -> Render:
    """Bunny's conv_bunny and conv_llama, which differ in the second separator: SeparatorStyle.TWO."""

    def render(said: Sequence[Said]) -> str:
        system, turns = _with_default(said, _VICUNA)
        text = f"{system} "
        for turn in turns:
            text += f"USER: {turn.content} " if turn.role == "user" else f"ASSISTANT: {turn.content}{end}"
        return f"{text}ASSISTANT:"

    return render


# xtuner/utils/templates.py; SUFFIX is the end of an answer where it is not the tokenizer's
_XTUNER = {
    "llama3_chat": {
        "SYSTEM": "<|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>",
        "INSTRUCTION": (
            "<|start_header_id|>user<|end_header_id|>\n\n{input}<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        ),
        "SUFFIX": "<|eot_id|>",
    },
    "vicuna": {
        "SYSTEM": f"{_VICUNA} {{system}}\n ",
        "INSTRUCTION": "USER: {input} ASSISTANT:",
        "SEP": "\n",
    },
}


def xtuner(name: str, bos: str = "", eos: str = "") -> Render:
    """xtuner's template_map_fn and encode_fn, which begins anew behind an answer that the tokenizer's token ends.

    Each text is tokenized on its own, which LLaMA's tokenizer shows by a space in front of it.
    """
    template = _XTUNER[name]
    space = "" if "SUFFIX" in template else " "

    def render(said: Sequence[Said]) -> str:
        text = ""
        for turn in said:
            if turn.role == "system":
                text += template["SYSTEM"].format(system=turn.text)
            elif turn.role == "user":
                text += template["INSTRUCTION"].format(input=turn.content)
            else:
                end = template.get("SUFFIX") or eos
                begin = "" if "SUFFIX" in template else bos
                text += f"{space}{turn.text}{end}{template.get('SEP', '')}{begin}"
        return text

    return render

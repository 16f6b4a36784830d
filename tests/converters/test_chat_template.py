"""Chat templates of published checkpoints, cut into texts that make up what transformers renders."""

from __future__ import annotations

import json
import sys

import pytest
from published_templates import IMAGE, INTERLEAVE, JOYCAPTION, LLAMA_3, NO_NEWLINES, ONEVISION, PHI_3, QWEN_1_5

from edge_llava.bundle.template_spec import describe_template, split_pieces
from edge_llava.bundle.templates import TEMPLATES, Template
from edge_llava.errors import CheckpointError

pytestmark = pytest.mark.convert

SPECIALS = {"bos_token": "<s>", "eos_token": "<|end|>"}


def cut(source: str) -> Template:
    from edge_llava.converters.chat_template import cut_template

    return cut_template(source, SPECIALS, IMAGE)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (LLAMA_3, "llama_3"),
        (ONEVISION, "chatml"),
        (INTERLEAVE, "interleave"),
        (QWEN_1_5, "qwen_chatml"),
        (JOYCAPTION, "joycaption"),
        (PHI_3, "phi_3"),
        (NO_NEWLINES, "chat_template"),
    ],
)
@pytest.mark.parametrize("system", ["", "Be brief."])
def test_a_conversation_of_the_cut_texts_is_what_transformers_renders(source, name, system):
    from transformers.utils.chat_template_utils import render_jinja_template

    template = cut(source)
    assert template.name == name
    is_parts = "selectattr" in source
    past = template.after_question if template.after_past_question is None else template.after_past_question

    def message(role, text, n_images=0):
        if is_parts:
            return {"role": role, "content": [{"type": "image"}] * n_images + [{"type": "text", "text": text}]}
        return {"role": role, "content": f"{IMAGE}\n" * n_images + text}

    n_images = 1 if source is JOYCAPTION else 2
    asked = [message("user", "What is it?", n_images), message("assistant", "A dog."), message("user", "Where?")]
    messages = [message("system", system), *asked] if system else asked
    (rendered,), _ = render_jinja_template([messages], chat_template=source, add_generation_prompt=True, **SPECIALS)
    image = f"{template.image_before}{IMAGE}{template.image_after}"
    assert rendered.removeprefix("<s>") == (
        f"{template.with_system(system).opening if system else template.opening}{image * n_images}"
        f"{template.before_question}What is it?{past}{template.before_answer}A dog.{template.between_turns}"
        f"{template.before_question}Where?{template.after_question}"
    )


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ messages[9].content }}", "it fails"),
        ("no conversation", "'Qfirstq' does not appear"),
        (ONEVISION.replace("message['role'] +", "message['role'] + loop.index|string +"), "it writes something else"),
        (ONEVISION.replace("<|im_end|>", "."), "no special token ends an answer"),
        ("{{ raise_exception('images only') }}", "images only"),
        (QWEN_1_5.replace("message['content']", "message['content'] * 2"), "more than once"),
        (QWEN_1_5 + "{% if messages|length > 4 %}!{% endif %}", "three turns"),
        ("{{ cycler.__init__.__globals__ }}" + ONEVISION, "it fails"),
        ("{% for", "it fails"),
        ("x" * 70_000, "70000 characters"),
        ("{% for i in range(10**9) %}{% endfor %}", "it computes powers"),
        ("{% for i in range(1000000000) %}{% endfor %}" + ONEVISION, "Range too big"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}" + ONEVISION, "steps"),
        (
            "{% macro a(n) %}{% for i in range(9) %}{{ a(n) }}{% endfor %}{% endmacro %}{{ a(1) }}" + ONEVISION,
            "it fails",
        ),
        ("{{ range(99999) | map('string') | map('length') | sum }}" * 40 + ONEVISION, "steps"),
    ],
)
def test_templates_that_do_not_cut(source, reason):
    with pytest.raises(CheckpointError) as caught:
        cut(source)
    assert reason in str(caught.value)
    assert "--template" in str(caught.value) or "limit" in str(caught.value)


def test_a_text_of_stars_is_no_power():
    bold = ONEVISION.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n**")
    assert cut(bold).after_question.endswith("assistant\n**")


def test_a_long_template_is_within_its_budget():
    """Compiling takes most of the steps."""
    unused = "{% if messages[0].role == 'nobody' %}{{ messages[0].content | trim ~ 'abc' }}{% endif %}"
    assert cut(unused * 200 + ONEVISION).name == "chatml"


def test_a_debugger_keeps_its_trace():
    before = sys.gettrace()
    assert cut(ONEVISION).name == "chatml"
    assert sys.gettrace() is before


@pytest.mark.parametrize("file", ["chat_template.jinja", "chat_template.json", "processor_config.json", "named"])
def test_where_a_checkpoint_keeps_it(tmp_path, file):
    from edge_llava.converters.chat_template import find_chat_template

    assert find_chat_template(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "text of the tokenizer"}))
    assert find_chat_template(tmp_path) == "text of the tokenizer"
    if file == "named":
        named = [{"name": "tool_use", "template": "other"}, {"name": "default", "template": PHI_3}]
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    else:
        (tmp_path / file).write_text(PHI_3 if file.endswith("jinja") else json.dumps({"chat_template": PHI_3}))
    assert find_chat_template(tmp_path) == PHI_3


def test_special_tokens_become_ids():
    specials = {"<|im_start|>": 7, "<|im_end|>": 8, "<|im_end|>>": 9}
    assert split_pieces("<|im_start|>user\n<|im_end|>>x", specials) == (7, "user\n", 9, "x")
    assert split_pieces("", specials) == ()
    assert split_pieces("a<|im_end|>", {}) == ("a<|im_end|>",)
    spec = describe_template(TEMPLATES["interleave"], specials)
    assert spec.opening == (7, "user\n")
    assert spec.before_question == ("\n",)
    assert spec.after_past_question == (8, "\n", 7, "assistant\n\n")
    assert spec.open_with("Be brief.") == (7, "system\n\n", "Be brief.", 8, "\n", 7, "user\n")
    assert describe_template(TEMPLATES["llava_v1"], {"</s>": 2}).open_with("Hello.") == ("Hello.", " USER: ")
    assert describe_template(TEMPLATES["mistral_instruct"], {}).open_with("Hello.") == ("[INST] ", "Hello.", "\n\n")

"""A dialogue told as messages is, token for token, the conversation that a session has had."""

from __future__ import annotations

import dataclasses

import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.template_spec import describe_template
from edge_llava.bundle.templates import TEMPLATES
from edge_llava.errors import ContextOverflow, ImageError
from edge_llava.runtime.dialogue.answer_history import KnownAnswer
from edge_llava.runtime.dialogue.messages import Message, read_messages
from edge_llava.runtime.dialogue.past_turns import list_runs
from edge_llava.runtime.dialogue.planner import Planner
from edge_llava.runtime.model import LlavaModel
from edge_llava.runtime.options import DecoderOptions, EngineOptions, SamplingOptions
from edge_llava.runtime.runs import list_positions

pytestmark = pytest.mark.convert
QUESTIONS = ("What is this?", "And more?", "Why?")


@pytest.fixture
def open_with(seeded_f32, home):
    """open_with(template name) -> (LlavaModel, Planner) of the seeded bundle with that template."""
    opened = []

    def run(template):
        bundle = Bundle.open(seeded_f32)
        spec = describe_template(TEMPLATES[template], {})
        language = dataclasses.replace(bundle.manifest.language, template=spec)
        bundle = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, language=language))
        opened.append(LlavaModel(bundle, EngineOptions(DecoderOptions(n_threads=1), n_vision_threads=1)))
        model = opened[-1]
        return model, Planner(model.engine.language, model.tower, model.n_ctx)

    yield run
    for model in opened:
        model.close()


def tell(chat, planner, pictures):
    """Asks three questions; gives the messages, and what the session's prompt was each time."""
    messages, prompts = [], []
    for n, question in enumerate(QUESTIONS):
        images = tuple(pictures[n : n + 1])
        text = "".join(token.text for token in chat.ask(question, image=images))
        last = chat._past[-1]
        prompt = [*list_runs(chat._past[:-1]), *last.runs]
        messages += [Message("user", question, images), Message("assistant", text)]
        prompts.append(list_positions(prompt))
        planner.history.remember(prompt, text, last.answer or KnownAnswer(()))
    return messages, prompts


def plan(planner, messages):
    """The runs of a conversation."""
    return list_runs(planner.plan(read_messages(messages)))


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("stop", [(), ("e", "1", "w")])
def test_remembered_answers(open_with, noise, template, stop):
    """Noise, as no tokenizer would write it; with stop texts, some of them cut inside a token."""
    model, planner = open_with(template)
    chat = model.session(SamplingOptions(temperature=1, seed=3, max_new_tokens=12, stop=stop))
    messages, prompts = tell(chat, planner, [noise(64, 48, seed=seed) for seed in range(2)])
    for n, prompt in enumerate(prompts):
        assert list_positions(plan(planner, messages[: 2 * n + 1])) == prompt


@pytest.mark.parametrize("template", TEMPLATES)
def test_answers_of_somebody_else(open_with, template):
    """As the same text is tokenized where it goes on from the question, and as training has it."""
    model, planner = open_with(template)
    messages = [Message("user", "What?"), Message("assistant", "A bus. It is red."), Message("user", "Why?")]
    first, answer, second = plan(planner, messages)
    chat, whole = model.session(), model.engine.language.tokenize
    known = TEMPLATES[template]
    end = known.after_question if known.after_past_question is None else known.after_past_question
    assert list(first.ids) == whole(f"{known.opening}{known.before_question}What?{end}", add_bos=True)
    spoken = b"".join(map(model.engine.language.piece, answer.ids)).decode()
    if not known.before_answer:
        assert spoken == "A bus. It is red."
    else:
        assert spoken == " A bus. It is red."
        assert list(answer.ids) == whole("A bus. It is red.", add_bos=False)
    list(chat.ask("What?"))
    chat._past[-1] = dataclasses.replace(chat._past[-1], answer=KnownAnswer(answer.ids))
    list(chat.ask("Why?"))
    assert list_runs(chat._past)[0] == first
    assert list_runs(chat._past)[2] == second


def test_an_empty_answer_has_no_tokens(open_with):
    _, planner = open_with("llava_v1")
    messages = [Message("user", "What?"), Message("assistant", ""), Message("user", "Why?")]
    assert plan(planner, messages)[1].ids == ()


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("llava_v1", "Be brief. USER: What? ASSISTANT:"),
        ("llava_v0", "Be brief.###Human: What?###Assistant:"),
        ("llava_llama_2", "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhat? [/INST]"),
        ("mistral_instruct", "[INST] Be brief.\n\nWhat? [/INST]"),
        (
            "chatml_direct",
            "<|im_start|>system\nBe brief.<|im_end|><|im_start|>user\nWhat?<|im_end|><|im_start|>assistant\n",
        ),
    ],
)
def test_a_system_message_takes_the_place_of_the_templates(open_with, template, shown):
    model, planner = open_with(template)
    (run,) = plan(planner, [Message("system", "Be brief."), Message("user", "What?")])
    assert list(run.ids) == model.engine.language.tokenize(shown, add_bos=True)
    (default,) = plan(planner, [Message("system", " \n"), Message("user", "What?")])
    assert default == plan(planner, [Message("user", "What?")])[0]


def test_what_does_not_fit(open_with, noise):
    model, planner = open_with("llava_v1")
    messages = [Message("user", "word " * 100), Message("assistant", "No."), Message("user", "word " * 700)]
    with pytest.raises(ContextOverflow) as caught:
        planner.plan(read_messages(messages))
    runs = plan(planner, messages[:1])
    n_earlier = sum(run.n_tokens for run in runs) + len(model.engine.language.tokenize("No.", add_bos=False))
    n_text = len(model.engine.language.tokenize(f"</s>USER: {'word ' * 700} ASSISTANT:", add_bos=False))
    assert caught.value.n_needed == n_earlier + n_text + 1
    assert f"({n_earlier} earlier, {n_text} text, 0 for 0 images, 1 answer)" in str(caught.value)


def test_pictures_are_checked(open_with, noise):
    model, planner = open_with("llava_v1")
    for bad in (b"nothing", "missing.png"):
        with pytest.raises(ImageError):
            planner.plan(read_messages([Message("user", "What?", (noise(64, 48), bad))]))
    embedding = model.embed_image(noise(64, 48))
    (_, image, _) = plan(planner, [Message("user", "What?", (embedding,))])
    assert image.embedding is embedding
    with pytest.raises(ImageError, match="made by another projector"):
        planner.plan(
            read_messages([Message("user", "What?", (dataclasses.replace(embedding, projector_sha256="00"),))])
        )


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_what_is_much_too_long_is_refused_unread(open_with, role):
    _, planner = open_with("llava_v1")
    said = {"system": "", "user": "What?", "assistant": "No."} | {role: "\0" * 1_000_000}
    messages = [Message("system", said["system"]), Message("user", said["user"])]
    messages += [Message("assistant", said["assistant"]), Message("user", "Why?")]
    with pytest.raises(ContextOverflow, match="or more, of text alone"):
        planner.plan(read_messages(messages))

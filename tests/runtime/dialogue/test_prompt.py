from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest

from edge_llava.bundle.language_spec import SENTENCEPIECE
from edge_llava.bundle.template_spec import describe_template
from edge_llava.bundle.templates import TEMPLATES, find_template, with_image_marks
from edge_llava.errors import BundleError
from edge_llava.runtime.dialogue.planner import build_turn, merge_texts
from edge_llava.runtime.language.decoder import Decoder
from edge_llava.runtime.runs import ImageRun

HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions."
)
USER = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
SYSTEM_IDS = [
    1, 319, 13563, 1546, 263, 12758, 5199, 322, 385, 23116, 21082, 20255, 29889, 450, 20255, 4076, 8444, 29892, 13173,
    29892, 322, 1248, 568, 6089, 304, 278, 5199, 29915, 29879, 5155, 29889,
]  # fmt: skip
USER_IDS, ASSISTANT_IDS = [3148, 1001, 29901], [319, 1799, 9047, 13566, 29901]
QUESTION_IDS = [5618, 338, 445, 29973]  # What is this?


def texts(template, question, n_images, places=(), **options):
    """The texts of a turn; an image stands between each two of them."""
    images = [ImageRun(str(index), str(index), 4, None, None) for index in range(n_images)]
    found = [""]
    for piece in merge_texts(build_turn(describe_template(template, {}), question, images, places, **options)):
        if isinstance(piece, ImageRun):
            found.append("")
        else:
            found[-1] = piece
    return found


def turn(n_images, *, is_first, template="llava_v1"):
    return texts(find_template(template), "What is this?", n_images, is_first=is_first)


def test_first_turn():
    assert turn(0, is_first=True) == [f"{HUMAN} USER: What is this? ASSISTANT:"]
    assert turn(1, is_first=True) == [
        f"{HUMAN} USER: ",
        "\nWhat is this? ASSISTANT:",
    ]
    assert turn(2, is_first=True) == [
        f"{HUMAN} USER: ",
        "\n",
        "\nWhat is this? ASSISTANT:",
    ]


def test_images_keep_their_places():
    """Each is followed by a newline; what is not said between two stays away."""
    question = "First:\nSecond:\nWhich?"
    found = texts(find_template("llava_v1"), question, 2, is_first=True, places=(7, 15))
    assert found == [
        f"{HUMAN} USER: First:\n",
        "\nSecond:\n",
        "\nWhich? ASSISTANT:",
    ]
    marked = texts(with_image_marks(find_template("llava_v1")), "a\n", 2, is_first=False, places=(0, 2))
    assert marked == [
        "</s>USER: <im_start>",
        "<im_end>\na\n<im_start>",
        "<im_end>\n ASSISTANT:",
    ]


def test_places_before_the_text_are_as_in_training():
    template = find_template("llava_v1")
    assert texts(template, "What?", 2, (0, 0), is_first=True) == texts(template, "What?", 2, is_first=True)


def test_later_turn():
    assert turn(0, is_first=False) == ["</s>USER: What is this? ASSISTANT:"]
    assert turn(2, is_first=False) == [
        "</s>USER: ",
        "\n",
        "\nWhat is this? ASSISTANT:",
    ]


def test_vicuna_says_user():
    (text,) = turn(0, is_first=True, template="vicuna_v1")
    assert text == f"{USER} USER: What is this? ASSISTANT:"


def test_question_is_literal():
    (text,) = texts(find_template("llava_v1"), "<image>\n{q}  ", 0, is_first=False)
    assert text == "</s>USER: <image>\n{q}   ASSISTANT:"


def test_templates_are_found_by_their_name():
    assert {name: template.name for name, template in TEMPLATES.items()} == {name: name for name in TEMPLATES}
    with pytest.raises(BundleError) as caught:
        find_template("mpt")
    assert str(caught.value) == (
        f"there is no conversation template 'mpt'; known: {', '.join(TEMPLATES)}. Upgrade edge-llava."
    )


@pytest.fixture(scope="module")
def tokenize(llama_vocabulary):
    """tokenize(texts, is_first) -> ids, None for the picture between two texts. With the real LLaMA vocabulary."""
    import llama_cpp

    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(llama_vocabulary).encode(), params)
    decoder = SimpleNamespace(
        vocabulary=llama_cpp.llama_model_get_vocab(model),
        spec=SimpleNamespace(tokenizer=SENTENCEPIECE),
        _form=lambda text: text,
    )
    decoder.tokenize = partial(Decoder.tokenize, decoder)

    def run(texts, is_first, *, within=False):
        if within:
            return Decoder.tokenize_within(decoder, texts[0])
        ids = Decoder.tokenize(decoder, texts[0], add_bos=is_first)
        for text in texts[1:]:
            ids += [None, *Decoder.tokenize(decoder, text, add_bos=False)]
        return ids

    yield run
    llama_cpp.llama_model_free(model)


def test_ids_around_a_picture(tokenize):
    expected = [*SYSTEM_IDS, *USER_IDS, 29871, None, 29871, 13, *QUESTION_IDS, *ASSISTANT_IDS]
    assert tokenize(turn(1, is_first=True), True) == expected


def test_ids_of_two_pictures(tokenize):
    pictures = [29871, None, 29871, 13, None, 29871, 13]
    assert tokenize(turn(2, is_first=True), True) == [
        *SYSTEM_IDS, *USER_IDS, *pictures, *QUESTION_IDS, *ASSISTANT_IDS,
    ]  # fmt: skip


def test_ids_of_a_later_turn(tokenize):
    """The legacy tokenizer of training splits USER after </s>: 3148, 1001, not 11889."""
    ids = tokenize(turn(0, is_first=False), False)
    assert ids == [2, *USER_IDS, 1724, 338, 445, 29973, *ASSISTANT_IDS]
    picture = tokenize(turn(1, is_first=False), False)
    assert picture == [2, *USER_IDS, 29871, None, 29871, 13, *QUESTION_IDS, *ASSISTANT_IDS]


def test_v0_goes_on_in_the_middle_of_a_text(tokenize):
    """As the whole conversation is tokenized at once: "###" in two pieces, "Human" without a space."""
    (text,) = turn(0, is_first=False, template="llava_v0")
    ids = tokenize([text], False, within=True)
    assert ids[:3] == [2277, 29937, 29950]
    whole = tokenize([f"A bus.{text}"], False)
    assert whole == [*tokenize(["A bus."], False), *ids]


@pytest.mark.parametrize(
    ("template", "after"),
    [("llava_llama_2", [2, 1, 518, 25580, 29962]), ("mistral_instruct", [2, 518, 25580, 29962])],
)
def test_instructions_begin_anew_after_special_tokens(tokenize, template, after):
    ids = tokenize(turn(0, is_first=False, template=template), False)
    assert ids[: len(after)] == after


def test_image_marks_stand_around_each_picture():
    found = texts(with_image_marks(find_template("llava_v0")), "What?", 2, is_first=False)
    assert found == [
        "###Human: <im_start>",
        "<im_end>\n<im_start>",
        "<im_end>\nWhat?###Assistant:",
    ]


def test_bos_once(tokenize):
    for n_images in range(3):
        assert tokenize(turn(n_images, is_first=True), True).count(1) == 1
        assert tokenize(turn(n_images, is_first=False), False).count(1) == 0


def test_golden_pieces(tokenize):
    assert tokenize(["###"], False) == [835]
    assert tokenize(["a###"], False)[1:] == [2277, 29937]
    assert tokenize([""], True) == [1]
    assert tokenize([""], False) == []

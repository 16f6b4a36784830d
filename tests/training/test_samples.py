"""Ids and labels of samples, token by token, against LLaVA's own way of masking."""

from __future__ import annotations

import pytest

from edge_llava.bundle.templates import find_template
from edge_llava.errors import DataError
from edge_llava.training.instructions.conversations import Conversation, Turn
from edge_llava.training.samples import IGNORED, SampleBuilder, SpecialTokens

pytestmark = pytest.mark.convert

IMAGE, N_PATCHES = 1024, 4
SPECIAL = SpecialTokens(bos=1, eos=2, pad=0, image=IMAGE, n_patches=N_PATCHES)
TALK = Conversation(
    "talk",
    "1.jpg",
    (
        Turn("What colour is the star?", "Red."),
        Turn("How many objects are there?", "Three.\nOne of them is a ring."),
        Turn("Is there a blue circle?", "No."),
    ),
)


def llava_v1(tokenizer, conversation: Conversation, name: str) -> tuple[list[int], list[int]]:
    """preprocess_v1 of LLaVA's train.py in plain steps: tokenize the whole text, then count off its rounds."""
    template = find_template(name)
    text = template.opening
    for index, turn in enumerate(conversation.turns):
        question = f"<image>\n{turn.question}" if index == 0 and conversation.image else turn.question
        text += f"{'USER: ' if index else ''}{question} ASSISTANT: {turn.answer}</s>"

    def encode(piece: str) -> list[int]:  # tokenizer_image_token
        ids: list[int] = []
        for number, part in enumerate(piece.split("<image>")):
            encoded = tokenizer.encode(part, add_special_tokens=True)
            ids += encoded if number == 0 else [IMAGE, *encoded[1:]]
        return ids

    ids = encode(text)
    labels = list(ids)
    labels[0], cursor = IGNORED, 1
    for round_ in text.split("</s>")[:-1]:
        left, _ = round_.split(" ASSISTANT: ")
        n_round, n_instruction = len(encode(round_)), len(encode(f"{left} ASSISTANT: ")) - 2
        labels[cursor : cursor + n_instruction] = [IGNORED] * n_instruction
        cursor += n_round
    assert cursor == len(ids)
    return ids, labels


def expand(ids: list[int], labels: list[int]) -> tuple[list[int], list[int]]:
    """One position per patch."""
    places = [N_PATCHES if token == IMAGE else 1 for token in ids]
    wide_ids = [token for token, n in zip(ids, places, strict=True) for _ in range(n)]
    wide_labels = [label for label, n in zip(labels, places, strict=True) for _ in range(n)]
    return wide_ids, [IGNORED if token == IMAGE else label for token, label in zip(wide_ids, wide_labels, strict=True)]


@pytest.mark.parametrize("template", ["llava_v1", "vicuna_v1"])
@pytest.mark.parametrize("image", ["1.jpg", None])
def test_chat_is_masked_as_llava_masks(slow_tokenizer, template, image):
    talk = Conversation("talk", image, TALK.turns)
    sample = SampleBuilder(slow_tokenizer, SPECIAL, 512).chat(talk, find_template(template))
    ids, labels = expand(*llava_v1(slow_tokenizer, talk, template))
    assert sample.ids.tolist() == ids
    assert sample.labels.tolist() == labels


def test_answers_and_their_ends_are_learned_and_nothing_else(slow_tokenizer):
    sample = SampleBuilder(slow_tokenizer, SPECIAL, 512).chat(TALK, find_template("llava_v1"))
    learned = sample.labels[sample.labels != IGNORED].tolist()
    answers = [slow_tokenizer.encode(turn.answer, add_special_tokens=False) for turn in TALK.turns]
    assert learned == [token for answer in answers for token in (*answer, 2)]
    assert (sample.ids == IMAGE).sum() == N_PATCHES
    assert sample.labels[sample.ids == IMAGE].eq(IGNORED).all()


def test_plain_learns_the_caption_and_a_newline(slow_tokenizer):
    caption = Conversation("c", "1.jpg", (Turn("Describe the picture briefly.", "A large red star."),))
    sample = SampleBuilder(slow_tokenizer, SPECIAL, 512).plain(caption)
    text = slow_tokenizer.encode("A large red star.\n", add_special_tokens=False)
    assert sample.ids.tolist() == [1, *[IMAGE] * N_PATCHES, *text]
    assert sample.labels.tolist() == [*[IGNORED] * (1 + N_PATCHES), *text]


def test_plain_needs_an_image(slow_tokenizer):
    with pytest.raises(DataError, match="no image"):
        SampleBuilder(slow_tokenizer, SPECIAL, 512).plain(Conversation("c", None, TALK.turns))


def test_what_does_not_fit_is_cut_and_counted(slow_tokenizer):
    whole = SampleBuilder(slow_tokenizer, SPECIAL, 512).chat(TALK, find_template("llava_v1"))
    cut = SampleBuilder(slow_tokenizer, SPECIAL, len(whole.ids) - 3).chat(TALK, find_template("llava_v1"))
    assert (whole.n_cut, cut.n_cut) == (0, 3)
    assert cut.ids.tolist() == whole.ids.tolist()[:-3]
    assert cut.labels.tolist() == whole.labels.tolist()[:-3]

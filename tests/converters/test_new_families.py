"""Newer families as published, converted to F32: what the family's own code computes, from pixels to tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import family_checkpoints as made
import family_originals as originals
import family_parts_apart as apart
import numpy as np
import published_templates as published
import pytest
from family_adapters import adapt, adapt_original
from family_reference import FamilyReference
from published_templates import Said

import edge_llava
from edge_llava.home.image_files.opening import open_image
from edge_llava.runtime.dialogue.messages import Message, read_messages
from edge_llava.runtime.dialogue.past_turns import list_runs
from edge_llava.runtime.runs import ImageRun
from edge_llava.runtime.vision.preprocess import pixel_values

pytestmark = pytest.mark.convert

MAX_ABS, N_NEW = 1e-4, 32
TALL, WIDE = (150, 61), (60, 170)  # height, width
BEYOND_LIMIT = ((200, 260), (290, 250), (48, 300))  # canvases of up to 6 x 6 tiles, which are scaled down
QUESTION, ANSWER, NEXT = "What is shown in this picture?", "A dog on a chair, 12 plates.", "And on the left?"
ALONE = (Said("user", QUESTION, 1),)
WITH_SYSTEM = (Said("system", "Be brief."), *ALONE)
TURNS = (*ALONE, Said("assistant", ANSWER), Said("user", NEXT))
PAIR = (Said("user", QUESTION, 2),)
LATER = (*ALONE, Said("assistant", ANSWER), Said("user", NEXT, 1))
SCRIPTS = (Said("user", "Zwo\u0308lf A\u0308pfel,  1234567?\n\u4f60\u597d \U0001f642\tx", 1),)
BEGIN = "<|begin_of_text|>"


@pytest.fixture(scope="session")
def sentencepiece_model(seeded_checkpoint: Path) -> bytes:
    return (seeded_checkpoint / "tokenizer.model").read_bytes()


@dataclass
class Comparison:
    """A family's checkpoint in its own code and as an open bundle."""

    truth: FamilyReference
    model: edge_llava.LlavaModel
    draw: Callable[..., np.ndarray]

    def images(self, *sizes: tuple[int, int]) -> None:
        """Pixels and embeddings of images; without sizes, of a tall and a wide one."""
        vision = self.model.manifest.vision
        assert vision.aspect == self.truth.aspect
        for seed, size in enumerate(sizes or (TALL, WIDE)):
            image = self.draw(*size, seed)
            rows, ours = self.truth.rows(image), self.model.embed_image(image).data
            assert np.abs(pixel_values(open_image(image), vision) - self.truth.pixels(image)).max() == 0.0
            assert ours.shape == rows.shape
            assert rows.std(0).mean() > 0.3  # far enough from each other for 1e-4 to mean something
            assert np.abs(ours - rows).max() < MAX_ABS

    def ids(self, *conversations: Sequence[Said]) -> None:
        """The whole prompt of each conversation."""
        for said in conversations:
            images = self._images_of(said)
            expected, _ = self.truth.inputs(said, images)
            assert self._ids(said, images) == expected, said

    def tokens(self, *conversations: Sequence[Said]) -> None:
        """32 greedy tokens after each conversation."""
        language = self.model.manifest.language
        for said in conversations:
            images = self._images_of(said)
            _, inputs = self.truth.inputs(said, images)
            expected = self.truth.greedy(inputs, language.end_ids, N_NEW, language.n_vocab)
            found = self._ask(said, images)
            assert found == expected, said
            assert len(set(found)) > N_NEW // 4

    def all(self, *conversations: Sequence[Said]) -> None:
        """Everything of each conversation."""
        self.images()
        self.ids(*conversations, SCRIPTS)
        self.tokens(*conversations)

    def _images_of(self, said: Sequence[Said]) -> list[np.ndarray]:
        n_images = sum(message.n_images for message in said)
        return [self.draw(*size, seed) for seed, size in enumerate((WIDE, TALL)[:n_images])]

    def _messages(self, said: Sequence[Said], images: Sequence[np.ndarray]) -> list[Message]:
        left = iter(images)
        return [Message(s.role, s.text, tuple(next(left) for _ in range(s.n_images))) for s in said]

    def _ids(self, said: Sequence[Said], images: Sequence[np.ndarray]) -> list[int]:
        turns = self.model._planner.plan(read_messages(self._messages(said, images)))
        ids: list[int] = []
        for run in list_runs(turns):
            ids += [self.truth.image_id] * run.n_tokens if isinstance(run, ImageRun) else run.ids
        return ids

    def _ask(self, said: Sequence[Said], images: Sequence[np.ndarray]) -> list[int]:
        tokens: list[Any] = []
        options = edge_llava.SamplingOptions(temperature=0, max_new_tokens=N_NEW)
        self.model.submit(self._messages(said, images), options, tokens.append).wait()
        return [token.id for token in tokens]


@pytest.fixture
def compare(convert_to, make_image, tmp_path) -> Callable[..., Any]:
    """compare(make, aspect, render) -> a context with the Comparison of what `make(directory)` makes."""

    @contextmanager
    def run(make: Callable[[Path], Any], aspect: str, render: published.Render) -> Iterator[Comparison]:
        checkpoint = make(tmp_path / "checkpoint")
        truth = FamilyReference(checkpoint, aspect, render)
        with edge_llava.load(convert_to(checkpoint.directory, quant="F32", **checkpoint.options)) as model:
            yield Comparison(truth, model, make_image)

    return run


@pytest.mark.family(
    "LLaVA-Llama-3, Hugging Face (xtuner -transformers)",
    "byte-level tokenizer, rows of noise; answers end with a token that the config does not name",
    "pixels 0.0, embeddings < 1e-4, ids of whole prompts and 32 greedy tokens equal",
)
def test_xtuner_llama_3_transformers(compare):
    render = published.by_chat_template(published.LLAMA_3, bos_token=BEGIN)
    with compare(lambda d: made.xtuner_llama_3_transformers(d, 3), "pad", render) as both:
        both.all(ALONE, WITH_SYSTEM, TURNS, PAIR)
        both.ids(LATER)
        assert both.model.manifest.language.end_ids == (417, 425)


@pytest.mark.family(
    "LLaVA-Llama-3, original (xtuner -hf)",
    "LlavaLlamaForCausalLM, model_type llava, tower inside, tokenizer.json only",
    "pixels 0.0, embeddings < 1e-4, ids of whole prompts and 32 greedy tokens equal",
)
def test_xtuner_llama_3_original(compare):
    render = published.by_chat_template(published.LLAMA_3, bos_token=BEGIN)
    with compare(lambda d: originals.xtuner_llama_3_original(d, 3), "pad", render) as both:
        both.all(ALONE, WITH_SYSTEM, TURNS, PAIR)
        both.ids(LATER)


@pytest.mark.family(
    "LLaVA-1.6 on Llama 3, Hugging Face",
    "LlavaNextForConditionalGeneration; template llama_3_vision",
    "pixels 0.0, embeddings < 1e-4, ids of whole prompts and 32 greedy tokens equal",
)
def test_llama_3_next(compare):
    with compare(lambda d: made.llama_3_next(d, 5), "anyres", published.llava_llama_3) as both:
        both.all(ALONE, WITH_SYSTEM, TURNS, PAIR)
        both.ids(LATER)


@pytest.mark.family(
    "LLaVA-1.6 on Llama 3, original",
    "LlavaLlamaForCausalLM, model_type llava_llama, tower and newline inside, several end tokens",
    "pixels 0.0, embeddings < 1e-4, ids of whole prompts and 32 greedy tokens equal",
)
def test_llama_3_next_original(compare):
    with compare(lambda d: originals.llama_3_next_original(d, 5), "anyres", published.llava_llama_3) as both:
        both.all(ALONE, WITH_SYSTEM, TURNS, PAIR)
        both.ids(LATER)


@pytest.mark.family(
    "LLaVA-1.6 on Yi 34B, Hugging Face",
    "SentencePiece without BOS and without a space in front; template chatml_direct",
    "pixels 0.0, embeddings < 1e-4, ids of whole prompts and 32 greedy tokens equal",
)
def test_yi(compare, sentencepiece_model):
    with compare(lambda d: made.yi_next(d, 2, sentencepiece_model), "anyres", published.yi) as both:
        both.all(ALONE, WITH_SYSTEM, TURNS, PAIR)
        both.ids(LATER)


@pytest.mark.family(
    "LLaVA-1.6 on Yi 34B, original",
    "LlavaLlamaForCausalLM, model_type llava, tower and newline inside; SentencePiece as above",
    "pixels 0.0, embeddings < 1e-4, ids of whole prompts and 32 greedy tokens equal",
)
def test_yi_original(compare, sentencepiece_model):
    with compare(lambda d: originals.yi_next_original(d, 2, sentencepiece_model), "anyres", published.yi) as both:
        both.all(ALONE, WITH_SYSTEM, TURNS, PAIR)
        both.ids(LATER)


@pytest.mark.family(
    "LLaVA-Phi-3-mini, Hugging Face (xtuner -hf)",
    "text_config llama with a leftover sliding_window; special tokens that swallow white space",
    "pixels 0.0, embeddings < 1e-4, ids of whole prompts and 32 greedy tokens equal",
)
def test_phi_3_mini(compare, sentencepiece_model):
    render = published.by_chat_template(published.PHI_3, bos_token="<s>")
    with compare(lambda d: made.phi_3_mini(d, 4, sentencepiece_model), "pad", render) as both:
        both.all(ALONE, WITH_SYSTEM, TURNS, PAIR)
        both.ids(LATER)


@pytest.mark.family(
    "llava-interleave-qwen, Hugging Face",
    "SigLIP, Qwen 1.5 with a tied head, images one after another; its own chat template",
    "pixels 0.0, embeddings < 1e-4, ids of whole prompts and 32 greedy tokens equal",
)
def test_interleave(compare):
    render = published.by_chat_template(published.INTERLEAVE)
    with compare(lambda d: made.interleave(d, 5), "squash", render) as both:
        both.all(ALONE, WITH_SYSTEM, TURNS, PAIR)
        both.ids(LATER)


@pytest.mark.family(
    "LLaVA-OneVision, Hugging Face",
    "LlavaOnevisionForConditionalGeneration, head tied (0.5B) or not (7B), 36 canvases",
    "pixels 0.0, embeddings < 1e-4, ids of whole prompts and 32 greedy tokens equal",
)
@pytest.mark.parametrize(("tied", "seed"), [(True, 1), (False, 5)])
def test_onevision(compare, tied, seed):
    render = published.by_chat_template(published.ONEVISION)
    with compare(lambda d: made.onevision(d, seed, tied=tied), "anyres", render) as both:
        both.all(ALONE, WITH_SYSTEM, TURNS, PAIR, LATER)
        both.images(*BEYOND_LIMIT)


@pytest.mark.family(
    "LLaVA-OneVision, original",
    "LlavaQwenForCausalLM, either model_type; SigLIP inside without its last block, the config's layer ignored",
    "pixels 0.0, embeddings < 1e-4, ids of whole prompts and 32 greedy tokens equal",
)
@pytest.mark.parametrize(("model_type", "limit", "seed"), [("llava", 9, 7), ("llava_qwen", 4, 1)])
def test_onevision_original(compare, model_type, limit, seed):
    render = published.by_chat_template(published.QWEN_1_5)
    with compare(lambda d: originals.onevision_original(d, seed, model_type, limit), "anyres", render) as both:
        both.all(ALONE, WITH_SYSTEM, TURNS, PAIR, LATER)
        both.images(*BEYOND_LIMIT)


ALPHA_TWO = "You are a helpful assistant and help users with any queries they have."


@pytest.mark.family(
    "JoyCaption alpha-two, beta-one",
    "SigLIP of all blocks, image token inside the vocabulary, Llama 3.1 positions; system text from the chat template",
    "pixels 0.0, embeddings < 1e-4, ids of whole prompts and 32 greedy tokens equal",
)
@pytest.mark.parametrize(("system", "seed"), [("You are a helpful image captioner.", 1), (ALPHA_TWO, 2)])
def test_joycaption(compare, system, seed):
    template = published.JOYCAPTION.replace("You are a helpful image captioner.", system)
    render = published.by_chat_template(template, bos_token=BEGIN)
    with compare(lambda d: made.joycaption(d, seed, system), "squash", render) as both:
        both.all(ALONE, WITH_SYSTEM, TURNS)


@pytest.mark.family(
    "nanoLLaVA",
    "model_type llava-qwen2, SigLIP inside, padded; system text from the chat template",
    "pixels 0.0, embeddings < 1e-4, ids of whole prompts and 32 greedy tokens equal",
)
def test_nanollava(compare):
    with compare(lambda d: originals.nanollava(d, 3), "pad", published.by_chat_template(published.NANOLLAVA)) as both:
        both.all(ALONE, WITH_SYSTEM, TURNS, PAIR)
        both.ids(LATER)


@pytest.mark.family(
    "Bunny v1.0 on Llama 3",
    "model_type bunny-llama, SigLIP inside",
    "pixels 0.0, embeddings < 1e-4, ids of whole prompts and 32 greedy tokens equal",
)
def test_bunny_llama(compare):
    with compare(lambda d: originals.bunny_llama(d, 1), "pad", published.bunny("<|end_of_text|>")) as both:
        both.all(ALONE, TURNS, PAIR)
        both.ids(LATER)


@pytest.mark.family(
    "Bunny v1.0 on Qwen",
    "model_type bunny-qwen, SigLIP inside",
    "pixels 0.0, embeddings < 1e-4, ids of whole prompts and 32 greedy tokens equal",
)
def test_bunny_qwen(compare):
    with compare(lambda d: originals.bunny_qwen(d, 1), "pad", published.bunny("<|endoftext|>")) as both:
        both.all(ALONE, TURNS, PAIR)
        both.ids(LATER)


@pytest.mark.family(
    "CLIP with Qwen 2, original",
    "LlavaQwen2ForCausalLM, model_type llava_qwen2",
    "pixels 0.0, embeddings < 1e-4, ids of whole prompts and 32 greedy tokens equal",
)
def test_clip_qwen_2(compare):
    with compare(lambda d: originals.clip_qwen_2(d, 1), "pad", published.by_chat_template(published.QWEN_1_5)) as both:
        both.all(ALONE, WITH_SYSTEM, TURNS, PAIR)
        both.ids(LATER)


@pytest.mark.family(
    "LLaVA-Llama-3, xtuner (no suffix)",
    "LlamaForCausalLM, projector/ and visual_encoder/, or visual_encoder_adapter/ with --vision-tower",
    "pixels 0.0, embeddings < 1e-4, ids of whole prompts and 32 greedy tokens equal; peft merges the adapter",
)
@pytest.mark.parametrize("tower", ["whole", "adapter"])
def test_xtuner_llama_3(compare, tower):
    with compare(lambda d: apart.llama_3(d, 3, tower=tower), "pad", published.xtuner("llama3_chat")) as both:
        both.all(ALONE, WITH_SYSTEM, TURNS, PAIR)
        both.ids(LATER)
        assert both.model.manifest.source.layout == "xtuner"


@pytest.mark.family(
    "LLaVA-Llama-3, xtuner (QLoRA, pre-training)",
    "projector/, with llm_adapter/ or without, over --base; a frozen tower by --vision-tower",
    "pixels 0.0, embeddings < 1e-4, ids of whole prompts and 32 greedy tokens equal; peft merges the adapters",
)
@pytest.mark.parametrize("language", ["adapter", "frozen"])
def test_xtuner_on_models_elsewhere(compare, language):
    render = published.xtuner("llama3_chat")
    with compare(lambda d: apart.llama_3(d, 3, language, "frozen"), "pad", render) as both:
        both.all(ALONE, TURNS)


@pytest.mark.family(
    "LLaVA-1.5, xtuner (a QLoRA of Vicuna)",
    "llm_adapter/ over --base; template vicuna_xtuner, which begins every turn with BOS",
    "pixels 0.0, embeddings < 1e-4, ids of whole prompts and 32 greedy tokens equal; peft merges the adapter",
)
def test_xtuner_vicuna(compare, sentencepiece_model):
    render = published.xtuner("vicuna", bos="<s>", eos="</s>")
    with compare(lambda d: apart.vicuna(d, 3, sentencepiece_model), "pad", render) as both:
        both.all(ALONE, WITH_SYSTEM, TURNS, PAIR)
        both.ids(LATER)


LORAS = {
    "Llama 3": (lambda d: adapt(made.xtuner_llama_3_transformers(d, 3), 2), "pad", published.LLAMA_3),
    "Qwen": (lambda d: adapt(made.interleave(d, 5), 2, bias="all"), "squash", published.INTERLEAVE),
    "OneVision": (lambda d: adapt_original(originals.onevision_original(d, 7), 4), "anyres", published.QWEN_1_5),
}


@pytest.mark.family(
    "LoRA on newer families",
    "on tower, projector and language model in Hugging Face layout, q/k/v biases, a tied head; with "
    "non_lora_trainables.bin on originals",
    "merge as peft's for 4 families in Hugging Face layout and 7 originals; ids and 32 greedy tokens equal for three",
)
@pytest.mark.filterwarnings("ignore")  # peft comments on what it saves
@pytest.mark.parametrize("name", LORAS)
def test_lora_on_newer_families(compare, name):
    make, aspect, template = LORAS[name]
    with compare(make, aspect, published.by_chat_template(template, bos_token=BEGIN)) as both:
        both.all(ALONE)

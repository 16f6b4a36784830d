"""A tower, a language model and a few images, so small that a stage takes seconds."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@dataclass(frozen=True)
class Material:
    """The model that the stages start from, and the data that they learn from."""

    tower: Path
    language: Path
    images: Path
    conversations: Path


@pytest.fixture(scope="session")
def tokenizer_model() -> bytes:
    """A SentencePiece model of the sentences that the tests use, made as LLaMA's."""
    from demo_checkpoint.corpus import vocabulary_texts
    from demo_checkpoint.vocabulary import train_vocabulary
    from edge_llava.scenes.scene import sample_scenes

    return train_vocabulary(vocabulary_texts(list(islice(sample_scenes("train", 7), 600)), seed=7))


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory, tokenizer_model: bytes) -> Material:
    """Seeded weights and twelve images, each with one conversation of three to eight turns."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

    from edge_llava.scenes.drawing import encode_scene
    from edge_llava.scenes.scene import sample_scenes
    from edge_llava.training.instructions.conversations import Conversation, write_conversations
    from edge_llava.training.instructions.scene_teacher import teach

    root = tmp_path_factory.mktemp("material")
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14
    )
    CLIPVisionModel(vision).save_pretrained(root / "clip")
    llama = LlamaConfig(
        vocab_size=1024, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512, attention_dropout=0.1,
    )  # fmt: skip
    LlamaForCausalLM(llama).save_pretrained(root / "llama")
    (root / "llama" / "tokenizer.model").write_bytes(tokenizer_model)
    (root / "images").mkdir()
    random = np.random.default_rng(0)
    conversations = []
    for index, scene in enumerate(islice(sample_scenes("train", 8), 12)):
        (root / "images" / f"{index}.jpg").write_bytes(encode_scene(scene, side=32))
        conversations.append(Conversation(str(index), f"{index}.jpg", teach(scene, "conversation", random)))
    conversations.append(Conversation("text", None, teach(scene, "conversation", random)))
    write_conversations(root / "conversations.json", conversations)
    write_conversations(root / "with-pictures.json", conversations[:-1])
    return Material(root / "clip", root / "llama", root / "images", root / "conversations.json")


@pytest.fixture
def options(material: Material, tmp_path: Path) -> Any:
    """TrainOptions for six steps, with every loss in the curve and every second state saved."""
    from edge_llava.training.stages import TrainOptions
    from edge_llava.training.trainer import Schedule

    schedule = Schedule(1e-3, batch_size=4, save_every=2, log_every=1, precision="fp32", seed=3)
    return TrainOptions(material.images.parent / "with-pictures.json", material.images, tmp_path / "out", schedule, 2)


@pytest.fixture(scope="session")
def slow_tokenizer(tokenizer_model: bytes, tmp_path_factory: pytest.TempPathFactory):
    """transformers' slow, legacy LLaMA tokenizer over that model, with <image> added."""
    from transformers import AddedToken, LlamaTokenizer

    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(tokenizer_model)
    tokenizer = LlamaTokenizer(vocab_file=str(path), legacy=True)
    tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)], special_tokens=True)
    return tokenizer

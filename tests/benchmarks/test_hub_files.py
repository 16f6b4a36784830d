"""transformers opens what was completed, and puts as many image tokens into a prompt as the model has patches."""

from __future__ import annotations

import json

import pytest
from hub_files import complete_checkpoint

pytestmark = pytest.mark.convert


def test_a_completed_checkpoint_is_opened_by_transformers(make_checkpoint, photo, tmp_path):
    from PIL import Image
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    checkpoint = make_checkpoint()
    complete_checkpoint(checkpoint, tmp_path / "hub")
    processor = AutoProcessor.from_pretrained(tmp_path / "hub", use_fast=False)
    content = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert text == "USER: <image>\nWhat is this? ASSISTANT:"
    with Image.open(photo) as image:
        inputs = processor(images=image.convert("RGB"), text=text, return_tensors="pt")
    n_patches = (56 // 14) ** 2
    image_token = json.loads((checkpoint / "config.json").read_text())["image_token_index"]
    assert (inputs["input_ids"] == image_token).sum() == n_patches
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path / "hub")
    assert model.generate(**inputs, max_new_tokens=2, min_new_tokens=2).shape[1] == inputs["input_ids"].shape[1] + 2

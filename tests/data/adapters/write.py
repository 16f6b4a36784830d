"""Writes the adapters beside this file: python write.py NAME, with the versions that NAME says.

peft-0.13          peft 0.13.2 on transformers 4.57.6
peft-0.21          peft 0.21.2 on transformers 4.57.6
transformers-5.24  peft 0.21.2 on transformers 5.24.0, whose towers have no inner vision_model
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

OPTIONS = {
    "peft-0.13": {"use_rslora": True, "modules_to_save": ["linear_2"], "rank_pattern": {"fc1": 3}},
    "peft-0.21": {"trainable_token_indices": [3, 5], "use_dora": True},
    "transformers-5.24": {"trainable_token_indices": [3, 5], "bias": "lora_only"},
}


def write(name: str) -> None:
    """One adapter, half precision, of a LLaVA of the sizes that tests/conftest.py makes."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, image_size=56, patch_size=14
    )
    language = LlamaConfig(
        hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4, vocab_size=576
    )
    sections = {"vision_config": vision.to_dict(), "text_config": language.to_dict()}
    config = LlavaConfig(**sections, image_token_index=512, tie_word_embeddings=False)
    targets = r".*\.(q_proj|v_proj|fc1|down_proj|linear_1)"
    options = {"r": 2, "lora_alpha": 5, "target_modules": targets, **OPTIONS[name]}
    adapted = get_peft_model(LlavaForConditionalGeneration(config), LoraConfig(**options))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = (parameter + 0.05 * torch.randn(parameter.shape)).half()
    adapted.save_pretrained(Path(__file__).parent / name)


if __name__ == "__main__":
    write(sys.argv[1])

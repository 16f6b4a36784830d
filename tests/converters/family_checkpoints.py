"""Small checkpoints of the newer families as each is published in Hugging Face layout: files, keys, tensors.

Every count is smaller than the published one, and ids follow: what has the id 128257 there has 513 here.
"""

from __future__ import annotations

from pathlib import Path

from checkpoint_layouts import Made, hugging_face
from family_parts import (
    CLIP,
    CLIP_PROCESSOR,
    LLAMA,
    N_TOKENS,
    NEXT_CANVASES,
    NEXT_PROCESSOR,
    QWEN,
    SIGLIP,
    SIGLIP_27,
    SIGLIP_PROCESSOR,
)
from family_tokenizers import (
    BOS,
    END,
    EOM,
    EOT,
    IMAGE_69,
    QWEN_EOS,
    llama_3_tokenizer,
    phi_3_tokenizer,
    qwen_2_tokenizer,
    write_ends,
    yi_tokenizer,
)
from published_templates import INTERLEAVE, JOYCAPTION, ONEVISION
from transformers import LlavaConfig, LlavaNextConfig, LlavaOnevisionConfig


def xtuner_llama_3_transformers(directory: Path, seed: int) -> Made:
    """xtuner/llava-llama-3-8b-v1_1-transformers: the config's end never comes."""
    made = hugging_face(
        directory,
        seed,
        LlavaConfig,
        CLIP,
        LLAMA | {"bos_token_id": BOS, "eos_token_id": END, "max_position_embeddings": 8192},
        {"image_token_index": N_TOKENS + 1, "pad_token_id": N_TOKENS + 2, "image_seq_length": 16},
        llama_3_tokenizer(("<unk>", "<image>", "<pad>"), pad_token="<pad>", unk_token="<unk>"),
        CLIP_PROCESSOR,
    )
    write_ends(directory, END, bos_token_id=BOS)
    return made


def llama_3_next(directory: Path, seed: int) -> Made:
    """llava-hf/llama3-llava-next-8b-hf."""
    made = hugging_face(
        directory,
        seed,
        LlavaNextConfig,
        CLIP,
        LLAMA | {"bos_token_id": BOS, "eos_token_id": EOT, "max_position_embeddings": 8192},
        {
            "image_token_index": N_TOKENS, "image_grid_pinpoints": NEXT_CANVASES, "use_image_newline_parameter": True,
            "image_seq_length": 16,
        },
        llama_3_tokenizer(("<image>", "<pad>"), pad_token="<pad>"),
        NEXT_PROCESSOR,
    )  # fmt: skip
    write_ends(directory, EOT, bos_token_id=BOS)
    return made


def yi_next(directory: Path, seed: int, tokenizer_model: bytes) -> Made:
    """llava-hf/llava-v1.6-34b-hf."""
    made = hugging_face(
        directory,
        seed,
        LlavaNextConfig,
        CLIP,
        LLAMA | {"bos_token_id": 1, "eos_token_id": 7, "pad_token_id": 0, "rope_theta": 5000000.0},
        {"image_token_index": N_TOKENS, "image_grid_pinpoints": NEXT_CANVASES, "image_seq_length": 16},
        yi_tokenizer(tokenizer_model, "<image>"),
        NEXT_PROCESSOR,
    )
    write_ends(directory, 7, bos_token_id=1, pad_token_id=0)
    return made


def phi_3_mini(directory: Path, seed: int, tokenizer_model: bytes) -> Made:
    """xtuner/llava-phi-3-mini-hf: a LLaMA by its config, with a window that means nothing to LLaMA."""
    image = N_TOKENS + 38
    made = hugging_face(
        directory,
        seed,
        LlavaConfig,
        CLIP,
        LLAMA
        | {
            "bos_token_id": 1, "eos_token_id": N_TOKENS, "rope_theta": 10000.0, "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096, "sliding_window": 2047,
        },
        {"image_token_index": image, "pad_token_id": image + 1, "image_seq_length": 16},
        phi_3_tokenizer(tokenizer_model, image),
        CLIP_PROCESSOR,
    )  # fmt: skip
    write_ends(directory, [N_TOKENS, N_TOKENS + 7], bos_token_id=1)
    return made


def interleave(directory: Path, seed: int) -> Made:
    """llava-hf/llava-interleave-qwen-0.5b-hf."""
    made = hugging_face(
        directory,
        seed,
        LlavaConfig,
        SIGLIP,
        QWEN | {"eos_token_id": QWEN_EOS, "num_key_value_heads": 4, "tie_word_embeddings": True},
        {
            "image_token_index": N_TOKENS, "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
            "image_seq_length": 9, "ignore_index": -100, "tie_word_embeddings": True,
        },
        qwen_2_tokenizer(("<image>",)),
        SIGLIP_PROCESSOR,
        chat_template=INTERLEAVE,
    )  # fmt: skip
    write_ends(directory, QWEN_EOS)
    return made


def onevision(directory: Path, seed: int, *, tied: bool = True) -> Made:
    """llava-hf/llava-onevision-qwen2-0.5b-ov-hf (tied) and -7b-ov-hf."""
    canvases = [[48 * n_down, 48 * n_across] for n_down in range(1, 7) for n_across in range(1, 7)]
    made = hugging_face(
        directory,
        seed,
        LlavaOnevisionConfig,
        SIGLIP,
        QWEN | {"tie_word_embeddings": tied, "bos_token_id": 509, "eos_token_id": QWEN_EOS},
        {
            "image_token_index": N_TOKENS, "video_token_index": N_TOKENS + 1, "image_grid_pinpoints": canvases,
            "use_image_newline_parameter": True, "ignore_index": -100,
        },
        qwen_2_tokenizer(("<image>", "<video>")),
        SIGLIP_PROCESSOR
        | {
            "image_processor_type": "LlavaOnevisionImageProcessor", "processor_class": "LlavaOnevisionProcessor",
            "do_pad": True, "image_grid_pinpoints": canvases,
        },
        chat_template=ONEVISION,
    )  # fmt: skip
    write_ends(directory, QWEN_EOS, bos_token_id=509)
    return made


def joycaption(directory: Path, seed: int, system: str = "You are a helpful image captioner.") -> Made:
    """fancyfeast/llama-joycaption-beta-one-hf-llava, and alpha-two with another system text."""
    image = "<|reserved_special_token_69|>"
    template = JOYCAPTION.replace("<image>", image).replace("You are a helpful image captioner.", system)
    scaling = {
        "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 64,
        "rope_type": "llama3",
    }  # fmt: skip
    made = hugging_face(
        directory,
        seed,
        LlavaConfig,
        SIGLIP_27,
        LLAMA
        | {
            "vocab_size": N_TOKENS, "rope_scaling": scaling, "max_position_embeddings": 1024, "bos_token_id": BOS,
            "eos_token_id": [END, EOM, EOT], "pad_token_id": 420,
        },
        {
            "image_token_index": IMAGE_69, "vision_feature_select_strategy": "full", "image_seq_length": 9,
            "vision_feature_layer": -2,
        },
        llama_3_tokenizer(
            version="3.1", chat_template=template, pad_token="<|finetune_right_pad_id|>", eos_token="<|eot_id|>"
        ),
        SIGLIP_PROCESSOR,
        processor_config={
            "image_token": image, "patch_size": 14, "processor_class": "LlavaProcessor",
            "vision_feature_select_strategy": "full", "num_additional_image_tokens": 0,
        },
    )  # fmt: skip
    write_ends(directory, [END, EOM, EOT], bos_token_id=BOS, do_sample=True, temperature=0.6, top_p=0.9)
    return made

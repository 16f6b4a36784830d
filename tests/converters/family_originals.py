"""Small checkpoints of the newer families as each is published in LLaVA's own layout: files, keys, tensors.

Every count is smaller than the published one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from checkpoint_layouts import Made, original
from family_parts import (
    CLIP,
    LLAMA,
    NEXT_CANVASES,
    QWEN,
    SIGLIP_INSIDE,
)
from family_tokenizers import BOS, END, EOT, QWEN_EOS, llama_3_tokenizer, qwen_2_tokenizer, write_ends, yi_tokenizer
from published_templates import NANOLLAVA, QWEN_1_5

_ORIGINAL = {
    "mm_hidden_size": 144, "mm_projector_type": "mlp2x_gelu", "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False, "mm_vision_select_feature": "patch", "mm_vision_select_layer": -2,
    "use_cache": True, "use_mm_proj": True, "torch_dtype": "float16", "transformers_version": "4.40.0",
    "tune_mm_mlp_adapter": False, "freeze_mm_mlp_adapter": False, "tokenizer_model_max_length": 2048,
    "tokenizer_padding_side": "right", "mm_projector_lr": None,
}  # fmt: skip
_NEXT = _ORIGINAL | {
    "image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad", "image_crop_resolution": None,
    "image_split_resolution": None, "mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model",
    "mm_vision_tower_lr": 2e-06, "use_pos_skipping": False, "pos_skipping_range": 4096, "mm_resampler_type": None,
    "vision_tower_pretrained": None, "mm_spatial_pool_stride": None,
}  # fmt: skip
_SIGLIP_NAME, _CLIP_NAME = "google/siglip-so400m-patch14-384", "openai/clip-vit-large-patch14-336"


def xtuner_llama_3_original(directory: Path, seed: int) -> Made:
    """xtuner/llava-llama-3-8b-v1_1-hf, which is LLaVA's own layout."""
    made = original(
        directory,
        seed,
        CLIP,
        LLAMA | {"bos_token_id": BOS, "eos_token_id": END, "max_position_embeddings": 8192},
        _ORIGINAL
        | {
            "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava", "image_aspect_ratio": "pad",
            "mm_hidden_size": 128, "mm_vision_tower": _CLIP_NAME, "unfreeze_mm_vision_tower": True,
        },
        llama_3_tokenizer(),
    )  # fmt: skip
    write_ends(directory, END, bos_token_id=BOS)
    return made


def llama_3_next_original(directory: Path, seed: int) -> Made:
    """lmms-lab/llama3-llava-next-8b: several ends."""
    made = original(
        directory,
        seed,
        CLIP,
        LLAMA | {"bos_token_id": BOS, "eos_token_id": [END, EOT], "max_position_embeddings": 8192},
        _NEXT
        | {
            "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava_llama", "mm_hidden_size": 128,
            "image_grid_pinpoints": [[width, height] for height, width in NEXT_CANVASES],
            "mm_vision_tower": _CLIP_NAME,
        },
        llama_3_tokenizer(),
        has_newline=True,
    )  # fmt: skip
    write_ends(directory, [END, EOT], bos_token_id=BOS)
    return made


def yi_next_original(directory: Path, seed: int, tokenizer_model: bytes) -> Made:
    """liuhaotian/llava-v1.6-34b."""
    made = original(
        directory,
        seed,
        CLIP,
        LLAMA | {"bos_token_id": 1, "eos_token_id": 7, "pad_token_id": 0, "rope_theta": 5000000.0},
        _NEXT
        | {
            "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava", "mm_hidden_size": 128,
            "image_grid_pinpoints": [[width, height] for height, width in NEXT_CANVASES],
            "mm_vision_tower": _CLIP_NAME, "unfreeze_mm_vision_tower": True,
        },
        yi_tokenizer(tokenizer_model),
        has_newline=True,
    )  # fmt: skip
    write_ends(directory, 7, bos_token_id=1, pad_token_id=0)
    return made


def onevision_original(directory: Path, seed: int, model_type: str = "llava", limit: int = 9) -> Made:
    """lmms-lab/llava-onevision-qwen2-0.5b-ov: its code reads neither layer nor feature, and drops rope_scaling."""
    made = original(
        directory,
        seed,
        SIGLIP_INSIDE,
        QWEN | {"tie_word_embeddings": True, "bos_token_id": 509, "eos_token_id": QWEN_EOS},
        _NEXT
        | {
            "architectures": ["LlavaQwenForCausalLM"], "model_type": model_type, "add_faster_video": False,
            "image_aspect_ratio": f"anyres_max_{limit}", "mm_spatial_pool_mode": "bilinear",
            "image_grid_pinpoints": [[42 * across, 42 * down] for across in range(1, 7) for down in range(1, 7)],
            "mm_vision_tower": _SIGLIP_NAME, "rope_scaling": {"type": "linear", "factor": 4.0},
            "mm_newline_position": "grid", "faster_token_stride": 10, "force_sample": False,
        },
        qwen_2_tokenizer(chat_template=QWEN_1_5),
        n_stored_blocks=2,
        has_newline=True,
    )  # fmt: skip
    write_ends(directory, [QWEN_EOS, 509], pad_token_id=509)
    return made


def nanollava(directory: Path, seed: int) -> Made:
    """qnguyen3/nanoLLaVA: the tower inside as a whole, images padded."""
    made = original(
        directory,
        seed,
        SIGLIP_INSIDE,
        QWEN | {"bos_token_id": QWEN_EOS, "eos_token_id": QWEN_EOS, "num_key_value_heads": 4},
        _ORIGINAL
        | {
            "architectures": ["LlavaQwen2ForCausalLM"], "model_type": "llava-qwen2", "image_aspect_ratio": "pad",
            "mm_vision_tower": _SIGLIP_NAME, "unfreeze_mm_vision_tower": True,
            "auto_map": {
                "AutoConfig": "configuration_llava_qwen2.LlavaQwen2Config",
                "AutoModelForCausalLM": "modeling_llava_qwen2.LlavaQwen2ForCausalLM",
            },
        },
        qwen_2_tokenizer(chat_template=NANOLLAVA),
    )  # fmt: skip
    write_ends(directory, QWEN_EOS, bos_token_id=QWEN_EOS)
    return made


def _bunny(model_type: str, architecture: str) -> dict[str, Any]:
    keys = {key: value for key, value in _ORIGINAL.items() if not key.startswith("mm_")}
    return keys | {
        "architectures": [architecture], "model_type": model_type, "mm_hidden_size": 144,
        "mm_projector_type": "mlp2x_gelu", "mm_vision_tower": _SIGLIP_NAME, "image_aspect_ratio": "pad",
        "unfreeze_vision_tower": True, "continuous_training": False, "tune_mm_mlp_adapter": False,
        "auto_map": {
            "AutoConfig": f"configuration_{model_type.replace('-', '_')}.Config",
            "AutoModelForCausalLM": f"modeling_{model_type.replace('-', '_')}.{architecture}",
        },
    }  # fmt: skip


def bunny_llama(directory: Path, seed: int) -> Made:
    """BAAI/Bunny-Llama-3-8B-V."""
    made = original(
        directory,
        seed,
        SIGLIP_INSIDE,
        LLAMA | {"bos_token_id": BOS, "eos_token_id": END},
        _bunny("bunny-llama", "BunnyLlamaForCausalLM"),
        llama_3_tokenizer(),
    )
    write_ends(directory, END, bos_token_id=BOS)
    return made


def bunny_qwen(directory: Path, seed: int) -> Made:
    """Bunny v1.0 on Qwen 1.5, 1.8B."""
    made = original(
        directory,
        seed,
        SIGLIP_INSIDE,
        QWEN | {"bos_token_id": 509, "eos_token_id": 509, "num_key_value_heads": 4},
        _bunny("bunny-qwen", "BunnyQwenForCausalLM"),
        qwen_2_tokenizer(chat_template=QWEN_1_5, eos_token="<|endoftext|>"),
    )
    write_ends(directory, 509, bos_token_id=509)
    return made


def clip_qwen_2(directory: Path, seed: int) -> Made:
    """FreedomIntelligence/HuatuoGPT-Vision-7B and other fine-tunes: a CLIP, and Qwen 2 in LLaVA's layout."""
    made = original(
        directory,
        seed,
        CLIP,
        QWEN | {"bos_token_id": 509, "eos_token_id": QWEN_EOS},
        _ORIGINAL
        | {
            "architectures": ["LlavaQwen2ForCausalLM"], "model_type": "llava_qwen2", "image_aspect_ratio": "pad",
            "mm_hidden_size": 128, "mm_vision_tower": _CLIP_NAME, "unfreeze_mm_vision_tower": True,
        },
        qwen_2_tokenizer(chat_template=QWEN_1_5),
    )  # fmt: skip
    write_ends(directory, [QWEN_EOS, 509])
    return made

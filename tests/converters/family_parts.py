"""Sections of the configs of small LLaVAs, and their image processors, with the keys that published ones have."""

from __future__ import annotations

N_TOKENS, N_ROWS = 512, 576  # of the tokenizers before a LLaVA adds its own, and of the padded embedding

CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 128, "intermediate_size": 160, "num_hidden_layers": 3,
    "num_attention_heads": 2, "image_size": 56, "patch_size": 14, "projection_dim": 64,
}  # fmt: skip
# 48 = 3 * 14 + 6, as 384 = 27 * 14 + 6; heads are 72 wide
SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 144, "intermediate_size": 272, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": 48, "patch_size": 14, "vision_use_head": False,
}  # fmt: skip
SIGLIP_27 = SIGLIP | {"num_hidden_layers": 3}
SIGLIP_INSIDE = SIGLIP_27 | {"image_size": 42}  # sizes of a tower inside are inferred: 3 patches of 14 px
_LANGUAGE = {
    "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": N_ROWS, "hidden_act": "silu", "initializer_range": 0.15,
}  # fmt: skip
LLAMA = _LANGUAGE | {
    "model_type": "llama", "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
}  # fmt: skip
QWEN = _LANGUAGE | {
    "model_type": "qwen2", "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
    "sliding_window": 32768, "use_sliding_window": False, "max_window_layers": 2, "attention_dropout": 0.0,
}  # fmt: skip
CLIP_PROCESSOR = {
    "crop_size": {"height": 56, "width": 56}, "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True,
    "do_rescale": True, "do_resize": True, "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "CLIPImageProcessor", "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3,
    "rescale_factor": 1 / 255, "size": {"shortest_edge": 56},
}  # fmt: skip
SIGLIP_PROCESSOR = {
    "do_convert_rgb": None, "do_normalize": True, "do_rescale": True, "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5], "image_processor_type": "SiglipImageProcessor", "image_std": [0.5, 0.5, 0.5],
    "processor_class": "LlavaProcessor", "resample": 3, "rescale_factor": 1 / 255, "size": {"height": 48, "width": 48},
}  # fmt: skip
NEXT_PROCESSOR = CLIP_PROCESSOR | {"aspect_ratio_setting": "anyres", "image_processor_type": "LlavaNextImageProcessor"}
NEXT_CANVASES = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]  # the published five, in 336

"""The keys of config.json: those that are read, that change nothing, and that run code. All others are refused.

An unknown key may change what the model computes, and the bundle would then compute something else. A key that is null,
false or empty says that something is absent.

Source: the configs that transformers 4.28 to 5.24 and LLaVA's own code write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edge_llava.converters.json_file import plain, shown


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Written into every config: provenance, precision of the file, training, generation, labels. No forward pass reads one.
_BOOKKEEPING = _words(
    """
    architectures model_type transformers_version torch_dtype dtype auto_map use_bfloat16 tf_legacy_loss torchscript
    return_dict use_return_dict output_attentions output_hidden_states use_cache keys_to_ignore_at_inference
    initializer_range initializer_factor attention_dropout dropout hidden_dropout attn_pdrop embd_pdrop resid_pdrop
    gradient_checkpointing chunk_size_feed_forward is_decoder is_encoder_decoder tie_encoder_decoder
    cross_attention_hidden_size
    bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id forced_bos_token_id forced_eos_token_id
    max_length min_length max_new_tokens do_sample early_stopping num_beams num_beam_groups diversity_penalty
    temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores return_dict_in_generate
    remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
    id2label label2id finetuning_task task_specific_params problem_type prefix tokenizer_class processor_class
    model_max_length tokenizer_model_max_length tokenizer_padding_side name_or_path unsloth_version unsloth_fixed
    """
)
# Keys that transformers uses, or that other model types have: harmless only at their neutral values.
_NEUTRAL: Mapping[str, Any] = {
    "partial_rotary_factor": 1, "logit_scale": 1, "logits_scaling": 1, "residual_multiplier": 1,
    "embedding_multiplier": 1, "num_local_experts": 0, "num_experts": 0, "is_causal": True, "use_rope": True,
}  # fmt: skip
# `original_max_position_embeddings` counts for longrope, which is refused; a Phi-3 that became a LLaMA keeps it.
_LANGUAGE = _words(
    """
    hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim vocab_size
    max_position_embeddings max_sequence_length rms_norm_eps hidden_act attention_bias mlp_bias tie_word_embeddings
    rope_theta rope_scaling rope_parameters sliding_window use_sliding_window layer_types pretraining_tp
    max_window_layers original_max_position_embeddings
    """
)
_TOWER = _words(
    """
    hidden_size intermediate_size num_hidden_layers num_attention_heads num_channels image_size patch_size hidden_act
    layer_norm_eps projection_dim vocab_size tie_word_embeddings vision_use_head
    """
)
# The outer config of the Hugging Face layout. LlavaConfig takes sizes from its sections, not from here.
_HF = _words(
    """
    text_config vision_config image_token_index image_token_id image_seq_length ignore_index vision_feature_layer
    vision_feature_select_strategy projector_hidden_act multimodal_projector_bias image_grid_pinpoints
    use_image_newline_parameter tie_word_embeddings vocab_size hidden_size vision_aspect_ratio
    video_token_index video_token_id
    """
)
# LLaVA's own keys. Positions are skipped in training only; the pooling and newline keys are for videos.
_ORIGINAL = _words(
    """
    mm_vision_tower mm_hidden_size mm_projector_type mm_vision_select_layer mm_vision_select_feature
    mm_use_im_start_end mm_use_im_patch_token mm_patch_merge_type mm_projector_lr mm_vision_tower_lr mm_tunable_parts
    image_aspect_ratio image_grid_pinpoints image_crop_resolution image_split_resolution s2
    freeze_mm_mlp_adapter tune_mm_mlp_adapter freeze_mm_vision_resampler tune_mm_vision_resampler
    unfreeze_mm_vision_tower pretrain_mm_mlp_adapter use_mm_proj
    use_pos_skipping pos_skipping_range faster_token_stride mm_newline_position
    mm_spatial_pool_mode mm_spatial_pool_stride mm_spatial_pool_out_channels
    use_sliding_window add_faster_video add_time_instruction force_sample vision_tower_pretrained
    tune_entire_model unfreeze_vision_tower continuous_training use_s2
    """
)
# of xtuner's ProjectorConfig
_PROJECTOR = _words("visual_hidden_size llm_hidden_size depth hidden_act bias")
_CLIP = _words("text_config vision_config text_config_dict vision_config_dict logit_scale_init_value")
KNOWN_KEYS: Mapping[str, frozenset[str]] = {
    "language": _BOOKKEEPING | _LANGUAGE,
    "tower": _BOOKKEEPING | _TOWER,
    "hf": _BOOKKEEPING | _HF,
    "original": _BOOKKEEPING | _LANGUAGE | _ORIGINAL,
    "clip": _BOOKKEEPING | _CLIP | _TOWER,
    "projector": _BOOKKEEPING | _PROJECTOR,
}
# How people call what `quant_method` names; the others are called as they are.
_QUANTIZERS = {"gptq": "GPTQ", "awq": "AWQ", "aqlm": "AQLM", "hqq": "HQQ", "fp8": "FP8"}
# transformers loads code from the hub for these: `_attn_implementation: "owner/name"` imports a kernel (CVE-2026-4372).
_CODE_KEYS = frozenset({"attn_implementation", "experts_implementation", "kernels", "use_kernels", "kernel_config"})
# LLaVA's own configs request flash attention without the underscore; training and conversion set their own.
_BUILTIN_ATTENTION = ("eager", "sdpa")
_STATED_ATTENTION = (*_BUILTIN_ATTENTION, "flash_attention_2", "flex_attention")
_HARMLESS_PRIVATE = frozenset(
    {"_name_or_path", "_commit_hash", "_attn_implementation_autoset", "_flash_attn_2_enabled", "_diffusers_version"}
)


def find_unknown_keys(section: Mapping[str, Any], kind: str, prefix: str = "") -> list[str]:
    """Lists keys that nothing here reads and that may change what the model computes.

    Args:
        section: The config, or a section of it.
        kind: One of KNOWN_KEYS.
        prefix: The section's place, for messages: "text_config.".
    """
    faults = []
    for key, value in section.items():
        if key in KNOWN_KEYS[kind] or key.startswith("_") or key in _CODE_KEYS or _says_no(key, value):
            continue
        if "quantization" in key or "compression" in key:
            why = f"{_quantized(value)} cannot be converted; convert the original checkpoint"
        elif key in _NEUTRAL:
            why = f"expected {_NEUTRAL[key]}"
        else:
            why = "this key is not known here and may change what the model computes"
        faults.append(f"{prefix}{plain(key)} is {shown(value)}: {why}")
    return faults


def _quantized(value: Any) -> str:
    section = value if isinstance(value, dict) else {}
    method = section.get("quant_method")
    if method is None and any(section.get(f"load_in_{bits}bit") for bits in (4, 8)):  # older versions of transformers
        method = "bitsandbytes"
    if not isinstance(method, str):
        return "quantized checkpoints"
    return f"checkpoints quantized by {_QUANTIZERS.get(method.lower(), plain(method))}"


def find_code_keys(config: Mapping[str, Any]) -> list[str]:
    """Lists keys, at any depth, that make transformers fetch or run code, and private keys that no program writes."""
    return [
        f"{plain(place)} is {shown(value)}: a config must not choose the code that runs"
        for place, key, value in _walk(config)
        if value is not None and value is not False and _runs_code(key, value)
    ]


def _runs_code(key: str, value: Any) -> bool:
    if key == "attn_implementation":
        return value not in _STATED_ATTENTION
    if key in ("_attn_implementation", "_attn_implementation_internal"):
        return value not in _BUILTIN_ATTENTION
    return key in _CODE_KEYS or (key.startswith("_") and key not in _HARMLESS_PRIVATE)


def _walk(config: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yields place, key and value of every entry, without recursion, since an untrusted file decides how deep it is."""
    waiting: list[tuple[str, Any]] = [("", config)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                name = f"{place}.{key}".lstrip(".")[:200]
                yield name, key, inner
                waiting.append((name, inner))
        elif isinstance(value, list):
            waiting += [(place, inner) for inner in value if isinstance(inner, (dict, list))]


def _says_no(key: str, value: Any) -> bool:
    if value is None or value in ([], {}, ""):
        return True
    neutral = _NEUTRAL.get(key, False)
    is_alike = isinstance(value, (bool, int, float)) and isinstance(value, bool) == isinstance(neutral, bool)
    return is_alike and value == neutral

"""Maps between the names of tensors in checkpoints, our own names, and GGUF's.

Our names say which part a tensor belongs to:
    vision.<CLIPVisionModel name>      vision.encoder.layers.0.mlp.fc1.weight
    projector.<0|2>.<weight|bias>      as in LLaVA's mm_projector; layer 1 is the activation, 0 alone is linear
    projector.image_newline            the row that ends each row of patches in LLaVA-1.6
    language.<LlamaModel name>         language.layers.0.self_attn.q_proj.weight, language.lm_head.weight
"""

from __future__ import annotations

# First match wins. Old and new HF prefixes: transformers renamed them in 4.52; hub files carry the old ones.
# Version 5.6 removed the inner `vision_model`.
_HF_PREFIXES = (
    ("language_model.model.", "language."),
    ("language_model.lm_head.", "language.lm_head."),
    ("model.language_model.", "language."),
    ("lm_head.", "language.lm_head."),
    ("vision_tower.vision_model.", "vision."),
    ("model.vision_tower.vision_model.", "vision."),
    ("vision_tower.", "vision."),
    ("model.vision_tower.", "vision."),
    ("multi_modal_projector.linear_1.", "projector.0."),
    ("multi_modal_projector.linear_2.", "projector.2."),
    ("model.multi_modal_projector.linear_1.", "projector.0."),
    ("model.multi_modal_projector.linear_2.", "projector.2."),
    ("image_newline", "projector.image_newline"),
    ("model.image_newline", "projector.image_newline"),
)
_LANGUAGE_PREFIXES = (
    ("model.embed_tokens.", "language.embed_tokens."),
    ("model.layers.", "language.layers."),
    ("model.norm.", "language.norm."),
    ("lm_head.", "language.lm_head."),
)
_ORIGINAL_PREFIXES = (
    ("model.mm_projector.weight", "projector.0.weight"),  # linear: the only layer has no number
    ("model.mm_projector.bias", "projector.0.bias"),
    ("model.mm_projector.", "projector."),
    ("model.image_newline", "projector.image_newline"),
    ("model.vision_tower.vision_tower.vision_model.", "vision."),
    ("model.vision_tower.vision_tower.", "vision."),
    *_LANGUAGE_PREFIXES,
)
_CLIP_PREFIXES = (
    ("vision_model.", "vision."),
    ("embeddings.", "vision.embeddings."),
    ("pre_layrnorm.", "vision.pre_layrnorm."),
    ("encoder.", "vision.encoder."),
    ("post_layernorm.", "vision.post_layernorm."),
    ("head.", "vision.head."),
)
PREFIXES = {
    "hf": _HF_PREFIXES,
    "original": _ORIGINAL_PREFIXES,
    "clip": _CLIP_PREFIXES,
    "language": _LANGUAGE_PREFIXES,
    "projector": (("model.", "projector."),),  # xtuner's, whose layers are counted as LLaVA's are
}

# Buffers in older files, which are computed from the config.
_BUFFER_SUFFIXES = (".rotary_emb.inv_freq", "embeddings.position_ids")
# The parts of a whole CLIP or SigLIP that compare images with texts.
_UNUSED_PREFIXES = ("text_model.", "text_projection.", "visual_projection.", "logit_scale", "logit_bias")
# Wrappers that programs add around a module: torch.compile, DistributedDataParallel, FSDP, checkpointing, peft.
_WRAPPERS = frozenset({"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer"})
_PEFT_PREFIX = "base_model.model."
_ADAPTER_PARTS = ("lora_", "modules_to_save", "original_module")

_GGUF_TOP = {
    "embed_tokens.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_GGUF_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def own_name(source_name: str, layout: str) -> str | None:
    """Returns our name for a checkpoint's tensor, or None if it is not part of the deployed model.

    Args:
        source_name: The name in the checkpoint.
        layout: "hf", "original", or that of a part on its own: "clip" (a tower), "language" or "projector".
    """
    if source_name.endswith(_BUFFER_SUFFIXES):
        return None
    for prefix, ours in PREFIXES[layout]:
        if source_name.startswith(prefix):
            return ours + source_name[len(prefix) :]
    return None


def is_unused(source_name: str) -> bool:
    """Whether no LLaVA uses a tensor: buffers computed from the config, and the text half of a whole CLIP or SigLIP."""
    return source_name.endswith(_BUFFER_SUFFIXES) or source_name.startswith(_UNUSED_PREFIXES)


def unwrap_name(source_name: str) -> str:
    """Removes the wrappers from a tensor's name that the saving program added around the model and its modules."""
    name = ".".join(part for part in source_name.split(".") if part not in _WRAPPERS)
    while name.startswith(_PEFT_PREFIX):
        name = name[len(_PEFT_PREFIX) :]
    return name


def is_of_adapter(source_name: str) -> bool:
    """Whether peft stores trained values under this name, next to the layer that they belong to."""
    return any(part.startswith(_ADAPTER_PARTS) for part in source_name.split("."))


def gguf_name(name: str) -> str:
    """Returns the GGUF name of one of our "language." tensors."""
    part = name.removeprefix("language.")
    if part in _GGUF_TOP:
        return _GGUF_TOP[part]
    _, layer, rest = part.split(".", 2)
    module, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{_GGUF_BLOCK[module]}.{kind}"

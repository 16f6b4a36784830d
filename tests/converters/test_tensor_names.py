"""Names of checkpoints, our own, and GGUF's."""

from __future__ import annotations

import pytest

from edge_llava.converters.tensor_names import gguf_name, own_name

pytestmark = pytest.mark.convert

ATTENTION = "layers.11.self_attn.k_proj.weight"


@pytest.mark.parametrize(
    ("layout", "source", "expected"),
    [
        ("hf", f"language_model.model.{ATTENTION}", f"language.{ATTENTION}"),
        ("hf", f"model.language_model.{ATTENTION}", f"language.{ATTENTION}"),
        ("hf", "language_model.model.embed_tokens.weight", "language.embed_tokens.weight"),
        ("hf", "model.language_model.norm.weight", "language.norm.weight"),
        ("hf", "language_model.lm_head.weight", "language.lm_head.weight"),
        ("hf", "lm_head.weight", "language.lm_head.weight"),
        ("hf", "vision_tower.vision_model.pre_layrnorm.bias", "vision.pre_layrnorm.bias"),
        ("hf", "model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias", "vision.encoder.layers.0.mlp.fc1.bias"),
        ("hf", "multi_modal_projector.linear_1.weight", "projector.0.weight"),
        ("hf", "image_newline", "projector.image_newline"),
        ("hf", "model.image_newline", "projector.image_newline"),
        ("original", "model.image_newline", "projector.image_newline"),
        ("original", "model.mm_projector.weight", "projector.0.weight"),
        ("original", "model.mm_projector.bias", "projector.0.bias"),
        ("original", "model.mm_projector.2.bias", "projector.2.bias"),
        ("hf", "multi_modal_projector.linear_2.bias", "projector.2.bias"),
        ("hf", "model.multi_modal_projector.linear_1.bias", "projector.0.bias"),
        ("hf", "model.multi_modal_projector.linear_2.weight", "projector.2.weight"),
        ("original", f"model.{ATTENTION}", f"language.{ATTENTION}"),
        ("original", "model.embed_tokens.weight", "language.embed_tokens.weight"),
        ("original", "model.norm.weight", "language.norm.weight"),
        ("original", "lm_head.weight", "language.lm_head.weight"),
        ("original", "model.mm_projector.0.weight", "projector.0.weight"),
        (
            "original",
            "model.vision_tower.vision_tower.vision_model.embeddings.class_embedding",
            "vision.embeddings.class_embedding",
        ),
        ("clip", "vision_model.encoder.layers.3.layer_norm2.weight", "vision.encoder.layers.3.layer_norm2.weight"),
    ],
)
def test_every_layout_leads_to_our_names(layout, source, expected):
    assert own_name(source, layout) == expected


@pytest.mark.parametrize(
    ("layout", "source"),
    [
        ("hf", "language_model.model.layers.0.self_attn.rotary_emb.inv_freq"),
        ("original", "model.layers.31.self_attn.rotary_emb.inv_freq"),
        ("hf", "vision_tower.vision_model.embeddings.position_ids"),
        ("original", "model.vision_tower.vision_tower.vision_model.embeddings.position_ids"),
        ("clip", "vision_model.embeddings.position_ids"),
        ("clip", "text_model.encoder.layers.0.mlp.fc1.weight"),
        ("clip", "visual_projection.weight"),
        ("clip", "logit_scale"),
        ("original", "language_model.model.norm.weight"),
        ("hf", "model.layers.0.mlp.up_proj.weight"),
    ],
)
def test_buffers_and_foreign_tensors_are_ignored(layout, source):
    assert own_name(source, layout) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("language.embed_tokens.weight", "token_embd.weight"),
        ("language.norm.weight", "output_norm.weight"),
        ("language.lm_head.weight", "output.weight"),
        ("language.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight"),
        ("language.layers.10.self_attn.q_proj.weight", "blk.10.attn_q.weight"),
        ("language.layers.10.self_attn.k_proj.weight", "blk.10.attn_k.weight"),
        ("language.layers.10.self_attn.v_proj.weight", "blk.10.attn_v.weight"),
        ("language.layers.10.self_attn.o_proj.weight", "blk.10.attn_output.weight"),
        ("language.layers.31.post_attention_layernorm.weight", "blk.31.ffn_norm.weight"),
        ("language.layers.31.mlp.gate_proj.weight", "blk.31.ffn_gate.weight"),
        ("language.layers.31.mlp.up_proj.weight", "blk.31.ffn_up.weight"),
        ("language.layers.31.mlp.down_proj.weight", "blk.31.ffn_down.weight"),
    ],
)
def test_gguf_names(name, expected):
    assert gguf_name(name) == expected

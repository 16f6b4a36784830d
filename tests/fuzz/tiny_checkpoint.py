"""Tiny checkpoints in three layouts, and one with a Qwen2, for the kinds that the converters read. Needs torch."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from edge_llava.converters.bundle_specs import describe_language
from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.decoders import QWEN2
from edge_llava.converters.language_gguf import write_language
from edge_llava.converters.model_configs import LanguageConfig, TowerConfig
from edge_llava.converters.projector_gguf import write_projector
from edge_llava.converters.quantize import Encoder
from edge_llava.converters.reference_tower import reference_features
from edge_llava.converters.template_choice import checkpoint_template
from edge_llava.home.progress import silent
from edge_llava.runtime.language.decoder import Decoder
from edge_llava.runtime.options import DecoderOptions

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import seeded_checkpoint

_TEXT = "USER: caf\u00e9 \U0001f600\n</s> ASSISTANT: <image><unk>"
ADAPTERS = Path(__file__).parents[1] / "data" / "adapters"
# The sizes of the adapters in tests/data.
_TOWER = TowerConfig(64, 128, 3, 4, image_size=56, patch_size=14, layer_norm_eps=1e-5, hidden_act="quick_gelu")
_LANGUAGE = LanguageConfig(
    n_embd=64, n_ff=160, n_layer=2, n_head=4, n_head_kv=4, head_dim=16, n_rows=576, n_ctx_train=512,
    rms_eps=1e-5, rope_theta=10000.0, rope_factor=None, tied=False,
)  # fmt: skip
_PREPROCESSOR = {"do_pad": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 3}
_TO_ORIGINAL = (
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("multi_modal_projector.linear_1.", "model.mm_projector.0."),
    ("multi_modal_projector.linear_2.", "model.mm_projector.2."),
    ("vision_tower.", "model.vision_tower.vision_tower."),
)


def config(layout: str) -> dict[str, Any]:
    """The config.json of "hf" (1.5), "next" (1.6), "original" or "qwen2" (1.5 with another language model)."""
    hf = seeded_checkpoint.hf_config(_TOWER, _language(layout))
    hf |= {"image_token_index": 512, "tie_word_embeddings": False}
    if layout in ("hf", "qwen2"):
        return hf
    if layout == "next":
        pinpoints = {"image_grid_pinpoints": [[56, 112], [112, 56]], "use_image_newline_parameter": True}
        return hf | pinpoints | {"architectures": ["LlavaNextForConditionalGeneration"], "model_type": "llava_next"}
    language = dict(hf["text_config"])  # type: ignore[call-overload]
    return language | {
        "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava_llama", "mm_hidden_size": 64,
        "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
        "image_aspect_ratio": "pad", "mm_use_im_start_end": False, "mm_vision_tower": "openai/clip",
        "use_mm_proj": True, "tie_word_embeddings": False,
    }  # fmt: skip


def _language(layout: str) -> LanguageConfig:
    return dataclasses.replace(_LANGUAGE, dialect=QWEN2) if layout == "qwen2" else _LANGUAGE


def write(directory: Path, layout: str) -> Path:
    """A whole checkpoint in half precision, its weights by seed."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config(layout)))
    (directory / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSOR))
    (directory / "tokenizer.model").write_bytes(seeded_checkpoint._train_tokenizer())
    (directory / "added_tokens.json").write_text(json.dumps({"<image>": 512, "<pad>": 513}))
    save_file(weights(layout), directory / "model.safetensors", {"format": "pt"})
    return directory


def weights(layout: str) -> dict[str, torch.Tensor]:
    """The tensors of a layout by the names of its files."""
    random = torch.Generator().manual_seed(1)
    shapes = seeded_checkpoint._all_shapes(_TOWER, _language(layout))
    tensors = {
        seeded_checkpoint.hf_name(name): seeded_checkpoint.random_tensor(random, name, shape)
        for name, shape in shapes.items()
    }
    if layout == "next":
        tensors["image_newline"] = torch.ones(_LANGUAGE.n_embd, dtype=torch.float16)
    if layout == "original":
        return {_original_name(name): tensor for name, tensor in tensors.items()}
    return tensors


def use(directory: Path, base: Path | None = None) -> Checkpoint:
    """Opens a checkpoint, and reads every weight for the deployed parts as a conversion does."""
    checkpoint = Checkpoint.open(str(directory), base=None if base is None else str(base))
    reference_features(checkpoint, [])
    encoder = Encoder(1)
    try:
        write_projector(checkpoint, directory / "projector.gguf", "F32", encoder, silent)
        write_language(checkpoint, directory / "language.gguf", "F32", encoder, silent)
    finally:
        encoder.close()
    return checkpoint


def tokenize(checkpoint: Path) -> Checkpoint:
    """Converts the language model and tokenizes a text with it: the runtime must not refuse what is converted."""
    opened = use(checkpoint)
    spec = describe_language(opened, "F32", checkpoint_template(opened, "llava_v1"))
    decoder = Decoder(checkpoint / "language.gguf", spec, DecoderOptions(n_ctx=64, n_threads=1))
    try:
        decoder.tokenize(_TEXT, add_bos=True)
        for token in range(spec.n_vocab):
            decoder.piece(token), decoder.is_end(token)
    finally:
        decoder.close()
    return opened


def write_files(directory: Path, content: bytes, first: str) -> None:
    """Writes a JSON object of files into a directory; what is no such object becomes the first file's content.

    Args:
        directory: Where to.
        content: {"config.json": {...}, ...}, perhaps damaged.
        first: Name of the most important file.
    """
    try:
        files = json.loads(content)
    except (ValueError, RecursionError):
        files = None
    if not isinstance(files, dict):
        (directory / first).write_bytes(content)
        return
    for name in FILES:
        (directory / name).unlink(missing_ok=True)
        if name in files:
            (directory / name).write_text(json.dumps(files[name]), encoding="utf-8")


FILES = (
    "config.json", "preprocessor_config.json", "processor_config.json", "generation_config.json", "tokenizer.json",
    "added_tokens.json", "tokenizer_config.json", "special_tokens_map.json", "adapter_config.json",
)  # fmt: skip


def _original_name(name: str) -> str:
    for old, new in _TO_ORIGINAL:
        if name.startswith(old):
            return new + name[len(old) :]
    return name

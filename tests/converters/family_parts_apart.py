"""Small checkpoints as xtuner saves them: the language model on top, tower and projector in their directories."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from checkpoint_layouts import Made, model_of, write_json
from family_parts import CLIP, CLIP_PROCESSOR, LLAMA, N_ROWS, N_TOKENS
from family_tokenizers import BOS, END, Write, llama_3_tokenizer, vicuna_tokenizer, write_ends
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlavaConfig

_LINEARS = {
    "language": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "tower": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
}
_CODE = "raise SystemExit('code of a checkpoint was run')\n"
_CONFIG = """
import does_not_exist
raise SystemExit('the config was run')
llm_name_or_path = 'meta-llama/Meta-Llama-3-8B-Instruct'
visual_encoder_name_or_path = 'openai/clip-vit-large-patch14-336'
prompt_template = PROMPT_TEMPLATE.{template}
max_length = int(4096 - (336 / 14)**2)
model = dict(
    type=LLaVAModel,
    freeze_llm={freeze},
    llm=dict(type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path=llm_name_or_path),
    visual_encoder=dict(
        type=CLIPVisionModel.from_pretrained, pretrained_model_name_or_path=visual_encoder_name_or_path))
"""


def apart(
    directory: Path,
    seed: int,
    write_tokenizer: Write,
    language: str = "whole",
    tower: str = "whole",
    template: str = "llama3_chat",
    sections: tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]] = (CLIP, LLAMA, CLIP_PROCESSOR),
    **keys: Any,
) -> Made:
    """Writes a checkpoint as xtuner's pth_to_hf does.

    Args:
        directory: Created. What was not trained is DIRECTORY-language and DIRECTORY-tower, the twin DIRECTORY-twin.
        seed: Of the weights.
        write_tokenizer: Writes the tokenizer's files.
        language, tower: How they were trained: "whole", "adapter" or "frozen".
        template: In xtuner_config.py.
        sections: Of the tower, of the language model, and the tower's image processor.
        keys: Of the language model's config.
    """
    twin, bases = directory.with_name(f"{directory.name}-twin"), {"language": language, "tower": tower}
    tower_keys, language_keys, processor = sections
    n_rows = {"vocab_size": N_ROWS}
    image_token = {"image_token_index": N_TOKENS, "pad_token_id": N_TOKENS + 1}
    drops = "default" if tower_keys["model_type"].startswith("clip") else "full"
    tap = {"vision_feature_layer": -2, "vision_feature_select_strategy": drops}
    model = model_of(LlavaConfig, seed, tower_keys, {**language_keys, **keys, **n_rows}, image_token | tap)
    directory.mkdir()
    models = {"language": _language(model), "tower": model.model.vision_tower}
    names = {"language": ("", "llm_adapter"), "tower": ("visual_encoder", "visual_encoder_adapter")}
    options = {}
    for part, trained in bases.items():
        whole = directory / names[part][0]
        if trained != "whole":
            whole = directory.with_name(f"{directory.name}-{part}")
            options["base" if part == "language" else "vision_tower"] = str(whole)
        models[part].save_pretrained(whole)
        (whole / "generation_config.json").unlink(missing_ok=True)
        if part == "language":
            write_tokenizer(whole)
        else:
            write_json(whole / "preprocessor_config.json", processor)
        if trained == "adapter":
            _adapt(models[part], _LINEARS[part], directory / names[part][1])
    _write_projector(directory / "projector", model.model.multi_modal_projector)
    config = _CONFIG.format(template=template, freeze=language != "whole")
    (directory / "xtuner_config.py").write_text(config)
    model.save_pretrained(twin)
    write_tokenizer(twin)
    return Made(directory, twin, options)


def _language(model: Any) -> Any:
    """A language model on its own with the layers of a LLaVA, without the rows that xtuner does not add."""
    config = type(model.config.text_config)(**{**model.config.text_config.to_dict(), "vocab_size": N_TOKENS})
    causal, core = AutoModelForCausalLM.from_config(config), model.model.language_model
    with torch.no_grad():
        causal.model.embed_tokens.weight.copy_(core.embed_tokens.weight[:N_TOKENS])
        causal.lm_head.weight.copy_(model.lm_head.weight[:N_TOKENS])
    causal.model.layers, causal.model.norm = core.layers, core.norm
    return causal


def _adapt(model: Any, modules: Sequence[str], directory: Path) -> None:
    """Saves an adapter as if it were trained, and merges it into the model."""
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=list(modules)))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape)
    adapted.save_pretrained(directory)
    adapted.merge_and_unload()


def _write_projector(directory: Path, projector: Any) -> None:
    directory.mkdir()
    layers = {"model.0": projector.linear_1, "model.2": projector.linear_2}
    tensors = {f"{name}.{part}": getattr(layer, part).data for name, layer in layers.items() for part in _PARTS}
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    write_json(
        directory / "config.json",
        {
            "architectures": ["ProjectorModel"], "model_type": "projector", "depth": 2, "hidden_act": "gelu",
            "auto_map": {
                "AutoConfig": "configuration_projector.ProjectorConfig",
                "AutoModel": "modeling_projector.ProjectorModel",
            },
            "visual_hidden_size": projector.linear_1.in_features, "llm_hidden_size": projector.linear_1.out_features,
            "bias": True, "torch_dtype": "float16", "transformers_version": "4.40.1",
        },
    )  # fmt: skip
    for name in ("configuration_projector.py", "modeling_projector.py"):
        (directory / name).write_text(_CODE)


_PARTS = ("weight", "bias")


def llama_3(directory: Path, seed: int, language: str = "whole", tower: str = "whole") -> Made:
    """xtuner/llava-llama-3-8b-v1_1, and what the same training saves with adapters."""
    keys = {"bos_token_id": BOS, "eos_token_id": END, "max_position_embeddings": 8192}
    return apart(directory, seed, _with_ends(llama_3_tokenizer(), END, BOS), language, tower, **keys)


def vicuna(directory: Path, seed: int, tokenizer_model: bytes) -> Made:
    """A QLoRA of Vicuna 1.5, its tower frozen."""
    keys = {"bos_token_id": 1, "eos_token_id": 2, "rope_theta": 10000.0}
    write = _with_ends(vicuna_tokenizer(tokenizer_model), 2, 1)
    return apart(directory, seed, write, "adapter", "frozen", "vicuna", **keys)


def _with_ends(write: Write, eos: int, bos: int) -> Callable[[Path], None]:
    def write_both(directory: Path) -> None:
        write(directory)
        write_ends(directory, eos, bos_token_id=bos)

    return write_both

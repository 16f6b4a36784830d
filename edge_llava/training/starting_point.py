"""What training starts from: a LLaVA in Hugging Face layout, or a separate CLIP tower and LLaMA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    AddedToken,
    AutoTokenizer,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerBase,
)
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from edge_llava.converters.checkpoint_config import read_checkpoint_config, read_language_config, read_tower_config
from edge_llava.converters.json_file import shorten
from edge_llava.converters.model_configs import LanguageConfig, TowerConfig
from edge_llava.converters.tensor_names import is_unused
from edge_llava.converters.towers import CLIP
from edge_llava.errors import CheckpointError, list_faults
from edge_llava.training.llava import LinearProjector, Llava, Preprocessing, ProjectorKind
from edge_llava.training.samples import SpecialTokens

IMAGE_TOKEN, PAD_TOKEN = "<image>", "<pad>"
# Always named: a checkpoint's config may name a hub repository instead, whose code transformers would load.
_ATTENTION = "sdpa"
_ROW_MULTIPLE = 64  # embedding rows are a multiple of it, as in llava-hf files


def open_llava(directory: Path) -> Llava:
    """Opens a LLaVA in Hugging Face layout, in float32.

    Raises:
        CheckpointError: If it is not a LLaVA, is damaged, or belongs to a family that cannot be trained here.
    """
    config = read_checkpoint_config(directory)
    if config.layout != "hf":
        raise CheckpointError(f"{directory} is in LLaVA's original layout; training starts from Hugging Face layout.")
    if config.aspect == "anyres":
        raise CheckpointError(f"{directory} is LLaVA-1.6; training starts from LLaVA-1.5 (one square per image).")
    _refuse_other_towers(config.tower, directory)
    with _as_checkpoint_error(directory):
        known = _configured(LlavaConfig, directory, config.language)
        model = _load(LlavaForConditionalGeneration, directory, config=known)
        tokenizer = _open_tokenizer(directory)
    size = model.config.vision_config.image_size
    preprocessing = Preprocessing(size, config.image_mean, config.image_std, config.aspect)
    return Llava(model, tokenizer, _special_tokens(model.config, tokenizer, directory), preprocessing)


def _refuse_other_towers(tower: TowerConfig | None, directory: Path) -> None:
    if tower is not None and tower.kind != CLIP:
        raise CheckpointError(f"{directory} has a {tower.kind.name} tower; training starts from a CLIP.")


def join(tower: Path, language: Path, projector: ProjectorKind, seed: int) -> Llava:
    """Joins a CLIP tower and a LLaMA with a new projector.

    Args:
        tower: Directory of a CLIPModel or CLIPVisionModel.
        language: Directory of a LlamaForCausalLM with its tokenizer.
        projector: Kind of the projector, whose random weights depend on the seed.
        seed: Any integer.

    Raises:
        CheckpointError: If one of them is not what it should be.
    """
    _refuse_other_towers(read_tower_config(tower), tower)
    described = read_language_config(language)
    with _as_checkpoint_error(tower):
        clip = _load(CLIPVisionModel, tower)
    with _as_checkpoint_error(language):
        llama = _load(LlamaForCausalLM, language, config=_configured(LlamaConfig, language, described))
        tokenizer = _open_tokenizer(language)
    tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True)
    tokenizer.add_special_tokens({"pad_token": AddedToken(PAD_TOKEN, special=True, normalized=False)})
    _add_rows(llama, len(tokenizer))
    config = LlavaConfig(
        vision_config=clip.config.to_dict(),
        text_config=llama.config.to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        pad_token_id=tokenizer.pad_token_id,
        image_seq_length=(clip.config.image_size // clip.config.patch_size) ** 2,
        tie_word_embeddings=llama.config.tie_word_embeddings,
        attn_implementation=_ATTENTION,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(clip.state_dict())
    model.model.language_model.load_state_dict(llama.model.state_dict())
    model.lm_head.load_state_dict(llama.lm_head.state_dict())
    if projector == "linear":
        model.model.multi_modal_projector = LinearProjector(clip.config.hidden_size, llama.config.hidden_size)
    preprocessing = Preprocessing(clip.config.image_size, tuple(OPENAI_CLIP_MEAN), tuple(OPENAI_CLIP_STD), aspect="pad")
    return Llava(model, tokenizer, _special_tokens(config, tokenizer, language), preprocessing)


def _configured(kind: Any, directory: Path, language: LanguageConfig) -> Any:
    """Reads a config with the file's rotary positions: transformers 4 ignores rope_parameters, which 5 writes."""
    config = kind.from_pretrained(directory, local_files_only=True)
    if int(transformers.__version__.partition(".")[0]) < 5:
        text = getattr(config, "text_config", config)
        text.rope_theta, text.rope_scaling = language.rope.theta, language.rope.to_rope_scaling()
    return config


def _load(kind: Any, directory: Path, config: Any = None) -> Any:
    """Loads a model in float32 with all weights of its files, none missing and none left over.

    Raises:
        CheckpointError: If files and model differ in their tensors, which transformers would initialize or ignore.
    """
    model, report = kind.from_pretrained(
        directory,
        config=config,
        dtype=torch.float32,
        attn_implementation=_ATTENTION,
        local_files_only=True,
        output_loading_info=True,
    )
    faults = [f"{name} is missing" for name in sorted(report["missing_keys"]) if "post_layernorm" not in name]
    faults += [f"{name} is not part of the model" for name in sorted(report["unexpected_keys"]) if not is_unused(name)]
    if faults:
        raise CheckpointError(list_faults(f"{directory} cannot be opened for training:", shorten(faults)))
    return model


def _add_rows(llama: LlamaForCausalLM, n_tokens: int) -> None:
    """Adds rows for new tokens: the mean of the others, as in LLaVA."""
    n_old = llama.get_input_embeddings().num_embeddings
    llama.resize_token_embeddings(n_tokens, pad_to_multiple_of=_ROW_MULTIPLE, mean_resizing=False)
    with torch.no_grad():
        for weight in (llama.get_input_embeddings().weight, llama.lm_head.weight):
            weight[n_old:] = weight[:n_old].mean(dim=0)


def _open_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Loads LLaMA's slow, legacy tokenizer, with which LLaVA was trained and with which llama.cpp agrees."""
    if (directory / "tokenizer.model").is_file():
        return LlamaTokenizer.from_pretrained(directory, legacy=True, local_files_only=True)
    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


def _special_tokens(config: LlavaConfig, tokenizer: PreTrainedTokenizerBase, directory: Path) -> SpecialTokens:
    ids = {
        "bos_token": tokenizer.bos_token_id, "eos_token": tokenizer.eos_token_id,
        "pad_token": tokenizer.pad_token_id, IMAGE_TOKEN: config.image_token_index,
    }  # fmt: skip
    faults = [f"{name} has no id" for name, number in ids.items() if number is None]
    if faults:
        raise CheckpointError(list_faults(f"the tokenizer in {directory} lacks:", faults))
    vision = config.vision_config
    n_patches = (vision.image_size // vision.patch_size) ** 2
    if config.vision_feature_select_strategy != "default":
        n_patches += 1
    bos, eos, pad, image = ids.values()
    return SpecialTokens(bos, eos, pad, image, n_patches)


@contextmanager
def _as_checkpoint_error(directory: Path) -> Iterator[None]:
    """Translates transformers' errors about missing or damaged files and wrong shapes."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{directory} cannot be opened for training: {error}") from error

"""Adds low-rank adapters to the language model by peft, and merges them.

Source: LLaVA's train.py (find_all_linear_names); LoRA (Hu et al., 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer

from edge_llava.training.llava import Llava


@dataclass(frozen=True)
class LoraOptions:
    """Adapters for every matrix of every block.

    Attributes:
        rank: Width of an adapter.
        alpha: Its output is scaled by alpha / rank.
        dropout: Dropout of its input while training.
    """

    rank: int = 128
    alpha: int = 256
    dropout: float = 0.05


def add_lora(llava: Llava, options: LoraOptions, seed: int) -> None:
    """Adds adapters to the language model's blocks; only the adapters are trained, not the matrices."""
    blocks = llava.model.model.language_model.layers
    targets = {name.rpartition(".")[2] for name, layer in blocks.named_modules() if isinstance(layer, torch.nn.Linear)}
    torch.manual_seed(seed)
    config = LoraConfig(
        r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=sorted(targets)
    )
    inject_adapter_in_model(config, blocks)


def merge_lora(llava: Llava) -> None:
    """Adds what the adapters learned to the matrices and removes the adapters."""
    for block in llava.model.model.language_model.layers:
        for name, layer in list(block.named_modules()):
            if isinstance(layer, LoraLayer):
                layer.merge(safe_merge=True)
                parent, _, child = name.rpartition(".")
                setattr(block.get_submodule(parent), child, layer.get_base_layer())

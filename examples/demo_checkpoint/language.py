"""Trains the demo's LLaMA on text about scenes, as Vicuna was trained on text before it became part of LLaVA."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from demo_checkpoint.corpus import documents
from demo_checkpoint.muon import MuonForMatrices
from demo_checkpoint.vocabulary import DemoTokenizer
from edge_llava.bundle.templates import find_template
from edge_llava.home.progress import ProgressCallback, silent
from edge_llava.scenes.scene import Scene
from edge_llava.training.samples import IGNORED
from edge_llava.training.trainer import Job, Schedule, run

WIDTH = 256
N_CONTEXT = 1024
_N_BLOCKS = 6
# small batches: a small model needs many steps rather than many samples per step
_SCHEDULE = Schedule(
    1e-3, batch_size=8, weight_decay=0.05, beta2=0.98, optimizer=MuonForMatrices(2e-3, 0.05), warmup_ratio=0.05,
    save_every=250, seed=12,
)  # fmt: skip
_BOS, _EOS = 1, 2


def train_language(
    scenes: Sequence[Scene], template: str, tokenizer: DemoTokenizer, work: Path, progress: ProgressCallback = silent
) -> LlamaForCausalLM:
    """Trains a LLaMA from scratch on one document per scene.

    Args:
        scenes: The scenes that the documents are about.
        template: Name of the conversation template.
        tokenizer: The vocabulary.
        work: Folder for saved steps, from which training resumes.
        progress: Called after every step.

    Returns:
        The model, float32.
    """
    torch.manual_seed(_SCHEDULE.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=_N_BLOCKS,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=N_CONTEXT,
        rms_norm_eps=1e-5,
        initializer_range=WIDTH**-0.5,  # the usual 0.02 is for wide models; here attention would start out uniform
        bos_token_id=_BOS,
        eos_token_id=_EOS,
    )
    llama = LlamaForCausalLM(config)
    _balance(llama)
    module = _Reader(llama)
    samples = _tokenize(scenes, template, tokenizer)
    job = Job("language model", module, samples, _collate, work)
    run(job, _SCHEDULE, progress)
    return module.llama


@torch.no_grad()
def _balance(llama: LlamaForCausalLM) -> None:
    """Makes token embeddings initially larger than the sum of all blocks' updates, which would otherwise drown them."""
    torch.nn.init.normal_(llama.model.embed_tokens.weight)
    for block in llama.model.layers:
        for matrix in (block.self_attn.o_proj, block.mlp.down_proj):
            matrix.weight.mul_((2 * _N_BLOCKS) ** -0.5)


class _Reader(torch.nn.Module):
    """Computes the next-token loss at every position."""

    def __init__(self, llama: LlamaForCausalLM) -> None:
        super().__init__()
        self.llama = llama

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss for ids and labels int64 (B, T)."""
        # no mask is needed: padding follows the text, and attention is causal
        hidden = self.llama.model(input_ids=ids).last_hidden_state
        learned = labels[:, 1:] != IGNORED
        logits = self.llama.lm_head(hidden[:, :-1][learned])
        return {"loss": F.cross_entropy(logits.float(), labels[:, 1:][learned])}


def _tokenize(scenes: Sequence[Scene], template_name: str, tokenizer: DemoTokenizer) -> list[list[int]]:
    template = find_template(template_name)
    samples = []
    for stand_in, turns in documents(scenes, _SCHEDULE.seed):
        ids = [_BOS, *tokenizer.encode(template.opening), *tokenizer.encode(stand_in)]
        before = "\n"
        for turn in turns:
            ids += tokenizer.encode(f"{before}{turn.question}{template.after_question}")
            ids += [*tokenizer.encode(turn.answer), _EOS]
            before = template.between_turns.removeprefix(template.stop)
        samples.append(ids)
    return samples


def _collate(samples: Sequence[list[int]]) -> dict[str, torch.Tensor]:
    longest = max(map(len, samples))
    ids = torch.tensor([row + [_EOS] * (longest - len(row)) for row in samples])
    labels = torch.tensor([row + [IGNORED] * (longest - len(row)) for row in samples])
    return {"ids": ids, "labels": labels}

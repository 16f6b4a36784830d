"""Muon and AdamW as one optimizer: each does to its own what it does alone, and a saved state brings both back."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch

from demo_checkpoint.muon import MuonForMatrices, hidden_matrices

pytestmark = pytest.mark.convert


def make(module: torch.nn.Module) -> torch.optim.Optimizer:
    def make_adamw(apart: Sequence[torch.Tensor]) -> torch.optim.Optimizer:
        rest = [parameter for parameter in module.parameters() if all(parameter is not matrix for matrix in apart)]
        return torch.optim.AdamW(rest, lr=0.01)

    return MuonForMatrices(rate=0.02, weight_decay=0.1)(module, make_adamw)


@pytest.fixture
def module() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Embedding(7, 8), torch.nn.Linear(8, 6), torch.nn.Linear(6, 5))


def learn(module: torch.nn.Module, *optimizers: torch.optim.Optimizer, steps: int) -> list[torch.Tensor]:
    ids = torch.arange(7)
    for _ in range(steps):
        module(ids).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return [parameter.detach().clone() for parameter in module.parameters()]


def test_hidden_matrices_are_weights_of_trained_linear_layers_but_the_head(module):
    module[2].requires_grad_(False)
    module.add_module("lm_head", torch.nn.Linear(5, 4))
    (matrix,) = hidden_matrices(module)
    assert matrix is module[1].weight


def test_each_part_does_what_it_does_alone(module):
    twin = copy.deepcopy(module)
    together = learn(module, make(module), steps=3)
    muon = torch.optim.Muon([twin[1].weight, twin[2].weight], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW([twin[0].weight, twin[1].bias, twin[2].bias], lr=0.01)
    apart = learn(twin, muon, adamw, steps=3)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(together, apart, strict=True))


def test_schedulers_reach_both_parts(module):
    optimizer = make(module)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _step: 0.0)
    after = learn(module, optimizer, steps=2)
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_a_saved_state_goes_on_as_if_nothing_had_happened(module):
    optimizer = make(module)
    learn(module, optimizer, steps=2)
    weights, state = copy.deepcopy(module.state_dict()), copy.deepcopy(optimizer.state_dict())
    expected = learn(module, optimizer, steps=2)
    module.load_state_dict(weights)
    again = make(module)
    again.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(expected, learn(module, again, steps=2), strict=True))

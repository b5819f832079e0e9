"""Muon (Jordan 2024; 2502.16982): momentum whose matrices are orthogonalised, with AdamW for everything else.

M <- beta M + (1 - beta) G;  U = NewtonSchulz5((1 - beta) G + beta M);  W <- (1 - lr wd) W - lr * 0.2 sqrt(max(m, n)) U

0.2 sqrt(max(m, n)) gives an update AdamW's root mean square, so that both share one learning rate. Convolutions are
matrices of outputs by inputs x taps. The embeddings of time and condition, the first and last layers and all vectors
stay with AdamW. torch.optim.Muon takes two-dimensional parameters alone, hence this one.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import Parameter


def orthogonalised(g: Tensor, steps: int = 5) -> Tensor:
    """(m, n) -> about U V^T of g = U S V^T, by the quintic Newton-Schulz iteration in bf16: singular values in 0.7 to
    1.2."""
    x = g.bfloat16()
    if tall := x.shape[0] > x.shape[1]:
        x = x.mT
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    """One optimiser over named parameters: Muon for hidden matrices, AdamW (betas 0.9, 0.99) for the rest."""

    def __init__(self, named: Iterable[tuple[str, Parameter]], lr: float, weight_decay: float, momentum: float = 0.95):
        matrices, others, vectors = [], [], []
        for name, p in named:
            edge = name.startswith(("conv_in", "conv_out", "time_embedding", "class_embedding"))
            (vectors if p.ndim <= 1 else others if edge else matrices).append(p)
        groups = [
            {"params": matrices, "muon": True, "weight_decay": weight_decay},
            {"params": others, "muon": False, "weight_decay": weight_decay},
            {"params": vectors, "muon": False, "weight_decay": 0.0},
        ]
        super().__init__(groups, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["exp_avg"] = torch.zeros_like(p)
                    if not group["muon"]:
                        state["exp_avg_sq"], state["step"] = torch.zeros_like(p), torch.zeros(())
                p.mul_(1 - group["lr"] * group["weight_decay"])
                if group["muon"]:
                    beta = group["momentum"]
                    m = state["exp_avg"].lerp_(p.grad, 1 - beta)
                    update = p.grad.lerp(m, beta).flatten(1)
                    scale = 0.2 * max(update.shape) ** 0.5
                    p.add_(orthogonalised(update).view_as(p), alpha=-group["lr"] * scale)
                else:
                    state["step"] += 1
                    n = float(state["step"])
                    m = state["exp_avg"].lerp_(p.grad, 0.1)
                    v = state["exp_avg_sq"].lerp_(p.grad.square(), 0.01)
                    p.addcdiv_(m, (v / (1 - 0.99**n)).sqrt() + 1e-8, value=-group["lr"] / (1 - 0.9**n))

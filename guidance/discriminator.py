"""A small discriminator of noised frames, which knows the time: its optimal logit is log p_t(z) / q_t(z).

L = softplus(D(fake)) + softplus(-D(real)) + (gamma / 2) |grad_real D|^2      (R1, 1801.04406)
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TIMES = 16


def time_features(t: Tensor, length: int) -> Tensor:
    """(B, 16): sines and cosines of t / length."""
    u = t.float()[:, None] / length
    k = math.pi * 2.0 ** torch.arange(-1, TIMES // 2 - 1, device=t.device)
    return torch.cat([(k * u).sin(), (k * u).cos()], 1)


class Discriminator(nn.Module):
    """Logits (B,) of frames (B, C, H, W) at time steps t (B,) of a schedule of `length` steps."""

    def __init__(
        self, channels: int, generator: torch.Generator, length: int = 1000, width: int = 32, layers: int = 3
    ):
        super().__init__()
        self.length = length
        widths = [channels, *(width * min(2**i, 2) for i in range(layers))]
        pairs = list(pairwise(widths))
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairs)
        self.times = nn.ModuleList(nn.Linear(TIMES, 2 * b) for _, b in pairs)
        self.head = nn.Linear(widths[-1], 1)
        with torch.no_grad():
            for p in self.parameters():  # from our generator, so that a run repeats
                bound = 1 / math.sqrt(p[0].numel()) if p.dim() > 1 else 0.0
                p.copy_((2 * torch.rand(p.shape, generator=generator) - 1) * bound)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        features = time_features(t, self.length).to(z)
        for convolution, told in zip(self.convolutions, self.times, strict=True):
            scale, shift = told(features)[:, :, None, None].chunk(2, 1)
            z = F.leaky_relu(convolution(z) * (1 + scale) + shift, 0.2)
        return self.head(z.mean((2, 3)))[:, 0]


def discriminator_loss(net: nn.Module, real: Tensor, fake: Tensor, t_real: Tensor, t_fake: Tensor) -> Tensor:
    """The softplus loss, without R1; real (B, C, H, W), fake (B', C, H, W)."""
    return F.softplus(net(fake, t_fake)).mean() + F.softplus(-net(real, t_real)).mean()


def r1(net: nn.Module, real: Tensor, t: Tensor) -> Tensor:
    """Mean over frames of |grad_real D|^2, with a graph."""
    real = real.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(net(real, t).sum(), real, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()

"""The prior's last step, at half the frame's resolution: what 4 x 4 patches of 112 numbers lose in 64 channels.

    x0 = (1 + d(t)) c + g(t) z + R(z, c, t)

c the network's coarse x0, z the noisy frames, d and g learned gains a channel (the skip of EDM's preconditioner,
2206.00364, whose rate the data chooses), R a small convolutional network over both, told the time by scale and shift.
d, g and R start at zero: a network that gets one goes on as the same function.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HALF = 2


class Refinement(nn.Module):
    """x0 (B, C, S, S) from coarse (B, C, S, S), z of that shape, and features (B, T) of the noise level."""

    def __init__(self, channels: int, times: int, width: int = 48):
        super().__init__()
        inner = channels * HALF**2
        self.time = nn.Sequential(nn.Linear(times, 128), nn.SiLU(), nn.Linear(128, 4 * width + 2 * channels))
        self.enter = nn.Conv2d(2 * inner, width, 3, padding=1)
        self.norm1 = nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.leave = nn.Conv2d(width, inner, 3, padding=1)
        self.sizes = (width, width, width, width, channels, channels)
        last = self.time[2]
        assert isinstance(last, nn.Linear) and last.bias is not None and self.leave.bias is not None
        for p in (last.weight, last.bias, self.leave.weight, self.leave.bias):
            nn.init.zeros_(p)

    def forward(self, coarse: Tensor, z: Tensor, times: Tensor) -> Tensor:
        scale1, shift1, scale2, shift2, d, g = self.time(times)[:, :, None, None].split(self.sizes, 1)
        h = self.enter(torch.cat([F.pixel_unshuffle(z, HALF), F.pixel_unshuffle(coarse, HALF)], 1))
        r = self.conv1(F.silu(self.norm1(h) * (1 + scale1) + shift1))
        h = h + self.conv2(F.silu(self.norm2(r) * (1 + scale2) + shift2))
        return (1 + d) * coarse + g * z + F.pixel_shuffle(self.leave(F.silu(h)), HALF)

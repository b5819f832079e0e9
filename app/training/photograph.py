"""Renders as a user's cut-out photographs would look: for training and for benchmarks.

A picture here is (B, 7, S, S) in [0, 1]: lit RGB on mid-grey, alpha, normals mid-grey (nobody photographs those).
"""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from app.training.jpeg import jpeg
from renderers.frames import normals, reframed


def photograph(frames: Tensor, generator: torch.Generator) -> Tensor:
    """What a user's cut-out photograph would look like: random light, a soft shadow edge, exposure, colour
    temperature, JPEG noise.

    frames (B, 7, S, S) in [0, 1] -> the same shape: lit RGB on mid-grey, alpha as it was, normals mid-grey. On a GPU
    S is a multiple of 16.
    """
    b, _, size, _ = frames.shape
    alpha = frames[:, 3:4]
    base = (frames[:, :3] - (1 - alpha) * 0.5) / alpha.clamp(min=1e-3)
    normal = normals(frames)
    u = torch.rand(b, 8, generator=generator, device=frames.device)
    light = torch.stack([u[:, 0] * 2 - 1, u[:, 1] * 1.3 - 0.3, 0.2 + u[:, 2]], 1)
    light = light / light.norm(dim=1, keepdim=True)
    lambert = (normal * light[:, :, None, None]).sum(1, keepdim=True).clamp(min=0)
    ambient = (0.35 + 0.6 * u[:, 3])[:, None, None, None]
    shade = ambient + (1.25 - ambient) * lambert
    ramp = torch.linspace(-1, 1, size, device=frames.device)
    angle = u[:, 4] * 6.2832
    edge = (
        angle.cos()[:, None, None] * ramp
        + angle.sin()[:, None, None] * ramp[:, None]
        + (u[:, 5] * 2 - 0.6)[:, None, None]
    )
    shadow = 1 - 0.4 * (u[:, 5] < 0.4)[:, None, None] * torch.sigmoid(-6 * edge)
    warm = (u[:, 6] - 0.5) * 0.2
    tint = torch.stack([1 + warm, torch.ones_like(warm), 1 - warm], 1)[:, :, None, None]
    exposure = (2 ** (u[:, 7] - 0.5))[:, None, None, None]
    linear = base.clamp(0, 1) ** 2.2 * shade * shadow[:, None] * tint * exposure
    rgb = linear.clamp(0, 1) ** (1 / 2.2) * alpha + 0.5 * (1 - alpha)
    quality = torch.randint(40, 96, (b,), generator=generator, device=frames.device)
    rgb = compressed((rgb * 255 + 0.5).floor().clamp(0, 255), quality) / 255
    return torch.cat([rgb * (alpha > 0) + 0.5 * (alpha <= 0), alpha, torch.full_like(normal, 0.5)], 1)


def compressed(rgb: Tensor, quality: Tensor) -> Tensor:
    """rgb (B, 3, S, S) in whole numbers 0..255, as JPEG of `quality` (B,) leaves it: by Pillow, on a GPU by
    arithmetic."""
    if rgb.device.type != "cpu":
        return jpeg(rgb, quality)
    pixels = rgb.permute(0, 2, 3, 1).numpy().astype(np.uint8)
    files = [_jpeg(p, q) for p, q in zip(pixels, quality.tolist(), strict=True)]
    return torch.from_numpy(np.stack(files)).permute(0, 3, 1, 2).float()


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def ragged(picture: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """`share` of the pictures with a cut-out a pixel too wide, which lets a random background in, or too narrow."""
    b = len(picture)
    rgb, alpha, rest = picture.split([3, 1, 3], 1)
    u = torch.rand(b, 5, generator=generator)
    wide, narrow = ((u[:, 3] < 0.5 * share), (u[:, 3] >= 1 - 0.5 * share))
    other = torch.where(wide[:, None, None, None], F.max_pool2d(alpha, 3, 1, 1), -F.max_pool2d(-alpha, 3, 1, 1))
    cut = torch.where((wide | narrow)[:, None, None, None], other, alpha)
    behind = rgb - 0.5 * (1 - alpha) + u[:, :3, None, None] * (1 - alpha)
    return torch.cat([behind * cut + 0.5 * (1 - cut), cut, rest], 1)


def misframed(picture: Tensor, spread: float, generator: torch.Generator) -> Tensor:
    """Pictures whose scale (log) is wrong by `spread`, one standard deviation, and whose place by half of that."""
    g = torch.randn(len(picture), 3, generator=generator) * spread
    return reframed(picture, g[:, 0].exp(), 0.5 * g[:, 1:])

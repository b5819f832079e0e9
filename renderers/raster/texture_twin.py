"""Texture lookup in plain torch, on any device and differentiable by autograd: the twin of
renderers/raster/texture_cpu.py."""

from __future__ import annotations

import torch
from torch import Tensor

from renderers.raster.texels import Pyramid


def look_up(levels: Pyramid, uv: Tensor, level: Tensor | None, nearest: bool, boundary: str) -> Tensor:
    """(B, H, W, C) at uv (B, H, W, 2); `level` (B, H, W), in 0..L-1, mixes the two levels next to it."""
    views, height, width, _ = uv.shape
    count, total, channels = levels.texels.shape
    flat = levels.texels.reshape(-1, channels)
    view = torch.arange(views, device=uv.device)[:, None, None].expand(views, height, width)
    base = (view * total if count > 1 else torch.zeros_like(view)).reshape(-1)
    at = uv.reshape(-1, 2).nan_to_num(0)
    sizes = torch.tensor(levels.sizes, device=uv.device)
    starts = torch.tensor(levels.offsets(), device=uv.device)

    def one(k: Tensor) -> Tensor:
        return _bilinear(flat, base + starts[k], sizes[k, 0], sizes[k, 1], at, nearest, boundary)

    if level is None:
        out = one(torch.zeros_like(base))
    else:
        flat_level = level.reshape(-1)
        low = flat_level.detach().floor().long()
        part = (flat_level - low)[:, None]
        first = one(low)
        out = first + part * (one((low + 1).clamp(max=len(levels.sizes) - 1)) - first)
    return out.reshape(views, height, width, channels)


def _bilinear(flat: Tensor, base: Tensor, h: Tensor, w: Tensor, uv: Tensor, nearest: bool, boundary: str) -> Tensor:
    """(P, C) at uv (P, 2) of pictures h x w (P,) that begin at rows `base` (P,) of flat (T, C)."""
    if boundary == "wrap":
        uv = uv - uv.detach().floor()
    x, y = uv[:, 0] * w, uv[:, 1] * h
    if not nearest:
        x, y = x - 0.5, y - 0.5
    if boundary != "wrap":  # far outside is all the same, and fits an integer
        x, y = x.maximum(x.new_tensor(-2.0)).minimum(w + 1.0), y.maximum(y.new_tensor(-2.0)).minimum(h + 1.0)
    j, i = x.detach().floor().long(), y.detach().floor().long()

    def texel(i: Tensor, j: Tensor) -> Tensor:
        if boundary == "wrap":
            i, j = i % h, j % w
        inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
        i, j = i.clamp(min=0).minimum(h - 1), j.clamp(min=0).minimum(w - 1)
        values = flat.index_select(0, base + i * w + j)
        return torch.where(inside[:, None], values, 0) if boundary == "zero" else values

    if nearest:
        return texel(i, j)
    fx, fy = (x - j)[:, None], (y - i)[:, None]
    top = texel(i, j) * (1 - fx) + texel(i, j + 1) * fx
    low = texel(i + 1, j) * (1 - fx) + texel(i + 1, j + 1) * fx
    return top * (1 - fy) + low * fy

"""A texture and its mip levels as one table of texels: what both backends of `texture` are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BOUNDARIES = ("wrap", "clamp", "zero")


@dataclass(frozen=True)
class Pyramid:
    """texels (N, T, C): all levels' rows one after another, differentiable. sizes: (height, width) of each level."""

    texels: Tensor
    sizes: tuple[tuple[int, int], ...]

    def offsets(self) -> list[int]:
        """The first texel of each level."""
        out = [0]
        for h, w in self.sizes[:-1]:
            out.append(out[-1] + h * w)
        return out


def pyramid(levels: Sequence[Tensor]) -> Pyramid:
    """Levels (N, H, W, C), the finest first. ValueError unless all have its N, C and type."""
    n, c = levels[0].shape[0], levels[0].shape[-1]
    for k, x in enumerate(levels):
        if x.ndim != 4 or (x.shape[0], x.shape[3]) != (n, c) or x.dtype != levels[0].dtype or not x.numel():
            raise ValueError(
                f"mip level {k} must be ({n}, H, W, {c}) of {levels[0].dtype}, got {tuple(x.shape)} of {x.dtype}."
            )
    flat = [x.reshape(n, -1, c) for x in levels]
    return Pyramid(flat[0] if len(flat) == 1 else torch.cat(flat, 1), tuple((x.shape[1], x.shape[2]) for x in levels))

"""What every renderer returns: base colour, alpha, depth and camera-space normals, and their packing into the prior's
frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BACKGROUND = 0.5  # mid-grey: what frames are composited on


@dataclass(frozen=True)
class Rendered:
    """A batch of B pictures, float32, row 0 at the top.

    color  (B, 3, H, W): sRGB base colour in [0, 1], premultiplied by alpha (black where empty).
    alpha  (B, 1, H, W): coverage in [0, 1].
    normal (B, 3, H, W): unit camera-space normals times alpha (zero where empty).
    depth  (B, 1, H, W): expected distance along the ray times alpha (zero where empty).
    """

    color: Tensor
    alpha: Tensor
    normal: Tensor
    depth: Tensor

    def over(self, background: float = BACKGROUND) -> Tensor:
        """Base colour (B, 3, H, W) composited on a grey level."""
        return self.color + (1 - self.alpha) * background

    def frames(self) -> Tensor:
        """(B, 7, H, W) in [0, 1]: r g b on mid-grey, alpha, normals as n/2 + 1/2 (mid-grey outside)."""
        return torch.cat([self.over(), self.alpha, 0.5 + 0.5 * self.normal], 1)

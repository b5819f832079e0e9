"""What every renderer returns: base colour, alpha, depth and camera-space normals, and their packing into the prior's
frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BACKGROUND = 0.5  # mid-grey: what frames are composited on


def stored(normal: Tensor) -> Tensor:
    """Normals as frames store them: n/2 + 1/2, in any shape."""
    return 0.5 + 0.5 * normal


def normals(frames: Tensor) -> Tensor:
    """(B, 3, H, W) normals times alpha of frames (B, 7, H, W)."""
    return 2 * frames[:, 4:7] - 1


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
        return torch.cat([self.over(), self.alpha, stored(self.normal)], 1)


def reframed(picture: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """What was at the centre plus `shift` (B, 2; x rightwards, y downwards, in halves of the picture) comes to the
    centre, then `scale` (B,) times as large; nothing around it."""
    ground = picture.new_tensor([0.5, 0.5, 0.5, 0.0, 0.5, 0.5, 0.5])[:, None, None]
    theta = torch.zeros(len(picture), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / scale
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, list(picture.shape), align_corners=False)
    return F.grid_sample(picture - ground, grid, align_corners=False) + ground

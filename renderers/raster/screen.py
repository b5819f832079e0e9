"""Clip space to screen: what both backends of visibility and of silhouette search are given, so that they agree.

Vertices are snapped to 1/4096 of a pixel; edge functions of integers are exact, and with a top-left-like rule each
pixel centre on a shared edge belongs to exactly one of the two triangles. Snapping decides coverage only:
barycentrics use the unsnapped positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SUBPIXEL_BITS = 12
SUBPIXEL = 1 << SUBPIXEL_BITS
GUARD = 1 << 29  # |snapped coordinate| below this keeps every edge function inside int64; 131072 pixels
SKIPPED = -(1 << 31)  # stored as x of a vertex that no triangle may use
MAX_STEPS = 64  # triangles walked through between two pixel centres
SLACK = 1 / 16  # how far outside the segment a crossing may lie, in pixels: coverage was decided on snapped vertices


@dataclass(frozen=True)
class Screen:
    """Snapped vertices of B views.

    xy (B, V, 2) int32: pixel coordinates times 4096, y upwards; x = SKIPPED marks vertices behind the camera, off the
    guard band or not finite.
    z  (B, V) float64: z/w.
    height, width: the picture in pixels.
    """

    xy: Tensor
    z: Tensor
    height: int
    width: int


def snap(pos: Tensor, height: int, width: int) -> Screen:
    """Snap clip-space positions (B, V, 4). No gradient passes: visibility has none."""
    p = pos.detach().double()
    w = p[..., 3]
    inverse = 1 / w
    x = (p[..., 0] * inverse + 1) * (0.5 * width * SUBPIXEL)
    y = (p[..., 1] * inverse + 1) * (0.5 * height * SUBPIXEL)
    z = p[..., 2] * inverse
    usable = (w > 0) & (x.abs() < GUARD) & (y.abs() < GUARD) & z.isfinite()
    xy = torch.stack([x, y], -1).round().where(usable[..., None], float(SKIPPED)).int()
    return Screen(xy, z, height, width)


@dataclass(frozen=True)
class Crossings:
    """N crossings, all tensors (N,) int64 but `forward`, ordered by pixel and direction.

    pixel: flat index of the left or lower pixel in (B, H, W). vertical: 1 if the other one is above it, 0 if to the
    right.
    forward: +1 float64 if the nearer triangle is seen by `pixel`, -1 if by the other. a, b: the edge's rows in the
    (B·V)-row vertex table.
    """

    pixel: Tensor
    vertical: Tensor
    forward: Tensor
    a: Tensor
    b: Tensor


def project(pos: Tensor, height: int, width: int) -> Tensor:
    """(B, V, 2) float64 pixel coordinates of clip positions (B, V, 4), 0 at the first pixel's centre; NaN where w <=
    0."""
    p = pos.detach().double()
    w = p[..., 3:]
    size = torch.tensor([width, height], dtype=torch.float64, device=pos.device)
    return ((p[..., :2] / w + 1) * (0.5 * size) - 0.5).where(w > 0, torch.nan)

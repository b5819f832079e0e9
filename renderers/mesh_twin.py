"""What a visible pixel of a mesh shows, in plain torch on any device: the twin of renderers/mesh_cpu.py."""

from __future__ import annotations

import torch
from torch import Tensor

from renderers.cameras import Cameras
from renderers.raster import interpolate
from renderers.raster.rasterize import barycentrics

TINY = 1e-20  # squared length below which a vector has no direction: its gradient would overflow


def unit(v: Tensor) -> Tensor:
    """`v` (..., 3) over its length; zero, without gradient, where it has none."""
    square = (v * v).sum(-1, keepdim=True)
    long = square > TINY
    return torch.where(long, v, 0) * torch.where(long, square, 1).rsqrt()


def surface(pos: Tensor, attributes: Tensor, tri: Tensor, ids: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """rast (B, H, W, 4) of the visible triangles `ids` (B, H, W), without gradient, and the attributes (V, C) at the
    covered pixels `index` (N,): (N, C), differentiable in both and in pos (B, V, 4)."""
    rast, _ = barycentrics(pos, tri, ids)
    values, _ = interpolate(attributes, rast, tri)
    return rast.detach(), values.reshape(-1, attributes.shape[1]).index_select(0, index)


def shade(covered: Tensor, base: Tensor, index: Tensor, cameras: Cameras, size: int, two_sided: bool) -> Tensor:
    """(B, size, size, 8): base colour, alpha, camera-space normal, distance; zero but at the pixels `index` (N,).

    covered (N, 6 or more): world point and normal of any length. base (N, 3). two_sided: normals that face away turn
    towards the camera. Differentiable in covered and base.
    """
    view = index // (size * size)
    point = covered[:, :3]
    to_camera = cameras.position().index_select(0, view) - point
    depth = to_camera.norm(dim=1, keepdim=True)
    normal = unit(covered[:, 3:6])
    if two_sided:
        normal = torch.where((normal * to_camera).sum(1, keepdim=True).detach() < 0, -normal, normal)
    normal = (cameras.rotation().index_select(0, view) * normal[:, :, None]).sum(1)
    shaded = torch.cat([base, torch.ones_like(depth), normal, depth], 1)
    pixels = len(cameras) * size * size
    return shaded.new_zeros(pixels, 8).index_copy(0, index, shaded).reshape(len(cameras), size, size, 8)

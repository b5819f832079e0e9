"""Base colour onto the atlas: rasterize charts in UV space, colour the surface point under each texel, fill the rest.

Texel (row i, column j) has its centre at uv = ((j + 1/2) / S, (i + 1/2) / S). With clip position
(2u - 1, 2v - 1, 0, 1) the rasterizer's row i, counted from y = -1, is that texel's row, so nothing is flipped. Empty
texels take the colour of the nearest covered one, so that bilinear and mip filtering find no seam within the padding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from app.export.unwrap import Unwrapped
from renderers.raster import RasterizeContext, interpolate, rasterize

CHUNK = 1 << 18  # points a call of the colour function gets at most


def texel_points(ctx: RasterizeContext, unwrapped: Unwrapped, size: int) -> tuple[Tensor, Tensor]:
    """Covered texels, flat row-major indices (N,) int64 without repeats, and their surface points (N, 3): whatever
    `unwrapped.vertices` holds in its columns, interpolated.

    A face too small to cover a texel's centre claims the texel under its middle if that is still free.
    """
    clip = torch.cat([2 * unwrapped.uv - 1, torch.zeros_like(unwrapped.uv)], 1)
    clip[:, 3] = 1
    rast, _ = rasterize(ctx, clip[None], unwrapped.faces, (size, size))
    surface, _ = interpolate(unwrapped.vertices, rast, unwrapped.faces)
    owner = rast[0, ..., 3].reshape(-1).long()
    texels = owner.nonzero()[:, 0]
    points = surface.flatten(0, 2)[texels]

    missed = torch.ones(len(unwrapped.faces), dtype=torch.bool, device=texels.device)
    missed[owner[texels] - 1] = False
    corners = unwrapped.faces[missed].long()
    column, row = (unwrapped.uv[corners].mean(1) * size).long().clamp(0, size - 1).unbind(1)
    centre = row * size + column
    free = owner[centre] == 0
    _, first = np.unique(centre[free].cpu().numpy(), return_index=True)
    chosen = torch.from_numpy(first).to(texels.device)
    extra = centre[free][chosen]
    extra_points = unwrapped.vertices[corners[free][chosen]].mean(1)
    return torch.cat([texels, extra]), torch.cat([points, extra_points])


def flood(picture: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """`picture` (H, W, C) with every texel that is not `filled` (H, W) bool given the value of the nearest that is."""
    from scipy.ndimage import distance_transform_edt

    nearest = np.empty((2, *filled.shape), np.int32)
    distance_transform_edt(~filled, return_distances=False, return_indices=True, indices=nearest)
    return picture[nearest[0], nearest[1]]


@torch.no_grad()
def bake(
    ctx: RasterizeContext,
    color: Callable[[Tensor], Tensor],
    unwrapped: Unwrapped,
    size: int,
    attributes: Tensor | None = None,
) -> Tensor:
    """Bake `color`, from points (N, 3) to sRGB base colour (N, 3) in [0, 1], into a picture (size, size, 3) uint8.

    `attributes` (V, K), one row for each vertex of the mesh before it was unwrapped, are interpolated over the surface
    and handed to `color` behind the points, as (N, 3 + K). Row 0 is v = 0. Values outside [0, 1] are clamped.
    ValueError where the colour function gives NaN, or no texel is covered.
    """
    if attributes is not None:
        vertices = torch.cat([unwrapped.vertices, attributes[unwrapped.vmapping]], 1)
        unwrapped = dataclasses.replace(unwrapped, vertices=vertices)
    texels, points = texel_points(ctx, unwrapped, size)
    if len(texels) == 0:
        raise ValueError("The atlas covers no texel: there is nothing to bake.")
    colors = torch.cat([color(part) for part in points.split(CHUNK)])
    if bool(colors.isnan().any()):
        raise ValueError("The base colour is not a number on part of the surface and cannot be baked.")
    picture = np.zeros((size * size, 3), np.uint8)
    filled = np.zeros(size * size, bool)
    where = texels.cpu().numpy()
    picture[where] = (colors.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    filled[where] = True
    return torch.from_numpy(flood(picture.reshape(size, size, 3), filled.reshape(size, size)))

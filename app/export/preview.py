"""Pictures of an exported asset. Everything a person is shown is rendered from the re-read GLB.

`lit` is computed in linear light: base colour times a wrapped key light, a soft fill from the other side and a
hemisphere of sky and ground, all fixed to the camera so that a turntable shows every side equally well. Pictures are
supersampled 2 x 2, averaged, composited on a light grey and, for `lit`, encoded to sRGB last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from app.export import preview_cpu
from app.export.glb import TexturedMesh, encode_png, to_linear, to_srgb, write_atomically
from renderers.cameras import Cameras
from renderers.frames import stored
from renderers.raster import RasterizeContext, RasterizeCpuContext, interpolate, rasterize
from renderers.raster.screen import snap

Shading = Literal["base_color", "normal", "lit"]
KINDS: tuple[Shading, ...] = ("base_color", "normal", "lit")
BACKGROUND = 0.94  # sRGB grey behind previews
SUPERSAMPLE = 2
SKY, GROUND = 0.34, 0.16  # linear strength of the hemisphere at the top and at the bottom


def _lamp(direction: tuple[float, float, float], wrap: float, strength: float) -> list[float]:
    length = math.hypot(*direction)
    return [x / length for x in direction] + [wrap, strength]


# direction in camera axes, how far light wraps around the edge of shade, linear strength: a key light and a fill
LAMPS = np.array([_lamp((-0.50, 0.65, 0.57), 0.30, 0.82), _lamp((0.75, 0.10, 0.65), 0.50, 0.16)])


def sample_texture(texture: Tensor, uv: Tensor) -> Tensor:
    """Bilinear look-up (N, C) in a (C, H, W) picture at `uv` (N, 2), clamped at the border; (0, 0) is its top left."""
    values = F.grid_sample(
        texture[None], 2 * uv[None, None] - 1, mode="bilinear", padding_mode="border", align_corners=False
    )
    return values[0, :, 0].T


def light(normal: Tensor) -> Tensor:
    """Linear irradiance (N, 1) on surfaces with camera-space normals (N, 3)."""
    total = GROUND + (SKY - GROUND) * (0.5 + 0.5 * normal[:, 1])
    for *direction, wrap, strength in LAMPS.tolist():
        cosine = normal @ normal.new_tensor(direction)
        total = total + strength * ((cosine + wrap) / (1 + wrap)).clamp(min=0)
    return total[:, None]


@torch.no_grad()
def render_asset(
    ctx: RasterizeContext,
    asset: TexturedMesh,
    cameras: Cameras,
    resolution: int,
    shading: Shading,
    background: float = BACKGROUND,
) -> Tensor:
    """Pictures (B, 3, resolution, resolution), sRGB-encoded in [0, 1], row 0 at the top, on an sRGB grey.

    `base_color` is the texture alone, `normal` the camera-space normals as n/2 + 1/2, `lit` shaded. A CPU context
    takes the fused kernel of `preview_cpu`, a torch context the plain torch below.
    """
    levels = torch.arange(256) / 255
    table = to_linear(levels) if shading == "lit" else levels
    back = float(to_linear(torch.tensor(background))) if shading == "lit" else background
    size = resolution * SUPERSAMPLE
    clip = cameras.clip(asset.vertices)
    if isinstance(ctx, RasterizeCpuContext):
        ids = ctx.visible(snap(clip, size, size), asset.faces)
        mesh = (asset.faces, asset.uv, asset.normals, cameras.rotation(), asset.texture)
        kind = KINDS.index(shading)
        return preview_cpu.shade(ids, clip, *mesh, table, LAMPS, (SKY, GROUND), kind, back, SUPERSAMPLE)

    rast, _ = rasterize(ctx, clip, asset.faces, (size, size))
    surface, _ = interpolate(torch.cat([asset.uv, asset.normals], 1), rast, asset.faces)
    index = rast[..., 3].reshape(-1).nonzero()[:, 0]
    uv, normal = surface.reshape(-1, 5).index_select(0, index).split([2, 3], 1)
    counts = torch.bincount(index // size**2, minlength=len(cameras)).tolist()
    # row vectors: n @ R is the camera-space normal
    turned = [n @ r for n, r in zip(normal.split(counts), cameras.rotation(), strict=True)]
    normal = F.normalize(torch.cat(turned), dim=1)
    if shading == "normal":
        values = stored(normal)
    else:
        values = sample_texture(table.to(uv.device)[asset.texture.long()].permute(2, 0, 1), uv)
        if shading == "lit":
            values = (values * light(normal)).clamp(max=1)
    picture = values.new_zeros(len(cameras) * size**2, 4).index_copy(0, index, F.pad(values, (0, 1), value=1))
    picture = F.avg_pool2d(picture.reshape(-1, size, size, 4).permute(0, 3, 1, 2), SUPERSAMPLE).flip(2)
    color, alpha = picture.split([3, 1], 1)
    composed = color + (1 - alpha) * back
    return to_srgb(composed) if shading == "lit" else composed


def to_bytes(pictures: Tensor) -> np.ndarray:
    """(B, H, W, 3) uint8 from pictures (B, 3, H, W) in [0, 1]."""
    return (pictures.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def save_png(path: Path, rows: Sequence[Tensor], scale: int = 2, gap: int = 4) -> None:
    """Write a grid of pictures atomically: one row for each (B, 3, H, W) in [0, 1], pixels enlarged `scale` times."""
    strips = [np.kron(to_bytes(row), np.ones((1, scale, scale, 1), np.uint8)) for row in rows]
    height = gap + sum(s.shape[1] + gap for s in strips)
    width = max(gap + len(s) * (s.shape[2] + gap) for s in strips)
    sheet = np.full((height, width, 3), round(BACKGROUND * 255), np.uint8)
    top = gap
    for strip in strips:
        for i, cell in enumerate(strip):
            left = gap + i * (cell.shape[1] + gap)
            sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
        top += strip.shape[1] + gap
    write_atomically(path, encode_png(sheet))

"""`rasterize` with nvdiffrast's signature and conventions (Laine et al. 2020, 2011.03277, section 3.2).

At a pixel with clip-space-divided centre f, a triangle's vertices are moved to p_i = (x_i - f_x w_i, y_i - f_y w_i);
with a_i = p_{i+1} x p_{i+2} the perspective-correct barycentrics are b_i = a_i / (a_0 + a_1 + a_2), without dividing
by any w. a_i is linear in f, so the barycentrics' image-space derivatives are
(da_i/df - b_i dT/df) / T, T = a_0 + a_1 + a_2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from renderers.raster.context import RasterizeContext
from renderers.raster.screen import snap

_MAX_FACES = 1 << 24  # triangle + 1 is stored as a float32
_MAX_SIDE = 1 << 14
_TINY = 1e-30


def check_tri(tri: Tensor, vertices: int) -> None:
    """Raise unless `tri` is (F, 3) int32 with every index in 0..vertices-1."""
    if tri.dtype != torch.int32 or tri.ndim != 2 or tri.shape[1] != 3:
        raise ValueError(f"tri must be an int32 tensor (F, 3), got {tri.dtype} {tuple(tri.shape)}.")
    if len(tri) >= _MAX_FACES:
        raise ValueError(f"tri has {len(tri)} triangles: fewer than {_MAX_FACES} are possible.")
    if len(tri):
        low, high = (int(x) for x in torch.aminmax(tri))
        if low < 0 or high >= vertices:
            raise ValueError(f"tri holds vertex indices {low} to {high}, but there are {vertices} vertices.")


def check_rast(rast: Tensor, tri: Tensor) -> None:
    """Raise unless `rast` is (B, H, W, 4) and holds no triangle that `tri` lacks."""
    if rast.ndim != 4 or rast.shape[3] != 4:
        raise ValueError(f"rast must be (B, H, W, 4) as rasterize returns it, got {tuple(rast.shape)}.")
    if rast.numel() and not 0 <= rast[..., 3].min() <= rast[..., 3].max() <= len(tri):
        raise ValueError(f"rast holds triangles outside tri, which has {len(tri)}: rasterize this tri first.")


def corners(index: Tensor, face: Tensor, tri: Tensor, pixels: int, vertices: int) -> Tensor:
    """(P, 3) rows of the (B·V)-row vertex table for P flat pixel indices and their triangles; `pixels` = H·W,
    `vertices` = V (0: one view)."""
    return tri.index_select(0, face).long() + (index // pixels * vertices)[:, None]


def scatter_rows(values: Tensor, index: Tensor, rows: int) -> Tensor:
    """(rows, C): zeros with `values` (N, C) at the rows `index` (N,), which must not repeat."""
    return values.new_zeros(rows, values.shape[1]).index_copy(0, index, values)


def barycentrics(pos: Tensor, tri: Tensor, ids: Tensor, derivatives: bool = False) -> tuple[Tensor, Tensor]:
    """(B, H, W, 4) of `pos`'s dtype: u, v, z/w and triangle + 1 from the visible triangles `ids` (B, H, W) int32; and
    with `derivatives` (B, H, W, 4): du/dX, du/dY, dv/dX, dv/dY, in pixels, else (B, H, W, 0).

    Differentiable in `pos` (B, V, 4) through u, v and z/w. u, v and 1 - u - v are clamped to [0, 1] and z/w to [-1,
    1], as in nvdiffrast; a clamped value (a pixel centre within the snapping of 1/4096 pixel outside its triangle)
    has no gradient.
    """
    views, height, width = ids.shape
    index = ids.reshape(-1).nonzero()[:, 0]
    face = ids.reshape(-1).index_select(0, index) - 1
    rows = corners(index, face, tri, height * width, pos.shape[1])
    # double: products of small differences of clip coordinates cancel
    p = pos.reshape(-1, 4).index_select(0, rows.reshape(-1)).double().reshape(-1, 3, 4)
    fx = (index % width).double() * (2 / width) + (1 / width - 1)
    fy = (index // width % height).double() * (2 / height) + (1 / height - 1)
    x, y, z, w = p.unbind(2)
    x = x - fx[:, None] * w
    y = y - fy[:, None] * w
    a = x.roll(-1, 1) * y.roll(-2, 1) - x.roll(-2, 1) * y.roll(-1, 1)
    total = a.sum(1, keepdim=True)
    b = a / torch.where(total.abs() > _TINY, total, torch.full_like(total, _TINY))
    depth = (b * z).sum(1) / (b * w).sum(1)
    uv = b[:, :2].clamp(0, 1)
    uv = uv / uv.sum(1, keepdim=True).clamp(min=1)
    values = torch.cat([uv, depth.clamp(-1, 1)[:, None], (face + 1).double()[:, None]], 1).to(pos.dtype)
    rast = scatter_rows(values, index, views * height * width).reshape(views, height, width, 4)
    if not derivatives:
        return rast, pos.new_zeros(views, height, width, 0)
    safe = torch.where(total.abs() > _TINY, total, torch.full_like(total, _TINY))
    parts = []
    for v, n in ((y, width), (-x, height)):  # along f_x, then f_y
        da = w.roll(-2, 1) * v.roll(-1, 1) - w.roll(-1, 1) * v.roll(-2, 1)
        parts.append((da - b * da.sum(1, keepdim=True)) / safe * (2 / n))
    slopes = torch.stack(parts, 2)[:, :2].reshape(-1, 4).to(pos.dtype)
    return rast, scatter_rows(slopes, index, views * height * width).reshape(views, height, width, 4)


def rasterize(
    ctx: RasterizeContext,
    pos: Tensor,
    tri: Tensor,
    resolution: tuple[int, int] | list[int],
    ranges: Tensor | None = None,
    grad_db: bool = False,
) -> tuple[Tensor, Tensor]:
    """Rasterize triangles, both orientations, nearest first.

    pos: (B, V, 4) float32 clip space. tri: (F, 3) int32. resolution: (H, W).
    Returns rast (B, H, W, 4) = (u, v, z/w, triangle + 1), zero where empty; row 0 is y = -1 (the bottom), pixel
    centres lie at half-integers, u and v are the perspective-correct barycentrics of the triangle's vertices 0 and 1.
    Also returns rast_db: with grad_db (B, H, W, 4) = du/dX, du/dY, dv/dX, dv/dY in pixels, Y upwards as rows are;
    else an empty (B, H, W, 0) tensor. Gradients flow from u, v, z/w and rast_db to pos.

    Pixels are clipped to -1 <= z/w <= 1. A triangle is skipped whole if a vertex has w <= 0, is not finite or lies
    more than 131072 pixels outside the picture (nvdiffrast would clip it at the near plane). Triangles without area
    on screen are empty.

    Raises ValueError for range mode and anything else that is not supported.
    """
    if ranges is not None or pos.ndim == 2:
        raise ValueError("Range mode is not supported: give pos as (B, V, 4) and leave ranges out.")
    return barycentrics(pos, tri, visible(ctx, pos, tri, resolution), grad_db)


def visible(ctx: RasterizeContext, pos: Tensor, tri: Tensor, resolution: tuple[int, int] | list[int]) -> Tensor:
    """(B, H, W) int32: triangle + 1 at each pixel, 0 where empty; arguments and errors as `rasterize`'s."""
    if pos.dtype != torch.float32 or pos.ndim != 3 or pos.shape[2] != 4:
        raise ValueError(f"pos must be a float32 tensor (B, V, 4), got {pos.dtype} {tuple(pos.shape)}.")
    if tri.device != pos.device:
        raise ValueError(f"pos is on {pos.device} but tri on {tri.device}: move them to one device.")
    height, width = resolution
    if not (0 < height <= _MAX_SIDE and 0 < width <= _MAX_SIDE):
        raise ValueError(f"resolution must be (H, W) with sides from 1 to {_MAX_SIDE}, got {tuple(resolution)}.")
    check_tri(tri, pos.shape[1])
    return ctx.visible(snap(pos, height, width), tri)

"""`interpolate` with nvdiffrast's signature (Laine et al. 2020, 2011.03277, section 3.3): A = u A_0 + v A_1 + (1 - u
- v) A_2, and dA/dX = du/dX (A_0 - A_2) + dv/dX (A_1 - A_2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from renderers.raster.rasterize import check_rast, check_tri, corners, scatter_rows


def interpolate(
    attr: Tensor,
    rast: Tensor,
    tri: Tensor,
    rast_db: Tensor | None = None,
    diff_attrs: Sequence[int] | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Interpolate vertex attributes over the visible triangles.

    attr: (B, V, C), (1, V, C) or (V, C), of rast's dtype. rast: (B, H, W, 4) from `rasterize`. tri: (F, 3) int32.
    diff_attrs: the attributes whose image-space derivatives are wanted, or "all"; they need rast_db (B, H, W, 4).
    Returns (B, H, W, C), zero where empty, and (B, H, W, 2 K): dA/dX, dA/dY of each of the K attributes.
    Gradients flow to attr, to rast's u and v, and to rast_db. Raises ValueError if shapes do not fit.
    """
    check_rast(rast, tri)
    table = attr[None] if attr.ndim == 2 else attr
    views, height, width, _ = rast.shape
    if table.ndim != 3 or table.shape[0] not in (1, views):
        raise ValueError(f"attr must be (V, C), (1, V, C) or ({views}, V, C), got {tuple(attr.shape)}.")
    if table.dtype != rast.dtype:
        raise ValueError(f"attr is {table.dtype} but rast {rast.dtype}: give both the same type.")
    vertices, channels = table.shape[1:]
    check_tri(tri, vertices)

    flat = rast.reshape(-1, 4)
    index = flat[:, 3].detach().nonzero()[:, 0]
    pixel = flat.index_select(0, index)
    face = pixel[:, 3].detach().int() - 1
    rows = corners(index, face, tri, height * width, vertices if table.shape[0] > 1 else 0)
    a = table.reshape(-1, channels).index_select(0, rows.reshape(-1)).reshape(-1, 3, channels)
    u, v = pixel[:, 0:1], pixel[:, 1:2]
    values = u * a[:, 0] + v * a[:, 1] + (1 - u - v) * a[:, 2]
    out = scatter_rows(values, index, views * height * width).reshape(views, height, width, channels)
    if diff_attrs is None:
        return out, rast.new_zeros(views, height, width, 0)
    chosen = list(range(channels)) if isinstance(diff_attrs, str) else [int(k) for k in diff_attrs]
    if diff_attrs not in ("all", chosen, tuple(chosen)) or any(not 0 <= k < channels for k in chosen):
        raise ValueError(f'diff_attrs must be "all" or attributes of 0 to {channels - 1}, got {diff_attrs!r}.')
    if rast_db is None or rast_db.shape != rast.shape:
        raise ValueError("diff_attrs need rast_db: call rasterize with grad_db=True, and pass on what it returns.")
    slopes = rast_db.reshape(-1, 4).index_select(0, index)
    a = a[..., torch.tensor(chosen, device=a.device)]
    one, other = a[:, 0] - a[:, 2], a[:, 1] - a[:, 2]
    da = slopes[:, None, :2] * one[..., None] + slopes[:, None, 2:] * other[..., None]
    wide = scatter_rows(da.reshape(len(index), -1), index, views * height * width)
    return out, wide.reshape(views, height, width, -1)

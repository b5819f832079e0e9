"""`interpolate` with nvdiffrast's signature (Laine et al. 2020, 2011.03277, section 3.3): A = u A_0 + v A_1 + (1 - u
- v) A_2."""

from __future__ import annotations

from torch import Tensor

from renderers.raster.rasterize import check_rast, check_tri, corners, scatter_rows


def interpolate(
    attr: Tensor, rast: Tensor, tri: Tensor, rast_db: Tensor | None = None, diff_attrs: object = None
) -> tuple[Tensor, Tensor]:
    """Interpolate vertex attributes over the visible triangles.

    attr: (B, V, C), (1, V, C) or (V, C), of rast's dtype. rast: (B, H, W, 4) from `rasterize`. tri: (F, 3) int32.
    Returns (B, H, W, C), zero where empty, and an empty (B, H, W, 0) tensor in place of attribute derivatives.
    Gradients flow to attr and to rast's u and v. Raises ValueError if derivatives are asked for or shapes do not fit.
    """
    if diff_attrs is not None or (rast_db is not None and rast_db.numel()):
        raise ValueError("Attribute derivatives are not computed: leave diff_attrs out.")
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
    return out, rast.new_zeros(views, height, width, 0)

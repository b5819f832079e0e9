"""The signed distance of a closed triangle mesh, on the grid of renderers/fields.py, in a band around its surface.

Inside is where the winding number along z is positive: crossings of a grid column with the triangles, counted by
their orientation, so that parts which overlap are one solid and folds do not punch holes. Distances are exact to the
nearest of the triangles whose sample points are nearest.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CANDIDATES = 6  # sample points, and so at most as many triangles, tried for each grid vertex
# columns pass this share of a cell beside the grid's, so that none meets an edge or a vertex of a mesh made on a grid
_OFFSET = np.array([1.7e-4, 2.9e-4])


def winding(vertices: NDArray[np.float64], faces: NDArray[np.int32], resolution: int) -> NDArray[np.int32]:
    """(R, R, R) winding numbers at grid vertices, of `vertices` (V, 3) in grid units (0 .. R - 1)."""
    p = vertices[faces].copy()
    p[..., :2] -= _OFFSET
    low = np.ceil(p[..., :2].min(1)).clip(0, resolution).astype(np.int64)
    high = np.floor(p[..., :2].max(1)).clip(-1, resolution - 1).astype(np.int64)
    size = (high - low + 1).clip(0)
    count = size[:, 0] * size[:, 1]
    face = np.repeat(np.arange(len(faces)), count)
    rank = np.arange(len(face)) - np.repeat(np.cumsum(count) - count, count)
    column = low[face] + np.stack([rank % size[face, 0], rank // size[face, 0]], 1)

    a, b, c = (p[face, i] for i in range(3))

    def area(s: NDArray[np.float64], t: NDArray[np.float64]) -> NDArray[np.float64]:
        e, d = t[:, :2] - s[:, :2], column - s[:, :2]
        return e[:, 0] * d[:, 1] - e[:, 1] * d[:, 0]

    wa, wb, wc = area(b, c), area(c, a), area(a, b)
    total = wa + wb + wc
    sign = np.sign(total).astype(np.int32)
    hit = (sign != 0) & (wa * sign >= 0) & (wb * sign >= 0) & (wc * sign >= 0)
    z = (wa * a[:, 2] + wb * b[:, 2] + wc * c[:, 2])[hit] / total[hit]
    above = np.ceil(z).clip(0, resolution).astype(np.int64)
    steps = np.zeros((resolution, resolution, resolution + 1), np.int32)
    # a triangle that faces up (+z) is where a column leaves the solid
    np.add.at(steps, (column[hit, 0], column[hit, 1], above), -sign[hit])
    return np.cumsum(steps, axis=2)[:, :, :resolution]


def signed_distance(vertices: Tensor, faces: Tensor, resolution: int, band: float = 3.0) -> Tensor:
    """(R, R, R) float32 distance in world units to a mesh (V, 3), (F, 3), positive inside, clamped to +-`band` cells.
    On the CPU."""
    from scipy.ndimage import binary_dilation
    from scipy.spatial import KDTree

    scale = (resolution - 1) / 2
    v = (vertices.detach().cpu().double().numpy() + 1) * scale
    f = faces.cpu().numpy()
    inside = winding(v, f, resolution) > 0
    samples, owner = _samples(v, f)
    near = np.zeros((resolution,) * 3, bool)
    i, j, k = np.round(samples).astype(np.int64).clip(0, resolution - 1).T
    near[i, j, k] = True
    near = np.asarray(binary_dilation(near, np.ones((3, 3, 3), bool), iterations=int(np.ceil(band))), bool)
    points = np.argwhere(near)
    _, index = KDTree(samples).query(points, k=CANDIDATES)
    distance = np.full(len(points), np.inf)
    for candidate in np.asarray(index).T:
        distance = np.minimum(distance, _to_triangle(points.astype(np.float64), v[f[owner[candidate]]]))
    out = np.full((resolution,) * 3, band)
    out[near] = np.minimum(distance, band)
    out = np.where(inside, out, -out) / scale
    return torch.from_numpy(out.astype(np.float32))


def _samples(v: NDArray[np.float64], f: NDArray[np.int32]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Points on the triangles, about half a cell apart, and the triangle of each."""
    p = v[f]
    longest = np.linalg.norm(p - np.roll(p, -1, axis=1), axis=2).max(1)
    cuts = np.ceil(longest / 0.5).clip(1, 64).astype(np.int64)
    points, owner = [], []
    for n in np.unique(cuts):
        which = np.nonzero(cuts == n)[0]
        i, j = (x.reshape(-1) for x in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
        keep = i + j < n
        u, w = (i[keep] + 1 / 3) / n, (j[keep] + 1 / 3) / n
        corner = np.stack([1 - u - w, u, w], 1)
        points.append(np.einsum("sk,fkd->fsd", corner, p[which]).reshape(-1, 3))
        owner.append(np.repeat(which, len(corner)))
    return np.concatenate(points), np.concatenate(owner)


def _to_triangle(x: NDArray[np.float64], t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances (N,) of points (N, 3) to triangles (N, 3, 3): to the plane where the foot is inside, else the nearest
    edge."""
    best = np.full(len(x), np.inf)
    normal = np.cross(t[:, 1] - t[:, 0], t[:, 2] - t[:, 0])
    square = (normal**2).sum(1)
    within = square > 1e-20
    for i in range(3):
        a, edge = t[:, i], t[:, (i + 1) % 3] - t[:, i]
        d = x - a
        along = ((d * edge).sum(1) / np.maximum((edge**2).sum(1), 1e-30)).clip(0, 1)
        best = np.minimum(best, np.linalg.norm(d - along[:, None] * edge, axis=1))
        within &= (np.cross(edge, d) * normal).sum(1) >= 0
    height = np.abs(((x - t[:, 0]) * normal).sum(1)) / np.sqrt(np.maximum(square, 1e-30))
    return np.where(within, np.minimum(best, height), best)

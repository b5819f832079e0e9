"""An atlas by box projection: what a mesh gets where xatlas fails. More charts and seams than xatlas makes, but always
an atlas, in seconds.

Every face is projected along the one of the six axis directions that its normal, smoothed over its neighbours, is
nearest to. Charts are connected faces of one direction; where a chart covers itself (a spiral ramp) it is cut at half
its depth until it does not. Charts lie on shelves, the highest first, as large as a bisection finds that they fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from app.export.overlap import overlapping

AXES = np.concatenate([np.eye(3), -np.eye(3)])
STEEP = 0.3  # cosine under which a face is not projected along its neighbours' direction
CUTS = 10
PASSES = 14


def adjacent(vertices: NDArray, faces: NDArray) -> NDArray[np.int64]:
    """(P, 2) pairs of faces that share an edge, by the positions of its ends; an edge of many faces chains them."""
    _, welded = np.unique(vertices, axis=0, return_inverse=True)
    corners = welded.reshape(-1)[faces]
    ends = np.sort(np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]]), 1)
    face = np.tile(np.arange(len(faces)), 3)
    key = ends[:, 0].astype(np.int64) * (int(corners.max()) + 1) + ends[:, 1]
    key[ends[:, 0] == ends[:, 1]] = -1  # an edge without length joins nothing
    order = np.argsort(key, kind="stable")
    same = (key[order][1:] == key[order][:-1]) & (key[order][1:] >= 0)
    return np.stack([face[order][:-1][same], face[order][1:][same]], 1)


def components(pairs: NDArray, count: int) -> NDArray[np.int64]:
    """(F,) the component of each face, joined by `pairs` (P, 2)."""
    links = coo_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(links, directed=False)[1].astype(np.int64)


def directions(vertices: NDArray, faces: NDArray, pairs: NDArray) -> NDArray[np.int64]:
    """(F,) which of AXES each face is projected along."""
    p = vertices[faces].astype(np.float64)
    cross = np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    unit = cross / np.maximum(np.linalg.norm(cross, axis=1, keepdims=True), 1e-300)
    links = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(faces),) * 2).tocsr()
    links = links + links.T
    smooth = cross
    for _ in range(3):
        smooth = smooth + links @ smooth
    toward = smooth @ AXES.T
    own = unit @ AXES.T
    flat = np.abs(unit).max(1) < 0.5  # no area: as its neighbours
    allowed = (own > STEEP) | flat[:, None]
    return np.where(allowed, toward, -np.inf).argmax(1)


def project(points: NDArray, axis: NDArray) -> tuple[NDArray, NDArray]:
    """(plane (N, 2), depth (N,)) of points (N, 3), each along its direction (N,); seen from outside, not mirrored."""
    k, back = axis % 3, axis >= 3
    rows = np.arange(len(points))
    u, v = points[rows, (k + 1) % 3], points[rows, (k + 2) % 3]
    return np.stack([np.where(back, -u, u), v], 1), np.where(back, -points[rows, k], points[rows, k])


def uncovered(flat: NDArray, depth: NDArray, chart: NDArray, pairs: NDArray) -> tuple[NDArray, bool]:
    """`chart` (F,) cut further so that no chart covers itself, and whether that could be looked at. flat (F, 3, 2) in
    texels, depth (F,), pairs (P, 2) neighbours."""
    for cut in range(CUTS + 1):
        spread = apart(flat, chart)
        found = overlapping(spread)
        if found is None:
            return chart, False
        if len(found) == 0:
            return chart, True
        chart = chart.copy()
        if cut == CUTS:  # doubled faces, crossing ones: each a chart of its own
            alone = np.unique(found[:, 1])
            chart[alone] = chart.max() + 1 + np.arange(len(alone))
            continue
        owner, middle = chart[found[:, 0]], depth[found].mean(1)
        order = np.lexsort((middle, owner))
        ids, first, count = np.unique(owner[order], return_index=True, return_counts=True)
        level = np.full(chart.max() + 1, np.inf)
        level[ids] = middle[order][first + count // 2]
        side = 2 * chart + (depth > level[chart])
        chart = components(pairs[side[pairs[:, 0]] == side[pairs[:, 1]]], len(chart))
    spread = apart(flat, chart)
    found = overlapping(spread)
    return chart, found is not None


def boxes(flat: NDArray, chart: NDArray) -> tuple[NDArray, NDArray]:
    """(low (C, 2), extent (C, 2)) of each chart's corners."""
    low, high = np.full((chart.max() + 1, 2), np.inf), np.full((chart.max() + 1, 2), -np.inf)
    np.minimum.at(low, chart, flat.min(1))
    np.maximum.at(high, chart, flat.max(1))
    return low, high - low


def apart(flat: NDArray, chart: NDArray) -> NDArray:
    """The corners (F, 3, 2) with the charts side by side on one line."""
    low, extent = boxes(flat, chart)
    width = extent[:, 0] + 1
    at = np.stack([np.cumsum(width) - width, np.zeros(len(width))], 1)
    return flat + (at - low)[chart][:, None]


def shelves(extent: NDArray, size: float, gap: float) -> tuple[NDArray, float]:
    """(corner (C, 2) of each box (C, 2), height of all): boxes with `gap` around them, the highest first, on shelves
    of width `size`."""
    order = np.argsort(-extent[:, 1], kind="stable")
    width, height = (extent[order] + gap).T.tolist()
    corners, x, y, shelf = [], 0.0, 0.0, 0.0
    for w, h in zip(width, height, strict=True):
        if x > 0 and x + w > size:
            x, y, shelf = 0.0, y + shelf, 0.0
        corners.append((x, y))
        shelf = max(shelf, h)
        x += w
    out = np.empty((len(order), 2))
    out[order] = np.array(corners) + gap / 2
    return out, y + shelf


def pack(extent: NDArray, size: int, padding: int) -> tuple[NDArray, float, float]:
    """(corners (C, 2) in texels, scale, gap): boxes (C, 2) as large as they fit into size x size texels. Where there
    are too many for the padding, the gap is less, at last none."""
    area = float((extent[:, 0] * extent[:, 1]).sum())
    longest = max(float(extent.max()), 1e-30)
    gap = next((g for g in (padding, 2, 1, 0.5) if len(extent) * (g + 1) ** 2 < 0.6 * size**2), 0.0)
    low, high = 0.0, min(2 * size / max(area, 1e-60) ** 0.5, size / longest)
    best = shelves(extent * low, size, gap)[0]
    for _ in range(PASSES):
        scale = (low + high) / 2
        corners, height = shelves(extent * scale, size, gap)
        if height <= size and float((extent[:, 0] * scale + gap).max()) <= size:
            low, best = scale, corners
        else:
            high = scale
    return best, low, gap


@dataclass(frozen=True)
class BoxAtlas:
    """vmapping (V',), faces (F, 3) into the split vertices, uv (V', 2) in [0, 1], the number of charts, and whether
    they could be searched for overlaps (`checked`)."""

    vmapping: NDArray
    faces: NDArray
    uv: NDArray
    charts: int
    checked: bool


def box_atlas(vertices: NDArray, faces: NDArray, size: int, padding: int) -> BoxAtlas:
    """The atlas of vertices (V, 3) and faces (F, 3), of `size` texels a side with `padding` between charts."""
    vertices = vertices.astype(np.float64)
    extent = float(np.ptp(vertices[faces].reshape(-1, 3), 0).max())
    pairs = adjacent(vertices, faces)
    axis = directions(vertices, faces, pairs)
    chart = components(pairs[axis[pairs[:, 0]] == axis[pairs[:, 1]]], len(faces))
    corners = vertices[faces].reshape(-1, 3) / max(extent, 1e-300) * size  # a texel or so is a unit
    flat, depth = project(corners, np.repeat(axis, 3))
    flat, depth = flat.reshape(-1, 3, 2), depth.reshape(-1, 3).mean(1)
    chart, checked = uncovered(flat, depth, chart, pairs)
    low, size_of = boxes(flat, chart)
    upright = size_of[:, 1] > size_of[:, 0]  # lay it down: shelves are fuller, and a quarter turn mirrors nothing
    turned = np.stack([flat[..., 1], -flat[..., 0]], -1)
    flat = np.where(upright[chart][:, None, None], turned, flat)
    low, size_of = boxes(flat, chart)
    at, scale, _ = pack(size_of, size, padding)
    placed = ((flat - low[chart][:, None]) * scale + at[chart][:, None]) / size
    key = np.repeat(chart, 3) * len(vertices) + faces.reshape(-1)
    unique, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    uv = placed.reshape(-1, 2)[first].clip(0, 1)
    return BoxAtlas(unique % len(vertices), inverse.reshape(-1, 3), uv, int(chart.max()) + 1, checked)

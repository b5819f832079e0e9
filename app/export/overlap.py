"""Triangles in the plane that overlap, in numpy alone: xatlas's charts, a box projection's and anybody's texture
coordinates are searched by it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST = 40_000_000  # pairs that share a cell: more take longer than they are worth
CHUNK = 1 << 20


def neighbours(corners: NDArray) -> NDArray | None:
    """Pairs (P, 2) of flat triangles (F, 3, 2) whose boxes overlap, each once, found over a grid of cells; None where
    more than MOST share a cell."""
    low, high = corners.min(1), corners.max(1)
    cell = max(2 * float((high - low).mean()), 1e-6)
    first = ((low - low.min(0)) / cell).astype(np.int64)
    spans = ((high - low.min(0)) / cell).astype(np.int64) - first + 1
    counts = spans[:, 0] * spans[:, 1]
    if counts.sum() > MOST:
        return None
    face = np.repeat(np.arange(len(corners)), counts)
    within = np.arange(len(face)) - np.repeat(np.cumsum(counts) - counts, counts)
    column = first[face, 0] + within % spans[face, 0]
    row = first[face, 1] + within // spans[face, 0]
    cells = row * (int(column.max()) + 1) + column
    order = np.argsort(cells, kind="stable")
    cells, face = cells[order], face[order]
    crowd = np.unique(cells, return_counts=True)[1].astype(np.float64)
    if (crowd**2).sum() / 2 > MOST or crowd.max() * len(cells) > 100 * MOST:
        return None
    pairs = []
    for step in range(1, int(crowd.max())):
        together = np.flatnonzero(cells[step:] == cells[:-step])
        a, b = face[together], face[together + step]
        meet = (low[a] < high[b]).all(1) & (low[b] < high[a]).all(1)
        pairs.append(a[meet] * len(corners) + b[meet])
    keys = np.unique(np.concatenate(pairs)) if pairs else np.empty(0, np.int64)
    return np.stack(np.divmod(keys, len(corners)), 1)


def overlapping(corners: NDArray) -> NDArray | None:
    """Pairs (P, 2) of flat triangles (F, 3, 2), in texels, that overlap; None where there are too many to look at.

    Two triangles overlap unless the line of one of their six edges separates them, up to a thousandth of a texel. One
    without area overlaps nothing.
    """
    corners = corners.astype(np.float64)
    pairs = neighbours(corners)
    if pairs is None:
        return None
    edges = np.roll(corners, -1, 1) - corners
    turn = np.sign(edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0])
    outward = np.stack([edges[..., 1], -edges[..., 0]], -1) * turn[:, None, None]
    outward /= np.maximum(np.linalg.norm(outward, axis=-1, keepdims=True), 1e-12)
    found = [_cross(part, corners, outward, turn) for part in np.array_split(pairs, len(pairs) // CHUNK + 1)]
    return np.concatenate(found)


def _cross(pairs: NDArray, corners: NDArray, outward: NDArray, turn: NDArray) -> NDArray:
    apart = (turn[pairs] == 0).any(1)
    for a, b in (pairs.T, pairs.T[::-1]):
        for edge in range(3):
            # (P, 3): distance of b's corners outside the line of a's edge
            outside = ((corners[b] - corners[a, edge][:, None]) * outward[a, edge][:, None]).sum(-1)
            apart |= (outside > -1e-3).all(1)
    return pairs[~apart]

"""Mirror symmetry across the plane x = 0: measured, and made exact from the better half.

The mesh is cut at x = 0 and the half with more surface is mirrored. Vertices close to the plane are moved onto it
where that leaves a closed manifold, and else clear of it: then every face that the plane meets is cut through two
edges, the cut is a set of closed curves, and both halves meet there and nowhere else.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from renderers.topology import Bools, Floats, Ints, arrays, compact, face_areas, faults, half_edges, partners, tensors

NEAR = 0.03  # of the bounding radius: how far a mirrored point may be from the surface
CLOSE = 0.3  # of a vertex's mean edge length: closer than this to the plane, it is moved onto it
POINTS = 12_000


def symmetry(vertices: Tensor, faces: Tensor) -> float:
    """How much of the surface, 0 to 1, has a mirror image across x = 0 within NEAR of the bounding radius.

    vertices (V, 3) in the world, faces (F, 3), of which there are some.
    """
    from scipy.spatial import KDTree

    v, f = arrays(vertices, faces)
    area = face_areas(v, f)
    # as many points as area, spread evenly within each face (Roberts' sequence): the same mesh, the same points
    count = np.diff(np.floor(np.r_[0, np.cumsum(area)] / area.sum() * POINTS).astype(np.int64))
    face = np.repeat(np.arange(len(f)), count)
    k = np.arange(len(face))
    s, t = (0.7548776662466927 * k) % 1, (0.5698402909980532 * k) % 1
    s, t = np.where(s + t > 1, 1 - s, s), np.where(s + t > 1, 1 - t, t)
    a, b, c = (v[f[face, i]] for i in range(3))
    points = a + s[:, None] * (b - a) + t[:, None] * (c - a)
    far, _ = KDTree(points).query(points * (-1, 1, 1))
    spacing = float(np.sqrt(area.sum() / POINTS))
    radius = float(np.linalg.norm(v - (v.max(0) + v.min(0)) / 2, axis=1).max())
    return float((far < NEAR * radius + spacing).mean())


def mirrored(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, NDArray[np.int64], Floats, int]:
    """The symmetric mesh, from the half with more surface: vertices (V', 3), faces (F', 3) on the CPU, and where each
    vertex comes from: ends (V', 2) of an edge of the mesh given, the share (V',) of the way from the first to the
    second, and the side, 1 or -1, of x that was kept. ValueError where one side has no surface.

    A closed manifold gives a closed manifold.
    """
    v, f = arrays(vertices, faces)
    middle = v[f].mean(1)[:, 0]
    area = face_areas(v, f)
    side = 1 if area[middle > 0].sum() >= area[middle < 0].sum() else -1
    if not (side * v[:, 0] > 0).any():
        raise ValueError("The mesh has no surface beside x = 0, so there is nothing to mirror.")
    start, end = half_edges(f)
    length = np.bincount(start, np.linalg.norm(v[start] - v[end], axis=1), len(v)) / np.maximum(
        np.bincount(start, minlength=len(v)), 1
    )
    x = side * v[:, 0]
    radius = float(np.abs(v).max())
    for close in (CLOSE, 0.0):
        on = np.abs(x) < np.maximum(close * length, 1e-5 * radius)
        if close:
            moved = np.where(on, 0, x)
        else:  # clear of the plane, on the side that it is on
            moved = np.where(on, np.where(x < 0, -1e-4, 1e-4) * radius, x)
        out = _half_and_mirror(v, f, moved, side)
        if faults(out[1]).manifold:
            break
    w, g, ends, share = out
    return *tensors(w, g), ends, share, side


def _half_and_mirror(v: Floats, f: Ints, x: Floats, side: int) -> tuple[Floats, Ints, Ints, Floats]:
    """The mesh with x in place of its first coordinate times `side`, cut at 0 and mirrored."""
    sign = np.sign(x).astype(np.int64)
    start, end = half_edges(f)
    partner = partners(f)
    crossing = np.flatnonzero(sign[start] * sign[end] < 0)
    one = crossing[(partner[crossing] < 0) | (crossing < partner[crossing])]
    number = np.full(3 * len(f), -1)
    number[one] = len(v) + np.arange(len(one))
    inner = one[partner[one] >= 0]
    number[partner[inner]] = number[inner]
    ends = np.concatenate([np.stack([np.arange(len(v))] * 2, 1), np.stack([start[one], end[one]], 1)])
    share = np.concatenate([np.zeros(len(v)), x[start[one]] / (x[start[one]] - x[end[one]])])
    w = v[ends[:, 0]] * (1 - share[:, None]) + v[ends[:, 1]] * share[:, None]
    w[:, 0] = side * np.concatenate([x, np.zeros(len(one))])

    kept = [f[(sign[f] >= 0).all(1) & (sign[f] > 0).any(1)]]
    above = (sign[f] > 0).sum(1)
    below = (sign[f] < 0).sum(1)
    for k in range(3):
        a, b, c = f[:, k], f[:, (k + 1) % 3], f[:, (k + 2) % 3]
        ab, bc, ca = (number.reshape(-1, 3)[:, (k + i) % 3] for i in range(3))
        at = (sign[a] > 0) & (above == 1) & (below == 2)  # a tip
        kept.append(np.stack([a, ab, ca], 1)[at])
        at = (sign[c] < 0) & (above == 2) & (below == 1)  # all but a tip
        kept += [np.stack([a, b, bc], 1)[at], np.stack([a, bc, ca], 1)[at]]
        at = (sign[a] > 0) & (sign[b] < 0) & (sign[c] == 0)
        kept.append(np.stack([a, ab, c], 1)[at])
        at = (sign[a] > 0) & (sign[c] < 0) & (sign[b] == 0)
        kept.append(np.stack([a, b, ca], 1)[at])
    half = np.concatenate(kept)
    on_plane = w[:, 0] == 0
    image = np.where(on_plane, np.arange(len(w)), len(w) + np.arange(len(w)))
    whole = np.concatenate([half, image[half[:, ::-1]]])
    w = np.concatenate([w, w * (-1, 1, 1)])
    ends, share = np.concatenate([ends, ends]), np.concatenate([share, share])
    used = _used(whole, len(w))
    w, whole = compact(w, whole)
    return w, whole, ends[used], share[used]


def _used(f: Ints, count: int) -> Bools:
    used = np.zeros(count, bool)
    used[f] = True
    return used

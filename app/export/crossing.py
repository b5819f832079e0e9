"""Triangles that pass through one another, walls that are thin, and texels that are used, by compiled loops.

A uniform grid holds which triangles touch which cell. Two triangles cross where an edge of one passes through the
other; those that share an edge, or lie in one plane, are not counted.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

MOST_ENTRIES = 8_000_000  # of triangles in cells
MOST_TESTS = 40_000_000  # of pairs
MOST_TEXELS = 60_000_000  # of triangles' bounding boxes
CELLS = 256  # along the longest side, at most
ENDS = 1e-7  # of a segment: what only touches with its end does not pass through
Grid = tuple[NDArray, float, NDArray, NDArray, NDArray]


@njit(cache=True, nogil=True)
def _span(p, face, low, cell, shape, out):
    """out (2, 3): the first and last cell of a triangle's box along each axis."""
    for k in range(3):
        a, b, c = p[face, 0, k], p[face, 1, k], p[face, 2, k]
        out[0, k] = min(max(int((min(a, b, c) - low[k]) / cell), 0), shape[k] - 1)
        out[1, k] = min(max(int((max(a, b, c) - low[k]) / cell), 0), shape[k] - 1)


@njit(cache=True, nogil=True)
def _fill(p, low, cell, shape, starts, entries, count_only):
    """How many triangles each cell has (in `starts`), or, second, which (in `entries`, from `starts` on)."""
    span = np.empty((2, 3), np.int64)
    total = 0
    for face in range(len(p)):
        _span(p, face, low, cell, shape, span)
        for i in range(span[0, 0], span[1, 0] + 1):
            for j in range(span[0, 1], span[1, 1] + 1):
                for k in range(span[0, 2], span[1, 2] + 1):
                    at = (i * shape[1] + j) * shape[2] + k
                    if not count_only:
                        entries[starts[at]] = face
                    starts[at] += 1
                    total += 1
    return total


def grid(p: NDArray[np.float64]) -> Grid:
    """The grid of triangles p (F, 3, 3): (lowest corner, side of a cell, cells along each axis, where each cell's list
    begins, all lists)."""
    low, high = p.min((0, 1)), p.max((0, 1))
    longest = max(float((high - low).max()), 1e-30)
    cell = max(1.5 * float((p.max(1) - p.min(1)).mean()), longest / CELLS)
    while True:
        shape = np.maximum(1, np.ceil((high - low) / cell)).astype(np.int64)
        span = (((p.max(1) - low) / cell).astype(np.int64) - ((p.min(1) - low) / cell).astype(np.int64) + 1).prod(1)
        if span.sum() <= MOST_ENTRIES or shape.max() == 1:
            break
        cell *= 2
    counts = np.zeros(int(shape.prod()), np.int64)
    total = _fill(p, low, cell, shape, counts, np.empty(0, np.int64), True)
    starts = np.r_[0, np.cumsum(counts)]
    entries = np.empty(total, np.int64)
    _fill(p, low, cell, shape, starts[:-1].copy(), entries, False)
    return low, cell, shape, starts, entries


@njit(cache=True, nogil=True)
def _pierces(p, q, tri):
    """Where along the segment from p to q, in (0, 1), it passes through a triangle; -1 for nowhere."""
    e1, e2, d = tri[1] - tri[0], tri[2] - tri[0], q - p
    hx, hy, hz = d[1] * e2[2] - d[2] * e2[1], d[2] * e2[0] - d[0] * e2[2], d[0] * e2[1] - d[1] * e2[0]
    det = e1[0] * hx + e1[1] * hy + e1[2] * hz
    size = np.sqrt((e1 * e1).sum() * (e2 * e2).sum() * (d * d).sum())
    if abs(det) <= 1e-10 * size or size == 0.0:
        return -1.0
    s = p - tri[0]
    u = (s[0] * hx + s[1] * hy + s[2] * hz) / det
    if u < 0 or u > 1:
        return -1.0
    kx, ky, kz = s[1] * e1[2] - s[2] * e1[1], s[2] * e1[0] - s[0] * e1[2], s[0] * e1[1] - s[1] * e1[0]
    v = (d[0] * kx + d[1] * ky + d[2] * kz) / det
    if v < 0 or u + v > 1:
        return -1.0
    t = (e2[0] * kx + e2[1] * ky + e2[2] * kz) / det
    return t if ENDS < t < 1 - ENDS else -1.0


@njit(cache=True, nogil=True)
def _crossings(p, faces, low, cell, shape, starts, entries, most):
    """(pairs of triangles that cross, pairs that were looked at)."""
    first, second = np.empty((2, 3), np.int64), np.empty((2, 3), np.int64)
    found, tests = 0, 0
    for at in range(len(starts) - 1):
        i, j, k = at // (shape[1] * shape[2]), at // shape[2] % shape[1], at % shape[2]
        for x in range(starts[at], starts[at + 1]):
            a = entries[x]
            _span(p, a, low, cell, shape, first)
            for y in range(x + 1, starts[at + 1]):
                b = entries[y]
                apart = False
                for c in range(3):
                    apart |= min(p[a, 0, c], p[a, 1, c], p[a, 2, c]) > max(p[b, 0, c], p[b, 1, c], p[b, 2, c])
                    apart |= min(p[b, 0, c], p[b, 1, c], p[b, 2, c]) > max(p[a, 0, c], p[a, 1, c], p[a, 2, c])
                if apart:
                    continue
                _span(p, b, low, cell, shape, second)
                here = max(first[0, 0], second[0, 0]) == i  # each pair in one cell alone
                here &= max(first[0, 1], second[0, 1]) == j
                here &= max(first[0, 2], second[0, 2]) == k
                shared = 0
                for m in range(3):
                    for n in range(3):
                        shared += faces[a, m] == faces[b, n]
                if not here or shared > 1:
                    continue
                tests += 1
                if tests > most:
                    return found, tests
                crossed = False
                for m in range(3):
                    n = (m + 1) % 3
                    crossed = crossed or _pierces(p[a, m], p[a, n], p[b]) > 0 or _pierces(p[b, m], p[b, n], p[a]) > 0
                found += crossed
    return found, tests


def crossings(p: NDArray[np.float64], faces: NDArray[np.int64], found: Grid) -> tuple[int, bool]:
    """(pairs of triangles (F, 3, 3) that pass through one another, whether the count was cut off at MOST_TESTS)."""
    pairs, tests = _crossings(p, faces, *found, MOST_TESTS)
    return int(pairs), bool(tests > MOST_TESTS)


@njit(cache=True, nogil=True)
def _thin(p, normals, chosen, wall, low, cell, shape, starts, entries, out):
    """out: for each chosen triangle whether a wall ends within `wall` behind its middle."""
    lowest, highest = np.empty(3, np.int64), np.empty(3, np.int64)
    for x in range(len(chosen)):
        a = chosen[x]
        start = (p[a, 0] + p[a, 1] + p[a, 2]) / 3
        end = start - wall * normals[a]
        for k in range(3):
            lowest[k] = min(max(int((min(start[k], end[k]) - low[k]) / cell), 0), shape[k] - 1)
            highest[k] = min(max(int((max(start[k], end[k]) - low[k]) / cell), 0), shape[k] - 1)
        hit = False
        for i in range(lowest[0], highest[0] + 1):
            for j in range(lowest[1], highest[1] + 1):
                for k in range(lowest[2], highest[2] + 1):
                    at = (i * shape[1] + j) * shape[2] + k
                    for y in range(starts[at], starts[at + 1]):
                        b = entries[y]
                        if hit or b == a:
                            continue
                        facing = normals[a, 0] * normals[b, 0] + normals[a, 1] * normals[b, 1]
                        facing += normals[a, 2] * normals[b, 2]
                        if facing < 0:  # the far side of the wall looks the other way
                            hit = _pierces(start, end, p[b]) > 0
                if hit:
                    break
        out[x] = hit


def thin_share(p: NDArray[np.float64], wall: float, found: Grid, most: int = 20_000) -> float:
    """Share of the surface under which the other side is nearer than `wall`; of `most` triangles, evenly chosen."""
    cross = np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    double = np.linalg.norm(cross, axis=1)
    solid = np.flatnonzero(double > 0)
    if not len(solid):
        return 0.0
    normals = cross / np.maximum(double, 1e-300)[:, None]
    chosen = solid[np.linspace(0, len(solid) - 1, min(most, len(solid))).astype(np.int64)]
    out = np.zeros(len(chosen), np.bool_)
    _thin(p, normals, chosen, wall, *found, out)
    return float(double[chosen][out].sum() / double[chosen].sum())


@njit(cache=True, nogil=True)
def _cover(t, high, wide, count):
    """Add 1 to each texel of `count` whose centre lies strictly within a triangle t (F, 3, 2), in texels."""
    for face in range(len(t)):
        ax, ay, bx, by, cx, cy = (
            t[face, 0, 0],
            t[face, 0, 1],
            t[face, 1, 0],
            t[face, 1, 1],
            t[face, 2, 0],
            t[face, 2, 1],
        )
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0.0:
            continue
        for row in range(max(0, int(np.floor(min(ay, by, cy) - 0.5))), min(high, int(np.ceil(max(ay, by, cy) + 0.5)))):
            y = row + 0.5
            for column in range(
                max(0, int(np.floor(min(ax, bx, cx) - 0.5))), min(wide, int(np.ceil(max(ax, bx, cx) + 0.5)))
            ):
                x = column + 0.5
                u = ((bx - x) * (cy - y) - (by - y) * (cx - x)) / area
                v = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) / area
                if u > 1e-6 and v > 1e-6 and u + v < 1 - 1e-6:
                    count[row, column] += 1


def texel_counts(t: NDArray[np.float64], high: int, wide: int) -> NDArray[np.int32] | None:
    """(high, wide) in how many triangles (F, 3, 2), in texels, each texel's centre lies; None where that is too many
    to count."""
    size = np.array([wide, high])
    box = (np.minimum(t.max(1), size) - np.maximum(t.min(1), 0) + 2).clip(0).prod(1)
    if box.sum() > MOST_TEXELS:
        return None
    count = np.zeros((high, wide), np.int32)
    _cover(t, high, wide, count)
    return count


def compile_kernels() -> None:
    """Compile, or load from the cache."""
    p = np.zeros((2, 3, 3))
    p[0, 1, 0] = p[0, 2, 1] = 1.0
    found = grid(p)
    crossings(p, np.arange(6).reshape(2, 3), found)
    thin_share(p, 0.1, found)
    texel_counts(p[..., :2].copy(), 4, 4)

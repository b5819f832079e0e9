"""Decimation by quadric edge collapse that leaves a closed manifold one (Garland and Heckbert 1997).

A vertex carries the quadric Q(x) = sum of A_f (n_f . x - d_f)^2 over the planes of the faces that were merged into it.
The edge whose merged vertex costs least collapses first, to where Q_a + Q_b is smallest (held near the edge where that
is not determined). It collapses only if

- its ends have exactly two common neighbours, and are not both of three faces: the link condition (Dey et al. 1999),
  under which the surface keeps its topology, so that no edge gets a third face and no face a double;
- no face around it turns by more than TURNED allows, or becomes a needle; this is eased where nothing else is left.

So parts, handles and holes survive any target: where nothing may collapse any more, more faces are left than asked.
A serial queue in numba: ties go to the lower vertex numbers, and the same mesh gives the same faces.
"""

from __future__ import annotations

import heapq

import numpy as np
from numba import njit
from torch import Tensor

from renderers.cleanup import repair
from renderers.topology import Floats, Ints, arrays, compact, face_areas, faults, half_edges, tensors

TURNED = 0.2  # least cosine between a face's normals before and after
NEEDLE = 0.02  # least 4 sqrt(3) area / (sum of squared edges) of a face, 1 for an equilateral one
HELD = 1e-4  # pull towards the middle of the edge, as a share of the quadric's trace
EVEN = 1e-6  # cost of an edge's squared length, as a share of the trace: short edges first where all is flat


def decimate(
    vertices: Tensor, faces: Tensor, target_faces: int, borders: Tensor | None = None, weight: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Vertices (V', 3) float32 and faces (F', 3) int32 on the CPU: at most `target_faces`, if the topology has so few.

    A mesh that already has so few is returned as it is; one that is no closed manifold is repaired first. borders
    (B, 2) int: edges, by their vertices in a closed manifold, that should stay where they are (where colours meet),
    with `weight` times a face's. ValueError for target_faces < 4.
    """
    if target_faces < 4:
        raise ValueError(f"a closed mesh has at least 4 faces, got a target of {target_faces}")
    if len(faces) <= target_faces:
        return vertices, faces
    v, f = arrays(vertices, faces)
    if not faults(f).manifold:
        if borders is not None:
            raise ValueError("borders are edges of a closed manifold, which this mesh is not")
        v, f = arrays(*repair(vertices, faces)[:2])
    quadrics = face_quadrics(v, f)
    if borders is not None:
        add_borders(quadrics, v, f, borders.cpu().long().numpy(), weight)
    first, after = corner_lists(f, len(v))
    v, f = v.copy(), f.copy()
    _collapse(v, f, quadrics, first, after, target_faces, TURNED, NEEDLE, HELD, EVEN)
    return tensors(*compact(v, f[f[:, 0] >= 0]))


def plane_quadrics(n: Floats, d: Floats, w: Floats) -> Floats:
    """(N, 10) of w (n . x - d)^2: the upper triangle of w n n^T, then w d n, then w d^2."""
    x, y, z = n.T
    return w[:, None] * np.stack([x * x, x * y, x * z, y * y, y * z, z * z, d * x, d * y, d * z, d * d], 1)


def face_quadrics(v: Floats, f: Ints) -> Floats:
    """(V, 10): each vertex has those of its faces' planes, by a third of their area."""
    area = face_areas(v, f)
    n = np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]]) / np.maximum(2 * area, 1e-30)[:, None]
    q = plane_quadrics(n, (n * v[f[:, 0]]).sum(1), area / 3)
    out = np.zeros((len(v), 10))
    for k in range(3):
        np.add.at(out, f[:, k], q)
    return out


def add_borders(quadrics: Floats, v: Floats, f: Ints, borders: Ints, weight: float) -> None:
    """Adds, for each border edge, the plane through it across the surface."""
    normal = np.zeros_like(v)
    for k in range(3):
        np.add.at(normal, f[:, k], np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]]))
    a, b = borders.T
    along = v[b] - v[a]
    n = np.cross(along, normal[a] + normal[b])
    n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-30)
    q = plane_quadrics(n, (n * v[a]).sum(1), weight * (along**2).sum(1))
    np.add.at(quadrics, a, q)
    np.add.at(quadrics, b, q)


def corner_lists(f: Ints, vertices: int) -> tuple[Ints, Ints]:
    """Each vertex's first corner (V,), and each corner's next at the same vertex (3F,); -1 ends a list."""
    start, _ = half_edges(f)
    order = np.argsort(start, kind="stable")
    after = np.full(len(start), -1)
    same = start[order][1:] == start[order][:-1]
    after[order[:-1][same]] = order[1:][same]
    first = np.full(vertices, -1)
    first[start[order][::-1]] = order[::-1]
    return first, after


@njit(cache=True, nogil=True)
def _place(q, v, a, b, held, even):  # pragma: no cover - compiled
    """Where a and b merge, and what it costs."""
    m = (v[a] + v[b]) / 2
    away = v[a] - v[b]
    trace = q[0] + q[3] + q[5]
    h = held * trace + 1e-300
    # (A + h I) x = b + h m, by Cramer's rule
    xx, xy, xz, yy, yz, zz = q[0] + h, q[1], q[2], q[3] + h, q[4], q[5] + h
    r0, r1, r2 = q[6] + h * m[0], q[7] + h * m[1], q[8] + h * m[2]
    c0, c1, c2 = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
    det = xx * c0 + xy * c1 + xz * c2
    x = m.copy()
    if det > 0:
        x[0] = (r0 * c0 + r1 * c1 + r2 * c2) / det
        x[1] = (r0 * c1 + r1 * (xx * zz - xz * xz) + r2 * (xy * xz - xx * yz)) / det
        x[2] = (r0 * c2 + r1 * (xy * xz - xx * yz) + r2 * (xx * yy - xy * xy)) / det
        square = (away**2).sum()
        if not ((x - m) ** 2).sum() <= 4 * square:
            x[:] = m
    cost = (
        q[0] * x[0] * x[0]
        + q[3] * x[1] * x[1]
        + q[5] * x[2] * x[2]
        + 2 * (q[1] * x[0] * x[1] + q[2] * x[0] * x[2] + q[4] * x[1] * x[2])
        - 2 * (q[6] * x[0] + q[7] * x[1] + q[8] * x[2])
        + q[9]
    )
    return x, max(cost, 0.0) + even * trace * (away**2).sum()


@njit(cache=True, nogil=True)
def _turns(v, f, first, after, a, b, x, turned, needle):  # pragma: no cover - compiled
    """Whether a face at `a` that is not at `b` turns over, or becomes a needle, when `a` moves to x."""
    corner = first[a]
    while corner >= 0:
        face = corner // 3
        if f[face, 0] >= 0 and f[face, 0] != b and f[face, 1] != b and f[face, 2] != b:
            k = corner % 3
            p, q = v[f[face, (k + 1) % 3]], v[f[face, (k + 2) % 3]]
            n = np.cross(p - v[a], q - v[a])
            m = np.cross(p - x, q - x)
            nn, mm = (n * n).sum(), (m * m).sum()
            if (n * m).sum() < turned * np.sqrt(nn * mm) or not mm > 0:
                return True
            edges = ((p - x) ** 2).sum() + ((q - x) ** 2).sum() + ((p - q) ** 2).sum()
            quality = 12.0 * mm / (edges * edges)
            if quality < needle * needle:
                old = ((p - v[a]) ** 2).sum() + ((q - v[a]) ** 2).sum() + ((p - q) ** 2).sum()
                if quality < 12.0 * nn / (old * old):
                    return True
        corner = after[corner]
    return False


@njit(cache=True, nogil=True)
def _links(f, first, after, a, b, mark, tick):  # pragma: no cover - compiled
    """Whether the edge a b meets the link condition. `mark` (V,) has no value from `tick` to tick + 1 yet."""
    faces_a = faces_b = shared = common = 0
    corner = first[a]
    while corner >= 0:
        face = corner // 3
        if f[face, 0] >= 0:
            faces_a += 1
            for k in range(3):
                mark[f[face, k]] = tick
                shared += f[face, k] == b
        corner = after[corner]
    corner = first[b]
    while corner >= 0:
        face = corner // 3
        if f[face, 0] >= 0:
            faces_b += 1
            for k in range(3):
                u = f[face, k]
                if mark[u] == tick and u != a and u != b:
                    common += 1
                    mark[u] = tick + 1
        corner = after[corner]
    return shared == 2 and common == 2 and (faces_a > 3 or faces_b > 3)


@njit(cache=True, nogil=True)
def _push(heap, v, quadrics, stamp, a, b, held, even):  # pragma: no cover - compiled
    low, high = min(a, b), max(a, b)
    _, cost = _place(quadrics[low] + quadrics[high], v, low, high, held, even)
    heapq.heappush(heap, (cost, low, high, stamp[low], stamp[high]))


@njit(cache=True, nogil=True)
def _collapse(v, f, quadrics, first, after, target, turned, needle, held, even):  # pragma: no cover - compiled
    """Changes v, f, quadrics and the lists in place until `target` faces are left; dead faces are -1."""
    stamp = np.zeros(len(v), np.int64)
    mark = np.full(len(v), -1)
    tick, alive, ease = 0, len(f), 0
    while alive > target and ease < 3:
        before = alive
        heap = [(0.0, np.int64(0), np.int64(0), np.int64(0), np.int64(0)) for _ in range(0)]
        for face in range(len(f)):
            if f[face, 0] >= 0:
                for k in range(3):
                    if f[face, k] < f[face, (k + 1) % 3]:
                        _push(heap, v, quadrics, stamp, f[face, k], f[face, (k + 1) % 3], held, even)
        while alive > target and len(heap):
            _, a, b, when_a, when_b = heapq.heappop(heap)
            if stamp[a] != when_a or stamp[b] != when_b:
                continue
            q = quadrics[a] + quadrics[b]
            x, _ = _place(q, v, a, b, held, even)
            tick += 2
            if not _links(f, first, after, a, b, mark, tick):
                continue
            if _turns(v, f, first, after, a, b, x, turned, needle) or _turns(
                v, f, first, after, b, a, x, turned, needle
            ):
                continue
            # a takes b's corners; the two faces between them go
            last, corner = -1, first[b]
            while corner >= 0:
                face = corner // 3
                if f[face, 0] >= 0:
                    if f[face, 0] == a or f[face, 1] == a or f[face, 2] == a:
                        f[face] = -1
                        alive -= 1
                    else:
                        f[face, corner % 3] = a
                last = corner
                corner = after[corner]
            after[last] = first[a]
            first[a] = first[b]
            # without the dead
            corner, last = first[a], -1
            while corner >= 0:
                if f[corner // 3, 0] >= 0:
                    if last < 0:
                        first[a] = corner
                    else:
                        after[last] = corner
                    last = corner
                corner = after[corner]
            after[last] = -1
            v[a] = x
            quadrics[a] = q
            stamp[a] += 1
            stamp[b] = -1
            corner = first[a]
            while corner >= 0:
                _push(heap, v, quadrics, stamp, a, f[corner // 3, (corner % 3 + 1) % 3], held, even)
                corner = after[corner]
        if alive == before:  # nothing may collapse: then needles, in the end edges as sharp as they come
            ease += 1
            needle = 0.0
            turned = turned if ease < 2 else 1e-6


def compile_kernels() -> None:
    """Compiles on a small ball."""
    v, f = octahedron()
    decimate(*tensors(v, f), 4)


def octahedron() -> tuple[Floats, Ints]:
    v = np.concatenate([np.eye(3), -np.eye(3)])
    f = [[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]]
    return v, np.array(f)

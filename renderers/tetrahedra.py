"""Differentiable marching tetrahedra (Doi and Koide 1991; DMTet, Shen et al. 2021, 2111.04276).

A grid of cubes is cut into six tetrahedra each, along the diagonal from its least corner (Kuhn), so that neighbours
share triangles. Values are positive inside; on an edge with ends p, q and values a > 0 >= b the surface passes at

    v = p + a / (a - b) (q - p)

and each tetrahedron with both signs has one triangle or two. The surface is closed, whatever the values, since those
of the grid's border count as outside; it is differentiable in values and points, and changes its topology with signs.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from renderers.fields import vertex_positions

_EDGES = tuple(itertools.combinations(range(4), 2))
_LEAST = 1e-6  # of a cell: values keep this distance from 0, so that no triangle shrinks to a point


@dataclass(frozen=True)
class TetGrid:
    """points (R^3, 3) world positions; tets (T, 4) int64, positively oriented; border (R^3,) bool; cell: an edge of a
    cube."""

    points: Tensor
    tets: Tensor
    border: Tensor
    cell: float


def tet_grid(resolution: int, device: torch.device | str = "cpu") -> TetGrid:
    """Tetrahedra over [-1, 1]^3 with `resolution` grid vertices along each axis. ValueError for fewer than three."""
    if resolution < 3:
        raise ValueError(f"a grid of tetrahedra needs a resolution of at least 3, got {resolution}")
    r = resolution
    least = torch.arange(r**3, device=device).reshape(r, r, r)[:-1, :-1, :-1].reshape(-1)
    stride, tets = (r * r, r, 1), []
    for order in itertools.permutations(range(3)):
        a, b = stride[order[0]], stride[order[0]] + stride[order[1]]
        even = order in ((0, 1, 2), (1, 2, 0), (2, 0, 1))
        corners = (0, a, b, sum(stride)) if even else (0, b, a, sum(stride))
        tets.append(torch.stack([least + c for c in corners], 1))
    inner = torch.zeros(r, r, r, dtype=torch.bool, device=device)
    inner[1:-1, 1:-1, 1:-1] = True
    points = vertex_positions(r, device).reshape(-1, 3)
    return TetGrid(points, torch.cat(tets), ~inner.reshape(-1), 2 / (r - 1))


def _table() -> tuple[Tensor, Tensor]:
    """Of 16 signs (bit i: vertex i is inside): up to two triangles of edges (16, 2, 3), and how many (16,)."""
    corner = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    triangles, count = torch.zeros(16, 2, 3, dtype=torch.int64), torch.zeros(16, dtype=torch.int64)
    for case in range(1, 15):
        inside = [i for i in range(4) if case >> i & 1]
        outside = [i for i in range(4) if not case >> i & 1]
        if len(inside) == 2:
            (i, j), (k, m) = inside, outside
            ring = [(i, k), (i, m), (j, m), (j, k)]
            parts = [[ring[0], ring[1], ring[2]], [ring[0], ring[2], ring[3]]]
        else:
            parts = [[(i, k) for i in inside for k in outside]]
        out = corner[outside].mean(0) - corner[inside].mean(0)
        for n, part in enumerate(parts):
            a, b, c = (corner[list(edge)].mean(0) for edge in part)
            turned = torch.dot(torch.linalg.cross(b - a, c - a), out) < 0
            edges = [_EDGES.index((min(e), max(e))) for e in part]
            triangles[case, n] = torch.tensor(edges[::-1] if turned else edges)
        count[case] = len(parts)
    return triangles, count


TRIANGLES, COUNT = _table()


def marching_tetrahedra(grid: TetGrid, values: Tensor, points: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Vertices (V, 3) and faces (F, 3) int32, counter-clockwise from outside, of the zero of `values` (R^3,), positive
    inside; closed. `points` (R^3, 3): where the grid's vertices are, if moved. Differentiable in both.

    ValueError where no value is positive.
    """
    points = grid.points if points is None else points
    least = _LEAST * grid.cell
    values = torch.where(values > 0, values.clamp(min=least), values.clamp(max=-least))
    values = torch.where(grid.border, values.clamp(max=-least), values)
    inside = values > 0
    if not bool(inside.any()):
        raise ValueError("no value is positive, so there is no surface")
    signs = inside[grid.tets]
    crossing = signs.any(1) & ~signs.all(1)
    tets = grid.tets[crossing]
    case = (signs[crossing].long() << torch.arange(4, device=tets.device)).sum(1)

    pairs = tets[:, torch.tensor(_EDGES, device=tets.device)]  # (T', 6, 2)
    low, high = pairs.amin(2), pairs.amax(2)
    crossed = inside[low] != inside[high]
    keys = (low * len(values) + high)[crossed]
    unique, where = torch.unique(keys, return_inverse=True)
    number = torch.full(crossed.shape, -1, dtype=torch.int64, device=tets.device)
    number[crossed] = where

    ends = torch.stack([unique // len(values), unique % len(values)])
    a, b = values.index_select(0, ends[0]), values.index_select(0, ends[1])
    p, q = points.index_select(0, ends[0]), points.index_select(0, ends[1])
    vertices = p + (a / (a - b))[:, None] * (q - p)

    triangles = TRIANGLES.to(tets.device)[case]  # (T', 2, 3) edges
    faces = number[:, None].expand(-1, 2, -1).gather(2, triangles)
    used = torch.arange(2, device=tets.device) < COUNT.to(tets.device)[case][:, None]
    return vertices, faces[used].int()

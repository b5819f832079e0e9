"""How the triangles of a mesh hang together: half-edges, what is wrong with them, connected parts.

A half-edge is one side of a face, numbered 3 f + k from corner k to corner k + 1. Arrays are numpy's: vertices (V, 3)
float64, faces (F, 3) int64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats, Ints, Bools = NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]


@dataclass(frozen=True)
class Faults:
    """Counts: edges of one face, edges of three or more or of two that run the same way, faces with the same three
    vertices as another, faces that use a vertex twice, and vertices whose faces form more than one fan."""

    open_edges: int
    nonmanifold_edges: int
    doubled_faces: int
    degenerate_faces: int
    bowties: int

    @property
    def closed(self) -> bool:
        """Every edge has two faces that run opposite ways, none doubled: what is called watertight."""
        return not (self.open_edges or self.nonmanifold_edges or self.doubled_faces or self.degenerate_faces)

    @property
    def manifold(self) -> bool:
        """Closed, and every vertex has one fan."""
        return self.closed and not self.bowties


def arrays(vertices: Tensor, faces: Tensor) -> tuple[Floats, Ints]:
    return vertices.detach().cpu().double().numpy(), faces.detach().cpu().long().numpy()


def tensors(v: Floats, f: Ints) -> tuple[Tensor, Tensor]:
    """float32 and int32."""
    return torch.from_numpy(v.astype(np.float32)), torch.from_numpy(f.astype(np.int32))


def compact(v: Floats, f: Ints) -> tuple[Floats, Ints]:
    """Without vertices that no face uses."""
    used = np.zeros(len(v), bool)
    used[f] = True
    return v[used], (np.cumsum(used) - 1)[f]


def half_edges(f: Ints) -> tuple[Ints, Ints]:
    """(3F,) where each half-edge starts and ends."""
    return f.reshape(-1), np.roll(f, -1, 1).reshape(-1)


def edge_keys(f: Ints) -> Ints:
    """(3F,) a number for each half-edge's edge, the same from both sides."""
    start, end = half_edges(f)
    return np.minimum(start, end) * (int(f.max(initial=0)) + 1) + np.maximum(start, end)


def groups(keys: Ints) -> tuple[Ints, Ints, Ints]:
    """The order (N,) that sorts `keys`, where in it each new key begins (K,), and how often it comes (K,)."""
    order = np.argsort(keys, kind="stable")
    first = np.flatnonzero(np.diff(keys[order], prepend=-1))
    return order, first, np.diff(first, append=len(keys))


def partners(f: Ints) -> Ints:
    """(3F,) the half-edge on the other side, where an edge has exactly two faces; else -1."""
    keys = edge_keys(f)
    order, first, count = groups(keys)
    one, two = order[first[count == 2]], order[first[count == 2] + 1]
    out = np.full(len(keys), -1)
    out[one], out[two] = two, one
    return out


def labels(nodes: int, a: Ints, b: Ints) -> Ints:
    """(nodes,) the number of each node's connected part, where a[k] and b[k] are joined."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(a), np.int8), (a, b)), shape=(nodes, nodes))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def parts(f: Ints) -> Ints:
    """(F,) the number of each face's part; faces that share a vertex are of one part."""
    by_vertex = labels(int(f.max(initial=0)) + 1, f[:, :2].reshape(-1), f[:, 1:].reshape(-1))
    return np.unique(by_vertex[f[:, 0]], return_inverse=True)[1]


def fans(f: Ints, partner: Ints) -> Ints:
    """(3F,) the fan of each corner: corners at one vertex that `partner` (3F,) joins over edges."""
    h = np.flatnonzero(partner >= 0)
    h = h[h < partner[h]]
    p = partner[h]
    start, end = half_edges(f)
    after = h - h % 3 + (h + 1) % 3  # the corner at the half-edge's end
    after_p = p - p % 3 + (p + 1) % 3
    opposite = start[h] == end[p]
    one, two = np.where(opposite, after_p, p), np.where(opposite, p, after_p)
    return labels(len(start), np.concatenate([h, after]), np.concatenate([one, two]))


def doubled(f: Ints) -> Ints:
    """(D,) the faces that have the same three vertices as one before."""
    ordered = np.sort(f, 1)
    order = np.lexsort(ordered.T[::-1])
    same = (ordered[order][1:] == ordered[order][:-1]).all(1)
    return np.sort(order[1:][same])


def faults(f: Ints) -> Faults:
    """What is wrong with faces (F, 3)."""
    start, end = half_edges(f)
    _, _, count = groups(edge_keys(f))
    partner = partners(f)
    paired = np.flatnonzero(partner >= 0)
    same_way = int((start[paired] == start[partner[paired]]).sum()) // 2
    fan = fans(f, partner)
    of_fan = np.zeros(int(fan.max(initial=-1)) + 1, np.int64)
    of_fan[fan] = start
    return Faults(
        open_edges=int((count == 1).sum()),
        nonmanifold_edges=int((count > 2).sum()) + same_way,
        doubled_faces=len(doubled(f)),
        degenerate_faces=int(((start == end).reshape(-1, 3)).any(1).sum()),
        bowties=int((np.bincount(of_fan) > 1).sum()),
    )


def face_areas(v: Floats, f: Ints) -> Floats:
    return np.linalg.norm(np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]]), axis=1) / 2


def volumes(v: Floats, f: Ints) -> Floats:
    """(F,) signed volume between each face and the origin; their sum over a closed mesh is what it encloses."""
    return (v[f[:, 0]] * np.cross(v[f[:, 1]], v[f[:, 2]])).sum(1) / 6

"""Edge adjacency of a triangle mesh, built once for `antialias`: across each edge, the next face and its opposite
vertex."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Topology:
    """Edge i of a face lies opposite its vertex i.

    neighbour (F, 3) int64: the face across edge i. opposite (F, 3) int64: that face's vertex off the edge.
    A face on an open edge is its own neighbour; the faces around a non-manifold edge name each other in a circle.
    """

    neighbour: Tensor
    opposite: Tensor


def antialias_construct_topology_hash(tri: Tensor) -> Topology:
    """Adjacency of `tri` (F, 3) int32, to hand to `antialias` again while the triangles stay the same."""
    faces = tri.long()
    count = len(faces)
    if count == 0:
        return Topology(faces, faces)
    a, b = faces[:, [1, 2, 0]].reshape(-1), faces[:, [2, 0, 1]].reshape(-1)
    key = torch.minimum(a, b) * (int(faces.max()) + 1) + torch.maximum(a, b)
    order = torch.sort(key, stable=True).indices
    key = key[order]
    first = torch.ones_like(key, dtype=torch.bool)
    first[1:] = key[1:] != key[:-1]
    last = torch.ones_like(first)
    last[:-1] = first[1:]
    # the next entry of the same edge; its last entry goes back to the edge's first one
    position = torch.arange(len(key), device=tri.device)
    start = torch.where(first, position, 0).cummax(0).values
    following = torch.empty_like(order)
    following[order] = order[torch.where(last, start, position + 1)]
    return Topology((following // 3).reshape(count, 3), faces.reshape(-1)[following].reshape(count, 3))

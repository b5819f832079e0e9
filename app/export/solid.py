"""What the writers without an atlas have in common: vertices that coincide made one, colours by vertex, and the closed
solid that a printer needs."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from app.export.glb import TexturedMesh, check_textured

APART = 24  # of 255: colours at one point that differ by more stay two vertices


def welded(rows: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(first, index): where each distinct row of (N, C) first stands, in that order, and the one (N,) each row is."""
    plain = np.ascontiguousarray(rows + 0)  # no negative zeros
    keys = plain.view([("", plain.dtype)] * plain.shape[1])[:, 0]
    _, first, index = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[index.reshape(-1)]


def vertex_colors(mesh: TexturedMesh) -> NDArray[np.uint8]:
    """(V, 3) sRGB: the texture at each vertex, bilinearly, times the vertex's own colour."""
    from app.export.preview import sample_texture

    found = sample_texture(mesh.texture.permute(2, 0, 1).float() / 255, mesh.uv)
    if mesh.colors is not None:
        found = found * mesh.colors.float() / 255
    return (found.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def from_below(uv: NDArray) -> NDArray[np.float32]:
    """Texture coordinates (N, 2) whose v counts from the picture's bottom instead of its top."""
    return np.stack([uv[:, 0], 1 - uv[:, 1]], 1).astype(np.float32)


def z_up(points: NDArray) -> NDArray:
    """(N, 3) from Y up, front to +Z, to Z up, front to -Y, as slicers, Blender and CAD have it."""
    return np.stack([points[:, 0], -points[:, 2], points[:, 1]], 1)


def proper(faces: NDArray) -> NDArray:
    """Faces (F, 3) that have three different corners."""
    a, b, c = faces.T
    return faces[(a != b) & (b != c) & (c != a)]


def open_edges(faces: NDArray) -> int:
    """How many edges do not lie between exactly two faces that run along them in opposite directions."""
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    count = int(faces.max()) + 1
    there, back = ends[:, 0] * count + ends[:, 1], ends[:, 1] * count + ends[:, 0]
    edges, times = np.unique(there, return_counts=True)
    return int((times > 1).sum() + (~np.isin(edges, back)).sum())


def printable(mesh: TexturedMesh, size: float | None) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """(vertices (V, 3) in millimetres, faces (F, 3)): closed, Z up, in the positive octant with its lowest corner at
    the origin; its longest side `size` millimetres, or, without, a thousand times what it is in metres.

    ValueError, one sentence, where the surface cannot be closed.
    """
    check_textured(mesh)
    v, f = closed(mesh.vertices.numpy(), mesh.faces.numpy())
    v = z_up(v.astype(np.float64))
    v -= v.min(0)
    longest = float(v.max())
    if longest == 0:
        raise ValueError("The mesh has no size and cannot be printed.")
    millimetres = (v * (1000 if size is None else size / longest)).astype(np.float32)
    first, index = welded(millimetres)  # neighbours that one float32 apart were
    return millimetres[first], proper(index[f]).astype(np.int32)


def closed(vertices: NDArray, faces: NDArray) -> tuple[NDArray, NDArray]:
    """The mesh with coinciding vertices made one, and repaired where it is not closed. ValueError where that fails."""
    first, index = welded(vertices)
    v, f = vertices[first], proper(index[faces])
    if not len(f):
        raise ValueError("The mesh has no area and cannot be printed.")
    if gaps := open_edges(f):
        raise ValueError(
            f"The mesh is not closed ({gaps} edges do not join two faces), and a printer needs a solid; repair it, "
            "or choose glb, obj or ply."
        )
    return v, f

"""What the writers without an atlas have in common: vertices that coincide made one, colours by vertex, and the closed
solid that a printer needs."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from app.export.glb import TexturedMesh, check_textured
from renderers.cleanup import Repaired, repair

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


def printable(mesh: TexturedMesh, size: float | None) -> tuple[NDArray[np.float32], NDArray[np.int32], str]:
    """(vertices (V, 3) in millimetres, faces (F, 3), what it took or ""): closed (renderers/cleanup.py),
    Z up, in the positive octant with its lowest corner at the origin; its longest side `size` millimetres, or
    without it a thousand times what it is in metres.

    ValueError, one sentence, where nothing of the surface can be closed.
    """
    check_textured(mesh)
    v = z_up(mesh.vertices.double().numpy())
    v -= v.min(0)
    longest = float(v.max())
    if longest == 0:
        raise ValueError("The mesh has no size and cannot be printed.")
    millimetres = torch.from_numpy(v * (1000 if size is None else size / longest)).float()
    solid, faces, done = repair(millimetres, mesh.faces)
    below = solid.amin(0).clamp(max=0)  # the back of a sheet that got a thickness
    return (solid - below).numpy(), faces.numpy(), told(done)


def told(done: Repaired) -> str:
    """What a repair changed of the surface, in words; "" where that is nothing that a person would see."""
    counts = (
        (done.dropped, "flat or doubled faces left out"),
        (done.turned, "faces turned over"),
        (done.parted, "edges of three or more faces parted"),
        (done.holes, "holes closed"),
        (done.sheets, "sheets without thickness made thicker"),
    )
    words = ", ".join(f"{n} {what}" for n, what in counts if n)
    return f"Closed for printing: {words}." if words else ""

"""Binary PLY with colours by vertex, sampled from the atlas. Z up, front to -Y, as Blender and point-cloud tools read
it; in the mesh's own units. Vertices along the atlas's seams are joined where normals and colours agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from app.export.glb import TexturedMesh, check_textured, write_atomically
from app.export.solid import APART, vertex_colors, welded, z_up


def write_ply(path: Path, mesh: TexturedMesh) -> None:
    """Positions, normals and colours. ValueError, one sentence, for a mesh that is empty, not finite or
    inconsistent."""
    import trimesh
    from trimesh.exchange.ply import export_ply

    check_textured(mesh)
    points, normals = mesh.vertices.numpy(), mesh.normals.numpy()
    colors = vertex_colors(mesh).astype(np.int64)
    _, place = welded(np.concatenate([points, normals], 1))
    count = np.bincount(place)
    low, high = np.full((len(count), 3), 255), np.zeros((len(count), 3), np.int64)
    np.minimum.at(low, place, colors)
    np.maximum.at(high, place, colors)
    torn = ((high - low).max(1) > APART)[place]  # a border of two colours
    key = np.where(torn[:, None], colors, -1)
    first, index = welded(np.concatenate([place[:, None], key], 1))
    total = np.stack([np.bincount(index, colors[:, c]) for c in range(3)], 1)
    mean = np.rint(total / np.bincount(index)[:, None]).astype(np.uint8)
    out = trimesh.Trimesh(
        z_up(points[first]),
        index[mesh.faces.numpy()],
        vertex_normals=z_up(normals[first]),
        vertex_colors=mean,
        process=False,
    )
    write_atomically(path, export_ply(out, vertex_normal=True))

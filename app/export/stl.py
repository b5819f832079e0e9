"""Binary STL for printing: a closed solid in millimetres, Z up, front to -Y, its lowest corner at the origin (STL's
own positive octant). No colours: the format has none."""

from __future__ import annotations

from pathlib import Path

from app.export.glb import TexturedMesh, write_atomically
from app.export.solid import printable


def write_stl(path: Path, mesh: TexturedMesh, size: float | None) -> str:
    """`size`: the longest side, in millimetres; None keeps the mesh's own, in metres. Returns what it took to close
    the surface, and ValueError, as `printable`."""
    import trimesh
    from trimesh.exchange.stl import export_stl

    vertices, faces, took = printable(mesh, size)
    solid = trimesh.Trimesh(vertices, faces, process=False)
    write_atomically(path, export_stl(solid))
    return took

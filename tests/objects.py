"""Objects made in code, so that no test needs the training pack: coloured meshes with captions."""

from __future__ import annotations

import numpy as np
import trimesh
from numpy.typing import NDArray

Mesh = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]


def _part(
    mesh: trimesh.Trimesh, color: tuple[float, float, float], at: tuple[float, float, float] = (0, 0, 0)
) -> Mesh:
    v = (np.asarray(mesh.vertices) + np.asarray(at)).astype(np.float32)
    colors = np.tile(np.asarray(color, np.float32), (len(v), 1))
    return v, np.array(mesh.vertex_normals, np.float32), colors, np.array(mesh.faces, np.int32)


def _box(*size: float) -> trimesh.Trimesh:
    """Flat sides: vertices split at the edges."""
    box = trimesh.creation.box(size)
    box.unmerge_vertices()
    return box


def _join(parts: list[Mesh]) -> Mesh:
    faces, base = [], 0
    for p in parts:
        faces.append(p[3] + base)
        base += len(p[0])
    v, n, c = (np.concatenate([p[i] for p in parts]) for i in range(3))
    return v, n, c, np.concatenate(faces).astype(np.int32)


def _upright(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """trimesh's cylinders and cones stand along Z; ours along Y."""
    mesh.apply_transform(trimesh.transformations.rotation_matrix(-np.pi / 2, [1, 0, 0]))
    return mesh


def mushroom() -> Mesh:
    """A red cap on a beige stem."""
    cap = trimesh.creation.icosphere(subdivisions=3, radius=0.6)
    cap.apply_scale([1, 0.7, 1])
    stem = _upright(trimesh.creation.cylinder(0.2, 0.8, sections=24))
    return _join([_part(cap, (0.8, 0.1, 0.1), (0, 0.3, 0)), _part(stem, (0.9, 0.8, 0.65), (0, -0.4, 0))])


def car() -> Mesh:
    """A blue box with a yellow front (+Z) and a cabin: different from every side."""
    body = _box(0.7, 0.35, 1.4)
    nose = _box(0.7, 0.3, 0.1)
    cabin = _box(0.6, 0.3, 0.6)
    parts = [_part(body, (0.2, 0.3, 0.9), (0, -0.1, 0)), _part(nose, (0.95, 0.85, 0.1), (0, -0.1, 0.72))]
    return _join([*parts, _part(cabin, (0.85, 0.9, 0.95), (0, 0.2, -0.15))])


def tree() -> Mesh:
    """A green cone on a brown trunk."""
    cone = _upright(trimesh.creation.cone(0.5, 1.1, sections=24))
    trunk = _upright(trimesh.creation.cylinder(0.12, 0.4, sections=16))
    return _join([_part(cone, (0.15, 0.5, 0.2), (0, -0.25, 0)), _part(trunk, (0.45, 0.3, 0.15), (0, -0.45, 0))])


LEGS = [(x, z) for x in (-0.58, 0.58) for z in (-0.38, 0.38)]  # where the table's legs stand


def table() -> Mesh:
    """A brown top on four legs 0.08 thick: about two and a half pixels of a 64-pixel frame."""
    top = _part(_box(1.3, 0.08, 0.9), (0.6, 0.4, 0.2), (0, 0.35, 0))
    return _join([top, *(_part(_box(0.08, 0.8, 0.08), (0.5, 0.3, 0.15), (x, -0.05, z)) for x, z in LEGS)])


def sword() -> Mesh:
    """A blade 0.12 x 0.03 (one pixel seen from the side), up to y = 0.9, a golden guard and a brown grip."""
    blade = _part(_box(0.12, 1.2, 0.03), (0.8, 0.8, 0.85), (0, 0.3, 0))
    guard = _part(_box(0.5, 0.06, 0.08), (0.8, 0.6, 0.1), (0, -0.32, 0))
    return _join([blade, guard, _part(_box(0.06, 0.4, 0.06), (0.4, 0.2, 0.1), (0, -0.55, 0))])


def cross() -> Mesh:
    """A red cross lying flat, 1.4 long and 0.2 high, its arms 0.3 wide."""
    arms = [_part(_box(*size), (0.8, 0.2, 0.2)) for size in ((1.4, 0.2, 0.3), (0.3, 0.2, 1.4))]
    return _join(arms)


def sphere(radius: float = 0.6) -> Mesh:
    """A blue ball."""
    return _part(trimesh.creation.icosphere(subdivisions=4, radius=radius), (0.2, 0.5, 0.9))


OBJECTS = {"a red mushroom": mushroom(), "a blue car": car(), "a green tree": tree()}

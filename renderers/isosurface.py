"""A grid field's density to a triangle mesh: marching cubes (Lewiner's, scikit-image) on the density before its
activation, which is what the field interpolates linearly, so that vertices lie where the rendered density crosses the
level.

Vertices are in the world (Y up, +Z front), triangles counter-clockwise seen from outside, surfaces closed (cut at the
unit sphere).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from renderers.fields import GridField, trilinear, vertex_positions


class EmptyMeshError(ValueError):
    """No surface: the field is nowhere as dense as asked, or nothing is left of a mesh."""


def automatic_threshold(field: GridField, opacity: float = 0.5) -> float:
    """The density (per world unit) whose level set covers what the pictures show as more than `opacity` opaque.

    Of the grid's axis-parallel lines, K are more than `opacity` opaque (1 - exp(-sum sigma d)) from end to end. The
    threshold is the K-th largest of the lines' highest densities: as many lines meet the surface. It follows a soft
    field as well as a sharp one. Raises EmptyMeshError when no line is that opaque.
    """
    sigma = _density(field)
    step = 2 / (field.resolution - 1)
    lines = [(sigma.sum(axis) * step, sigma.amax(axis)) for axis in range(3)]
    optical, highest = (torch.cat([line[i].flatten() for line in lines]) for i in range(2))
    opaque = int((optical > -math.log(1 - opacity)).sum())
    if opaque == 0:
        most = 1 - math.exp(-float(optical.max()))
        raise EmptyMeshError(f"the field is nowhere more than {most:.0%} opaque, so it has no surface")
    return float(highest.topk(opaque).values[-1])


def opacity_threshold(opacity: float = 0.5, step: float = 2 / 64) -> float:
    """The density (per world unit) at which one step (world units) is `opacity` opaque: -ln(1 - opacity) / step."""
    return -math.log(1 - opacity) / step


def density_to_mesh(
    field: GridField, threshold: float | None = None, resolution: int | None = None, fill_cavities: bool = True
) -> tuple[Tensor, Tensor]:
    """The level set sigma = `threshold` of a field: vertices (V, 3) float32 in the world, faces (F, 3) int32, on the
    CPU.

    threshold: density per world unit, > 0; None is `automatic_threshold`. resolution: vertices a side of the grid
    that is marched; None is the field's own. fill_cavities: hollows that no outside point reaches get no inner shell.
    Raises ValueError for a threshold <= 0, a resolution below 2 or a density that is not finite, EmptyMeshError where
    there is no surface.
    """
    from scipy.ndimage import binary_fill_holes
    from skimage.measure import marching_cubes

    if not bool(torch.isfinite(field.raw_density).all()):
        raise ValueError("the field's density is not finite, so it has no surface")
    level = automatic_threshold(field) if threshold is None else threshold
    r = field.resolution if resolution is None else resolution
    if level <= 0 or r < 2:
        raise ValueError(f"a mesh needs a threshold > 0 and a resolution >= 2, got {level} and {r}")
    raw = field.raw_density.detach().cpu()
    positions = vertex_positions(r)
    if r != field.resolution:
        raw = trilinear(raw[..., None], positions.reshape(-1, 3)).view(r, r, r)
    inverse_softplus = level + math.log(-math.expm1(-level))
    height = field.density_scale * raw + field.density_bias - inverse_softplus
    # the density ends at the unit sphere: a ramp over the last cell puts the surface there instead of on grid steps
    slope = max(1.0, float(height.max())) * (r - 1) / 2
    volume = torch.minimum(height, slope * (1 - positions.norm(dim=-1))).numpy()
    if not (volume > 0).any():
        raise EmptyMeshError(f"the field's density is nowhere above {level:.3g}, so it has no surface")
    if fill_cavities:
        inside = volume > 0
        volume = np.where(np.asarray(binary_fill_holes(inside)) & ~inside, volume.max(), volume)
    padded = np.pad(volume, 1, constant_values=-slope)
    # outward triangles for a volume that is high inside (a test holds the signed volume positive)
    vertices, faces, _, _ = marching_cubes(padded, 0.0, gradient_direction="ascent", allow_degenerate=False)
    vertices = (vertices - 1) * (2 / (r - 1)) - 1
    return torch.from_numpy(vertices.astype(np.float32)), torch.from_numpy(faces.astype(np.int32))


def keep_largest_components(vertices: Tensor, faces: Tensor, min_fraction: float = 0.05) -> tuple[Tensor, Tensor]:
    """The mesh without floaters: connected parts with less than `min_fraction` of the largest part's area go, and
    unused vertices.

    vertices (V, 3) float32, faces (F, 3) int32. Raises EmptyMeshError for a mesh without faces.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    v, f = vertices.detach().cpu().numpy(), faces.cpu().numpy()
    if len(f) == 0:
        raise EmptyMeshError("the mesh has no triangles")
    edges = np.concatenate([f[:, :2], f[:, 1:]])
    graph = coo_matrix((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(len(v), len(v)))
    count, label = connected_components(graph, directed=False)
    area = np.linalg.norm(np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]]), axis=1) / 2
    part = label[f[:, 0]]
    areas = np.bincount(part, weights=area, minlength=count)
    return _compact(v, f[areas[part] >= min_fraction * areas.max()])


def signed_volume(vertices: Tensor, faces: Tensor) -> float:
    """The enclosed volume in world units cubed; positive when triangles are counter-clockwise seen from outside."""
    a, b, c = (vertices.double()[faces[:, i].long()] for i in range(3))
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def _density(field: GridField) -> Tensor:
    """sigma (R, R, R) at the vertices, 0 outside the unit sphere, on the CPU."""
    inside = vertex_positions(field.resolution).square().sum(-1) <= 1
    return field.activate(field.raw_density.detach()).cpu() * inside


def _compact(vertices: np.ndarray, faces: np.ndarray) -> tuple[Tensor, Tensor]:
    """Drops vertices that no face uses; float32 and int32 tensors."""
    used, renumbered = np.unique(faces, return_inverse=True)
    v = torch.from_numpy(vertices[used].astype(np.float32))
    return v, torch.from_numpy(renumbered.reshape(-1, 3).astype(np.int32))

"""The evaluator's own cameras, and frames of meshes from them.

Twelve views 30 degrees apart at elevation 20 degrees, field of view 30 degrees, distance 4 (the prior trains with
40 degrees and 2.95). Objects are centred by their bounding box and scaled to the unit sphere
first, whatever their size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import trimesh
from numpy.typing import NDArray
from torch import Tensor

from app.errors import CollapseError, UsageError
from app.export.preview import sample_texture, to_linear, to_srgb
from renderers.cameras import DEFAULT_DISTANCE, DEFAULT_FOV, Cameras, make_cameras
from renderers.frames import Rendered
from renderers.raster import RasterizeCpuContext, interpolate, rasterize
from renderers.snapshot import snapshots

SIZE = 64
COUNT = 12
ELEVATION, FOV, DISTANCE = math.radians(20.0), math.radians(30.0), 4.0
FRONT_WITHIN = math.radians(31.0)  # azimuths this near to 0 are front views, this near to 180 degrees back views
SUPERSAMPLE = 4  # of an asset: bilinear look-ups need it; coloured meshes take 2, as the training data

Mesh = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]


def own_cameras() -> Cameras:
    """The twelve cameras, azimuth 0 first."""
    azimuth = torch.arange(COUNT) * (2 * math.pi / COUNT)
    return make_cameras(azimuth, torch.tensor([ELEVATION]), FOV, DISTANCE)


def prior_cameras(views: int = 4, elevation: float = math.radians(15.0)) -> Cameras:
    """Where the prior's frames are sampled from: its own field of view and distance."""
    azimuth = torch.arange(views) * (2 * math.pi / views)
    return make_cameras(azimuth, torch.tensor([elevation]), DEFAULT_FOV, DEFAULT_DISTANCE)


def front_and_back(azimuth: Tensor) -> tuple[Tensor, Tensor]:
    """Masks (B,) of the front and of the back views among azimuths (B,) in radians."""
    cosine = azimuth.cos()
    return cosine >= math.cos(FRONT_WITHIN), cosine <= -math.cos(FRONT_WITHIN)


def unit(vertices: Tensor) -> Tensor:
    """Vertices (V, 3) centred by bounding box, the farthest at radius 1. ValueError for a point or non-finite ones."""
    centred = vertices - (vertices.amax(0) + vertices.amin(0)) / 2
    radius = centred.norm(dim=1).max()
    if not bool(torch.isfinite(radius)) or radius <= 0:
        raise ValueError("The mesh has no extent, or positions that are not finite.")
    return centred / radius


def coloured_frames(mesh: Mesh, cameras: Cameras) -> Tensor:
    """(B, 7, 64, 64) frames of a mesh with vertex colours (vertices, normals, sRGB colours, faces), as in the pack.
    Vertices are taken as they are."""
    return torch.from_numpy(snapshots([mesh] * len(cameras), cameras, SIZE, 2))


def asset_frames(path: Path, cameras: Cameras | None = None) -> Tensor:
    """(B, 7, 64, 64) frames of a GLB's textured surface: anyone's, read by trimesh; all its meshes together.

    Base colour is texture times factor, or vertex colours (linear, as glTF says) where there is no texture; alpha is
    coverage. UsageError if the file cannot be read, CollapseError if there is nothing in it.
    """
    try:
        scene = trimesh.load(path, force="scene", process=False)
        placed = [scene.graph[node] for node in scene.graph.nodes_geometry]  # pyright: ignore
        pairs = [(scene.geometry[name], np.asarray(m, np.float64)) for m, name in placed]  # pyright: ignore
        pairs = [(g, m) for g, m in pairs if isinstance(g, trimesh.Trimesh) and len(g.faces)]
        meshes = [g for g, _ in pairs]
        points = [g.vertices @ m[:3, :3].T + m[:3, 3] for g, m in pairs]
        # the file's own normals where it has them (Scene.dump would compute others)
        normals = [g.vertex_normals @ np.linalg.inv(m[:3, :3]) for g, m in pairs]
    except Exception as e:  # trimesh raises whatever its readers meet
        raise UsageError(f"{path} cannot be read as a mesh ({type(e).__name__}: {e}); give a GLB file.") from e
    if not meshes:
        raise CollapseError(f"{path} has no triangles; there is nothing to evaluate.")
    base = np.cumsum([0] + [len(m.vertices) for m in meshes])
    faces = np.concatenate([np.asarray(m.faces, np.int32) + b for m, b in zip(meshes, base, strict=False)])
    normal = F.normalize(torch.from_numpy(np.concatenate(normals).astype(np.float32)), dim=1)
    try:
        vertices = unit(torch.from_numpy(np.concatenate(points).astype(np.float32)))
    except ValueError as e:
        raise CollapseError(f"{path}: {e}") from e
    surfaces = [_surface(m) for m in meshes]
    owner = torch.cat([torch.full((len(m.vertices), 1), float(i)) for i, m in enumerate(meshes)])
    paint = torch.cat([torch.cat([s.tint for s in surfaces]), torch.cat([s.uv for s in surfaces]), owner], 1)
    cameras = own_cameras() if cameras is None else cameras
    return _render(vertices, torch.from_numpy(faces.astype(np.int32)), normal, paint, surfaces, cameras)


@dataclass(frozen=True)
class _Surface:
    """tint (V, 3) linear factor a vertex; uv (V, 2), (0, 0) the picture's top left; texture (3, H, W) sRGB or None."""

    tint: Tensor
    uv: Tensor
    texture: Tensor | None


def _surface(mesh: trimesh.Trimesh) -> _Surface:
    count = len(mesh.vertices)
    visual = mesh.visual
    uv, texture, tint = torch.zeros(count, 2), None, torch.ones(count, 3)
    material = getattr(visual, "material", None)
    if material is None:
        if visual is not None and visual.kind == "vertex":
            levels = np.asarray(getattr(visual, "vertex_colors"))[:, :3]  # noqa: B009
            tint = torch.from_numpy(levels.astype(np.float32) / 255)
        return _Surface(tint, uv, None)
    factor = getattr(material, "baseColorFactor", None)
    if factor is not None:
        levels = np.asarray(factor, np.float32)[:3] / (255 if np.asarray(factor).dtype == np.uint8 else 1)
        tint = torch.from_numpy(levels).expand(count, 3)
    picture = getattr(material, "baseColorTexture", None)
    coordinates = getattr(visual, "uv", None)
    if picture is not None and coordinates is not None:
        pixels = np.asarray(picture.convert("RGB"), np.float32) / 255
        texture = torch.from_numpy(pixels).permute(2, 0, 1)
        uv = torch.from_numpy(np.asarray(coordinates, np.float32)) * torch.tensor([1.0, -1.0]) + torch.tensor([0.0, 1])
    return _Surface(tint, uv, texture)


@torch.no_grad()
def _render(
    vertices: Tensor, faces: Tensor, normals: Tensor, paint: Tensor, surfaces: list[_Surface], cameras: Cameras
) -> Tensor:
    """Frames by the raster verbs and a box filter. `paint` (V, 6) = tint (3), u, v, index of the surface."""
    size, views = SIZE * SUPERSAMPLE, len(cameras)
    rast, _ = rasterize(RasterizeCpuContext(), cameras.clip(vertices), faces, (size, size))
    values, _ = interpolate(torch.cat([paint, normals], 1), rast, faces)
    triangle = rast[..., 3].reshape(-1).long()
    index = triangle.nonzero()[:, 0]
    values, face, view = values.reshape(-1, 9)[index], faces[triangle[index] - 1].long(), index // size**2
    tint, uv, owner, normal = values.split([3, 2, 1, 3], 1)
    color = torch.ones_like(tint)
    for i, s in enumerate(surfaces):
        mine = (owner[:, 0].round() == i).nonzero()[:, 0]
        if s.texture is not None:
            color[mine] = to_linear(sample_texture(s.texture, uv[mine] - uv[mine].floor()))
    color = to_srgb((color * tint).clamp(0, 1))
    # sheets are two-sided: where the triangle is seen from behind, its normals are turned round
    a, b, c = vertices[face].unbind(1)
    away = (torch.linalg.cross(b - a, c - a) * (cameras.position()[view] - a)).sum(1, keepdim=True) < 0
    normal = torch.where(away, -normal, normal)
    normal = F.normalize((cameras.rotation()[view] * normal[:, :, None]).sum(1), dim=1)
    picture = values.new_zeros(views * size**2, 7)
    picture[index] = torch.cat([color, torch.ones_like(owner), normal], 1)
    picture = F.avg_pool2d(picture.reshape(views, size, size, 7).permute(0, 3, 1, 2).flip(2), SUPERSAMPLE)
    rgb, alpha, normal = picture.split([3, 1, 3], 1)
    return Rendered(rgb, alpha, normal, torch.zeros_like(alpha)).frames()

"""Triangle meshes to pictures: rasterize, interpolate, antialias (renderers/raster), flipped once to rows from the
top.

Vertex normals weigh each face by its angle at the vertex: n_v ~ sum_f angle(f, v) n_f (Thürmer and Wüthrich 1998),
which does not depend on how a flat region is cut into triangles.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from renderers import mesh_cpu, mesh_twin
from renderers.cameras import Cameras
from renderers.frames import Rendered
from renderers.mesh_twin import TINY, unit
from renderers.raster import RasterizeContext, Topology, antialias
from renderers.raster.rasterize import visible


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit outward normals (V, 3), angle-weighted, differentiable in `vertices` (V, 3); `faces` (F, 3)
    counter-clockwise from outside.

    A vertex without faces, or with flat ones only, has normal zero.
    """
    index = faces.long().T.reshape(-1)
    a, b, c = vertices.index_select(0, index).reshape(3, -1, 3)
    ab, bc, ca = b - a, c - b, a - c
    normal = torch.linalg.cross(ab, -ca)
    square = (normal * normal).sum(-1)
    flat = square <= TINY
    double_area = torch.where(flat, 1, square).sqrt()
    cosine = torch.stack([-(ab * ca).sum(-1), -(bc * ab).sum(-1), -(ca * bc).sum(-1)])
    angle = torch.where(flat, 0, torch.atan2(double_area, cosine))
    weighted = angle[..., None] * (normal / double_area[:, None])
    return unit(torch.zeros_like(vertices).index_add(0, index, weighted.reshape(-1, 3)))


def render_mesh(
    ctx: RasterizeContext,
    vertices: Tensor,
    faces: Tensor,
    cameras: Cameras,
    resolution: int,
    color: Tensor | Callable[[Tensor], Tensor],
    topology: Topology | None = None,
    normals: Tensor | None = None,
    supersample: int = 1,
    two_sided: bool = False,
) -> Rendered:
    """Render a mesh from B cameras: square pictures of `resolution` pixels, antialiased and premultiplied by alpha
    (renderers/frames.py).

    vertices: (V, 3) float32 world positions. faces: (F, 3) int32, counter-clockwise seen from outside; both sides are
    drawn.
    color: (V, 3) sRGB base colour in [0, 1] a vertex, or a function from the N covered pixels' surface points (N, 3)
    to colours (N, 3), differentiable in both the points and whatever it looks up.
    topology: `antialias_construct_topology_hash(faces)`, worth keeping while faces stay the same. normals: (V, 3),
    `vertex_normals` if left out.
    supersample: render at this multiple of the resolution and average. two_sided: turn normals that face away towards
    the camera. Gradients flow to vertices, normals and color, through shading and through silhouettes. Raises
    ValueError as the raster verbs do.
    """
    if resolution < 1 or supersample < 1:
        raise ValueError(f"resolution and supersample must be at least 1, got {resolution} and {supersample}.")
    size = resolution * supersample
    pos = cameras.clip(vertices)
    ids = visible(ctx, pos, faces, (size, size))
    normals = vertex_normals(vertices, faces) if normals is None else normals
    attributes = torch.cat([vertices, normals] if callable(color) else [vertices, normals, color], 1)
    index = ids.reshape(-1).nonzero()[:, 0]
    backend = mesh_cpu if vertices.device.type == "cpu" else mesh_twin
    rast, covered = backend.surface(pos, attributes, faces, ids, index)
    base = color(covered[:, :3]) if callable(color) else covered[:, 6:]
    if base.shape != (len(index), 3) or base.dtype != pos.dtype or attributes.dtype != pos.dtype:
        raise ValueError(f"color must be (V, 3) or give (N, 3), float32, got {base.dtype} {tuple(base.shape)}.")
    picture = backend.shade(covered, base, index, cameras, size, two_sided)

    picture = antialias(picture, rast, pos, faces, topology).flip(1).permute(0, 3, 1, 2)
    if supersample > 1:
        picture = F.avg_pool2d(picture, supersample)
    rgb, alpha, normal, depth = picture.split([3, 1, 3, 1], 1)
    return Rendered(rgb, alpha, normal, depth)

"""A tangent-space normal map: what decimation took off the dense mesh, for the shading of the one that is left.

The frame is glTF's with explicit tangents, so that every viewer decodes what was encoded: N and T interpolated from
the vertices and normalised, B = w N x T, and a texel x = 2 c - 1 stands for the normal T x_1 + B x_2 + N x_3. At a
vertex T is the mean of dP/du over its faces, by area, without its part along N; w is chosen so that B points to the
picture's top, as MikkTSpace does it. The dense mesh's normal at a texel is the mean of its nearest samples', by
inverse square distance; samples that face away belong to the other side of a thin part and do not count.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from app.export.bake import flood, texel_points
from app.export.unwrap import Unwrapped
from renderers.mesh import vertex_normals
from renderers.raster import RasterizeContext

NEAREST = 8
LEAST = 0.05  # of the component along N: less would light the surface from behind


def tangents(vertices: Tensor, faces: Tensor, uv: Tensor, normals: Tensor) -> Tensor:
    """(V, 4) float32: unit tangents and w = +-1, of a mesh (V, 3), (F, 3) with uv (V, 2), unit normals (V, 3)."""
    corners, flat = vertices[faces.long()], uv[faces.long()]
    e, f = corners[:, 1:] - corners[:, :1], flat[:, 1:] - flat[:, :1]
    area = f[:, 0, 0] * f[:, 1, 1] - f[:, 0, 1] * f[:, 1, 0]
    # area times the derivatives: faces count by the texels they have
    along_u = (e[:, 0] * f[:, 1, 1:] - e[:, 1] * f[:, 0, 1:]) * area.sign()[:, None]
    along_v = (e[:, 1] * f[:, 0, :1] - e[:, 0] * f[:, 1, :1]) * area.sign()[:, None]
    index = faces.long().reshape(-1)
    u, v = (torch.zeros_like(vertices).index_add(0, index, x.repeat_interleave(3, 0)) for x in (along_u, along_v))
    u = u - normals * (normals * u).sum(1, keepdim=True)
    lost = u.norm(dim=1) < 1e-12
    other = torch.eye(3, device=normals.device)[normals.abs().argmin(1)]
    u[lost] = (other - normals * (normals * other).sum(1, keepdim=True))[lost]
    t = F.normalize(u, dim=1, eps=1e-20)
    w = torch.where((torch.linalg.cross(normals, t) * -v).sum(1) < 0, -1.0, 1.0)
    return torch.cat([t, w[:, None]], 1)


def dense_normals(points: Tensor, facing: Tensor, vertices: Tensor, faces: Tensor) -> Tensor:
    """(N, 3) unit normals of a dense mesh (V, 3), (F, 3) beside surface points (N, 3) that face `facing` (N, 3)."""
    from scipy.spatial import KDTree

    normal = vertex_normals(vertices, faces)
    corners = faces.long()
    at = torch.cat([vertices, vertices[corners].mean(1)]).cpu()
    normal = torch.cat([normal, F.normalize(normal[corners].sum(1), dim=1)]).cpu()
    distance, nearest = KDTree(at.numpy()).query(points.cpu().numpy(), k=min(NEAREST, len(at)))
    near = normal[torch.from_numpy(np.asarray(nearest))]
    weight = 1 / (torch.from_numpy(np.asarray(distance)).float().square() + 1e-12)
    weight = weight * ((near * facing.cpu()[:, None]).sum(2) > 0)
    mean = (near * weight[..., None]).sum(1)
    found = torch.where(weight.sum(1, keepdim=True) > 0, mean, facing.cpu())
    return F.normalize(found, dim=1).to(points)


@torch.no_grad()
def bake_normals(
    ctx: RasterizeContext,
    unwrapped: Unwrapped,
    normals: Tensor,
    tangent: Tensor,
    dense: tuple[Tensor, Tensor],
    size: int,
) -> Tensor:
    """The normal map (size, size, 3) uint8, linear, of the mesh of an atlas with `normals` (V', 3) and `tangent`
    (V', 4), from the `dense` mesh (V, 3), (F, 3)."""
    carried = torch.cat([unwrapped.vertices, normals, tangent], 1)
    texels, values = texel_points(ctx, dataclasses.replace(unwrapped, vertices=carried), size)
    points, n, t, w = values.split([3, 3, 3, 1], 1)
    n, t = F.normalize(n, dim=1), F.normalize(t, dim=1)
    b = F.normalize(torch.linalg.cross(n, t), dim=1) * w.sign()
    wanted = dense_normals(points, n, *dense)
    frame = torch.stack([t, b, n], 2)
    odd = torch.linalg.det(frame).abs() < 1e-3  # T along N: nothing to solve
    frame[odd] = torch.eye(3, device=frame.device)
    x = torch.linalg.solve(frame, wanted[:, :, None])[:, :, 0]
    x[odd] = torch.tensor([0.0, 0.0, 1.0], device=x.device)
    x = F.normalize(torch.cat([x[:, :2], x[:, 2:].clamp(min=LEAST)], 1), dim=1)
    picture = np.full((size * size, 3), 128, np.uint8)
    filled = np.zeros(size * size, bool)
    where = texels.cpu().numpy()
    picture[where] = ((0.5 + 0.5 * x) * 255).round().to(torch.uint8).cpu().numpy()
    filled[where] = True
    return torch.from_numpy(flood(picture.reshape(size, size, 3), filled.reshape(size, size)))

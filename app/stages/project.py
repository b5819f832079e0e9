"""Direct, stage 3: base colour of the frames onto the surface.

At a surface point p with normal n, view v has the weight and the colour

    w_v = visible_v(p) max(0, n . to_camera_v)^sharpness clamp(d_v / FEATHER, THIN, 1),
    c(p) = sum w_v c_v / sum w_v

with d_v the distance, in pixels, to the silhouette's edge (positive inside; the edge's pixels mix in the background),
and c_v the frame's colour with its grey background taken out. Points that no view sees take colours spread over the
mesh from those that are seen: vertex colours minimise

    sum_i W_i |c_i - c(p_i)|^2 + SPREAD sum over edges of |c_i - c_j|^2,      W = sum of weights at a vertex.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from renderers.cameras import Cameras
from renderers.frames import BACKGROUND
from renderers.hull import project, silhouette_distance
from renderers.mesh import render_mesh, vertex_normals
from renderers.precondition import combinatorial_laplacian
from renderers.raster import make_context

FEATHER = 2.0  # pixels inside a silhouette from where a view counts fully
THIN = 0.02  # and what it counts on the edge itself: thin parts have nothing else
SPREAD = 0.05
BEFORE = 30.0  # weight of a picture beside that of a sampled frame
UNSURE = 0.02  # weight of the spread vertex colours beside the views' in the texture
DEPTH_SIZE = 256
DEPTH_BIAS = 0.04  # world units: how far behind the first surface a point still counts as seen
SOLID = 0.9  # alpha above which a pixel's colour is taken at its word


@dataclass(frozen=True)
class Projector:
    """Frames ready to be projected. color (V, 3, H, W), background taken out; edge (V, 1, h, w) silhouette distance in
    pixels; depth (V, 1, D, D) distance to the first surface, infinite where empty."""

    cameras: Cameras
    color: Tensor
    edge: Tensor
    depth: Tensor
    sharpness: float
    over: Projector | None = None
    """Pictures that come before these frames wherever they see a point well."""

    def observe(self, points: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
        """(colour (N, 3), sum of weights (N,)) at surface points (N, 3) with unit normals (N, 3); colour 0 where
        unseen."""
        at = project(points, self.cameras)[:, None]

        def look(picture: Tensor, mode: str = "bilinear") -> Tensor:
            return F.grid_sample(picture, at, mode=mode, padding_mode="border", align_corners=False)[:, :, 0]

        away = self.cameras.position()[:, None] - points
        distance = away.norm(dim=-1)
        cosine = (away * normals).sum(-1) / distance
        visible = distance <= look(self.depth, "nearest")[:, 0] + DEPTH_BIAS
        inside = (look(self.edge)[:, 0] / FEATHER).clamp(THIN, 1)
        weight = visible * cosine.clamp(min=0) ** self.sharpness * inside
        total = weight.sum(0)
        mean = ((weight[:, None] * look(self.color)).sum(0) / total.clamp(min=1e-12)).T
        if self.over is None:
            return mean, total
        color, first = self.over.observe(points, normals)
        first = BEFORE * first
        share = (first / (first + total).clamp(min=1e-12))[:, None]
        return share * color + (1 - share) * mean, first + total


def without_background(frames: Tensor) -> Tensor:
    """Colours (V, 3, H, W) of frames (V, 7, H, W), as if opaque; pixels that are not solid take the nearest solid
    one's."""
    from scipy.ndimage import distance_transform_edt

    alpha = frames[:, 3:4]
    color = ((frames[:, :3] - (1 - alpha) * BACKGROUND) / alpha.clamp(min=SOLID)).clamp(0, 1)
    out = []
    for picture, a in zip(color.cpu().numpy(), alpha[:, 0].cpu().numpy(), strict=True):
        solid = a >= min(SOLID, float(a.max()))
        index = np.empty((2, *solid.shape), np.int32)
        distance_transform_edt(~solid, return_distances=False, return_indices=True, indices=index)
        out.append(torch.from_numpy(picture[:, index[0], index[1]]))
    return torch.stack(out).to(frames.device)


@torch.no_grad()
def make_projector(
    frames: Tensor, cameras: Cameras, vertices: Tensor, faces: Tensor, sharpness: float, level: float
) -> Projector:
    """Of frames (V, 7, H, W), for the mesh that they were fused to."""
    context, nothing = make_context(vertices.device), torch.zeros_like(vertices)
    r = render_mesh(context, vertices, faces, cameras, DEPTH_SIZE, nothing)
    depth = torch.where(r.alpha > 0.5, r.depth / r.alpha.clamp(min=0.5), torch.inf)
    edge = silhouette_distance(frames[:, 3:4], level)
    return Projector(cameras, without_background(frames), edge, depth, sharpness)


@torch.no_grad()
def vertex_colors(projector: Projector, vertices: Tensor, faces: Tensor) -> Tensor:
    """(V, 3): what the views see at the vertices, spread to where they see nothing. Grey where no part is seen."""
    from scipy.sparse import diags
    from scipy.sparse.linalg import splu

    color, weight = projector.observe(vertices, vertex_normals(vertices, faces))
    w = weight.cpu().double().numpy() + 1e-6  # parts that nobody sees: the mean of all that is seen
    mean = (
        (color * weight[:, None]).sum(0) / weight.sum().clamp(min=1e-12) if float(weight.sum()) > 0 else color[0] + 0.5
    )
    seen = torch.where(weight[:, None] > 0, color, mean).cpu().double().numpy()
    matrix = diags(w) + SPREAD * combinatorial_laplacian(faces, len(vertices))
    factor = splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True, "DiagPivotThresh": 0.0})
    return torch.from_numpy(factor.solve(w[:, None] * seen)).to(vertices).clamp(0, 1)


def paint(projector: Projector, surface: Tensor, unsure: float = UNSURE) -> Tensor:
    """Colours (N, 3) of texels: `surface` (N, 9) = points, normals and spread vertex colours, as interpolated, which
    weigh `unsure`."""
    points, normals, spread = surface.split(3, 1)
    color, weight = projector.observe(points, F.normalize(normals, dim=1))
    return (color * weight[:, None] + unsure * spread) / (weight[:, None] + unsure)

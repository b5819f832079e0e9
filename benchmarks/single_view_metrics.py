"""How near an answer is to the truth, in the picture's own frame, without any alignment.

Surfaces: POINTS points each, uniformly over the area. Chamfer: the mean of both mean distances. F-score at d (in
bounding radii: the truth has radius 1): harmonic mean of the shares of points nearer than d to the other surface.
Pictures: base colour without light at 128 pixels from 8 views that the input does not show; PSNR and SSIM inside the
union of both masks; perceptual distance in the way of LPIPS (1801.03924) on the evaluator's own layers, because
nothing here may load torchvision's; silhouette intersection over union.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from scipy.spatial import KDTree
from skimage.metrics import structural_similarity
from torch import Tensor

from app.evaluate.network import Evaluator, light_frames
from app.evaluate.statistics import psnr_in_masks
from benchmarks.single_view_scenes import Solid, flat
from renderers.cameras import Cameras, make_cameras
from renderers.mesh import render_mesh
from renderers.raster import RasterizeCpuContext

POINTS = 20_000
F_AT = (0.02, 0.05, 0.1, 0.2, 0.5)
SIZE = 128


def unseen_views() -> Cameras:
    """Eight: 45 degrees apart from 22.5 on, elevations 0 and 30 in turn."""
    k = torch.arange(8)
    return make_cameras(math.pi / 8 + k * math.pi / 4, torch.where(k % 2 == 0, 0.0, math.radians(30)))


def points_on(vertices: Tensor, faces: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count, 3), uniform over the area."""
    a, b, c = (vertices[faces[:, i].long()].double() for i in range(3))
    area = torch.linalg.cross(b - a, c - a).norm(dim=1)
    cumulative = area.cumsum(0)
    u = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    k = torch.searchsorted(cumulative, u[:, 0] * cumulative[-1]).clamp(max=len(faces) - 1)
    r, s = u[:, 1:2].sqrt(), u[:, 2:]
    return (1 - r) * a[k] + r * (1 - s) * b[k] + r * s * c[k]


def surface_metrics(vertices: Tensor, faces: Tensor, truth: Solid) -> dict[str, float]:
    """Chamfer and F-scores."""
    g = torch.Generator().manual_seed(0)
    mine = points_on(vertices, faces, POINTS, g).numpy()
    theirs = points_on(truth.vertices, truth.faces, POINTS, g).numpy()
    to_truth, to_mine = KDTree(theirs).query(mine)[0], KDTree(mine).query(theirs)[0]
    out = {"Chamfer": float(to_truth.mean() + to_mine.mean()) / 2}
    for d in F_AT:
        precision, recall = float((to_truth < d).mean()), float((to_mine < d).mean())
        out[f"F@{d:g}"] = 2 * precision * recall / max(precision + recall, 1e-9)
    return out


@torch.no_grad()
def solid_frames(solid: Solid, cameras: Cameras, size: int = SIZE) -> Tensor:
    """(B, 7, size, size) of a solid with vertex colours; two-sided."""
    context = RasterizeCpuContext()
    r = render_mesh(context, solid.vertices, solid.faces, cameras, size, solid.colors, supersample=2)
    return r.frames().clamp(0, 1)


def picture_metrics(mine: Tensor, truth: Tensor, evaluator: Evaluator) -> dict[str, float]:
    """Of frames (8, 7, 128, 128); only colour and alpha count."""
    psnr, iou = psnr_in_masks(mine, truth)
    union = ((mine[:, 3:4] > 0.5) | (truth[:, 3:4] > 0.5)).float()
    options = {"channel_axis": 0, "data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "full": True}
    ssim = []
    for x, y, m in zip(mine[:, :3].numpy(), truth[:, :3].numpy(), union[:, 0].numpy(), strict=True):
        _, field = structural_similarity(x, y, use_sample_covariance=False, **options)  # pyright: ignore
        ssim.append(float((field.mean(0) * m).sum() / max(m.sum(), 1)))
    return {
        "PSNR": float(psnr.mean()),
        "SSIM": sum(ssim) / len(ssim),
        "perceptual": float(perceptual(mine, truth, evaluator).mean()),
        "IoU": float(iou.mean()),
    }


@torch.no_grad()
def perceptual(mine: Tensor, truth: Tensor, evaluator: Evaluator) -> Tensor:
    """(B,) mean over layers and places of the squared difference of unit feature vectors."""

    def layers(frames: Tensor) -> list[Tensor]:
        trunk = evaluator.net.noun.trunk
        h = light_frames(flat(F.interpolate(frames, (64, 64), mode="area")))
        h = F.relu(trunk.norm(trunk.stem((h - 0.6) * 3)))
        out = [h]
        for block in trunk.blocks:
            h = block(h)
            out.append(h)
        return [F.normalize(x, dim=1, eps=1e-6) for x in out]

    pairs = zip(layers(mine), layers(truth), strict=True)
    return torch.stack([(x - y).square().sum(1).mean((1, 2)) for x, y in pairs]).mean(0)

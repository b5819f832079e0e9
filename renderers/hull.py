"""The visual hull of silhouettes (Laurentini 1994), carved on a grid.

Each picture's alpha becomes a signed distance to its silhouette, in pixels, positive inside (its zero the level
alpha = `level`). A grid vertex p is inside by

    h(p) = margin + k-th smallest over views v of d_v(project_v(p)),      k = 1 + `outvoted`

so with `outvoted` 0 every view must agree, and with 1 the rest outvotes one view that disagrees (views of a weak
prior do). `margin` pixels make up for the grid and for silhouettes thinner than a pixel: a hull of exact frames
contains the object where `margin` covers half a voxel's diagonal. Points outside a picture are outside.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from renderers.cameras import Cameras
from renderers.fields import vertex_positions

UPSAMPLE = 4  # sub-pixels along each side in which silhouette distances are measured
CHUNK = 1 << 18  # points projected at a time


def silhouette_distance(alpha: Tensor, level: float = 0.5) -> Tensor:
    """(V, 1, H, W) alpha to signed distances (V, 1, 4 H, 4 W) in pixels of `alpha`, positive inside; at most H + W
    far, also where there is no silhouette."""
    fine = F.interpolate(alpha.float(), scale_factor=UPSAMPLE, mode="bilinear", align_corners=False)
    far = float(sum(alpha.shape[-2:]))
    out = []
    for picture in (fine[:, 0] > level).cpu().numpy():
        inside = distance_transform_edt(picture) if not picture.all() else np.full(picture.shape, np.inf)
        outside = distance_transform_edt(~picture) if picture.any() else np.full(picture.shape, np.inf)
        # half a sub-pixel: the border lies between the last inner and the first outer centre
        signed = np.where(picture, np.asarray(inside) - 0.5, 0.5 - np.asarray(outside)) / UPSAMPLE
        out.append(torch.from_numpy(np.clip(signed, -far, far).astype(np.float32)))
    return torch.stack(out)[:, None].to(alpha.device)


def project(points: Tensor, cameras: Cameras) -> Tensor:
    """Where world points (N, 3) fall in B square pictures: (B, N, 2) = (x, y) in [-1, 1], y downwards, as grid_sample
    takes it."""
    clip = cameras.clip(points)
    return clip[..., :2] / clip[..., 3:] * clip.new_tensor([1.0, -1.0])


def carve(
    alpha: Tensor, cameras: Cameras, resolution: int, margin: float = 1.0, outvoted: int = 0, level: float = 0.5
) -> Tensor:
    """h (R, R, R) in pixels at the vertices of a grid over [-1, 1]^3 (renderers/fields.py), positive inside the hull.

    alpha (V, 1, H, W) in [0, 1]; margin in pixels. ValueError unless 0 <= outvoted < V.
    """
    if not 0 <= outvoted < len(cameras):
        raise ValueError(f"of {len(cameras)} views {outvoted} cannot be outvoted")
    distance = silhouette_distance(alpha, level)
    far = float(sum(alpha.shape[-2:]))
    out = []
    for points in vertex_positions(resolution, alpha.device).reshape(-1, 3).split(CHUNK):
        at = project(points, cameras)
        value = F.grid_sample(distance, at[:, None], mode="bilinear", padding_mode="border", align_corners=False)
        value = torch.where((at.abs() <= 1).all(-1), value[:, 0, 0], -far)
        out.append(value.min(0).values if outvoted == 0 else value.kthvalue(1 + outvoted, dim=0).values)
    return torch.cat(out).view(resolution, resolution, resolution) + margin

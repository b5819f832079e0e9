"""The visual hull of silhouettes (Laurentini 1994), carved on a grid.

Each picture's alpha becomes a signed distance to its silhouette, in pixels, positive inside (its zero the level
alpha = `level`). A grid vertex p is inside by

    h(p) = margin + k-th smallest over views v of d_v(project_v(p)),      k = 1 + `outvoted`

so with `outvoted` 0 every view must agree, and with 1 the rest outvotes one view that disagrees (views of a weak
prior do). `margin` pixels make up for the grid and for silhouettes thinner than a pixel: a hull of exact frames
contains the object where `margin` covers half a voxel's diagonal. Points outside a picture are outside.

Some views may be `sure` (photographs), the others guesses. Then no guess may empty a ray through a sure silhouette: h
of the guesses is raised, along every pixel's ray of a sure view, so that at its best point it is at least COVER,

    h'(p) = h(p) + max(0, COVER - max of h over the points p' that project into p's pixel, and are in the silhouette)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from renderers.cameras import Cameras
from renderers.fields import vertex_positions

UPSAMPLE = 4  # sub-pixels along each side in which silhouette distances are measured
COVER = 0.75  # pixels that a ray's best point is inside
CHUNK = 1 << 18  # points projected at a time


def silhouette_distance(alpha: Tensor, level: float = 0.5) -> Tensor:
    """(V, 1, H, W) alpha to signed distances (V, 1, 4 H, 4 W) in pixels of `alpha`, positive inside; at most H + W
    far, also where there is no silhouette."""
    from scipy.ndimage import distance_transform_edt

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
    alpha: Tensor,
    cameras: Cameras,
    resolution: int,
    margin: float = 1.0,
    outvoted: int = 0,
    level: float = 0.5,
    sure: Sequence[int] = (),
) -> Tensor:
    """h (R, R, R) in pixels at the vertices of a grid over [-1, 1]^3 (renderers/fields.py), positive inside the hull.

    alpha (V, 1, H, W) in [0, 1]; margin in pixels; `sure`: the views whose silhouettes are known. ValueError unless
    0 <= outvoted < the number of the others.
    """
    guesses = [v for v in range(len(cameras)) if v not in sure]
    if not 0 <= outvoted < len(guesses):
        raise ValueError(f"of {len(guesses)} views {outvoted} cannot be outvoted")
    distance = silhouette_distance(alpha, level)
    far = float(sum(alpha.shape[-2:]))
    out: list[Tensor] = []
    for points in vertex_positions(resolution, alpha.device).reshape(-1, 3).split(CHUNK):
        at = project(points, cameras)
        value = F.grid_sample(distance, at[:, None], mode="bilinear", padding_mode="border", align_corners=False)
        value = torch.where((at.abs() <= 1).all(-1), value[:, 0, 0], -far)
        guessed = value[guesses]
        guessed = guessed.min(0).values if outvoted == 0 else guessed.kthvalue(1 + outvoted, dim=0).values
        out.append(torch.cat([guessed[None], value[list(sure)], at[list(sure)].movedim(2, 1).flatten(0, 1)]))
    joined = torch.cat(out, 1)
    h, known, at = joined[0], joined[1 : 1 + len(sure)], joined[1 + len(sure) :].unflatten(0, (len(sure), 2))
    for k in range(len(sure)):
        h = covered(h, known[k], at[k], alpha.shape[-1])
    if len(sure):
        h = torch.minimum(h, known.min(0).values)
    return h.view(resolution, resolution, resolution) + margin


def covered(h: Tensor, known: Tensor, at: Tensor, size: int) -> Tensor:
    """h' (N,) of points with h (N,), `known` (N,) the sure view's distance, `at` (2, N) where it sees them."""
    inside = known > 0
    pixel = ((at * 0.5 + 0.5) * size).long().clamp(0, size - 1)
    index = pixel[1] * size + pixel[0]
    best = torch.full((size * size,), -float("inf"), device=h.device)
    best = best.scatter_reduce(0, index[inside], h[inside], "amax")
    lift = (COVER - best).clamp(min=0)
    lift = torch.where(torch.isfinite(lift), lift, 0.0)
    return torch.where(inside, h + lift[index], h)

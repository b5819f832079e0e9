"""Emission-absorption ray marching of a grid field (NeRF, 2003.08934), with empty-space skipping.

Samples lie d = 2 / samples world units apart between a ray's entry into the unit sphere and its exit: t_i = t_in +
(i + u) d, with u the ray's jitter (1/2 without). With sigma_i, colour c_i and world normal n_i at sample i,

    alpha_i = 1 - exp(-sigma_i d),  T_i = prod_{j<i} (1 - alpha_j),  w_i = T_i alpha_i,
    colour = sum w_i c_i,  alpha = sum w_i,  depth = sum w_i t_i,  normal = R^T sum w_i n_i  (R: camera to world).

Samples in unoccupied cells count as empty, and a ray ends once T falls below MIN_TRANSMITTANCE; both backends follow
both rules. The composited normal is not normalised per pixel: where normals disagree along a ray it is shorter than
alpha, as a blurred picture's is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from renderers.cameras import Cameras
from renderers.fields import NORMAL_EPSILON, GridField, normals_from_gradients, trilinear
from renderers.frames import Rendered
from renderers.volume_cpu import march_backward, march_forward

MIN_TRANSMITTANCE = 1e-3
Backend = Literal["numba", "torch"]


@dataclass(frozen=True)
class Occupancy:
    """Which cells of [-1, 1]^3 may hold matter: a bool tensor (C, C, C), indexed [x, y, z]."""

    cells: Tensor

    def at(self, points: Tensor) -> Tensor:
        """bool (...): whether the world points (..., 3) lie in an occupied cell (points beyond the cube: in the
        nearest one)."""
        c = self.cells.shape[0]
        x, y, z = ((points + 1) * (0.5 * c)).long().clamp(0, c - 1).unbind(-1)
        return self.cells[x, y, z]

    def fraction(self) -> float:
        """The share of cells that are occupied."""
        return float(self.cells.float().mean())


def update_occupancy(field: GridField, cells: int = 32, threshold: float = 0.01, dilation: int = 1) -> Occupancy:
    """Occupied: cells where sigma exceeds `threshold` (per world unit) anywhere, and their neighbours up to
    `dilation` cells away.

    The bound is exact: a trilinear function has its maximum over a cell at grid vertices on or around it. At the
    default a ray through the whole sphere loses less than 2 % of opacity. Unoccupied cells get no gradient, so call
    this again every few steps: the dilation is how far a surface can have moved meanwhile. Raises ValueError for
    cells < 1, threshold <= 0 or dilation < 0.
    """
    if cells < 1 or threshold <= 0 or dilation < 0:
        raise ValueError(
            f"occupancy needs cells >= 1, threshold > 0, dilation >= 0; got {cells}, {threshold}, {dilation}"
        )
    with torch.no_grad():
        highest, r = field.raw_density, field.resolution
        edges = torch.arange(cells + 1, device=field.device) * (r - 1)
        low = torch.div(edges[:-1], cells, rounding_mode="floor")
        high = torch.div(edges[1:] + cells - 1, cells, rounding_mode="floor")
        window = torch.arange(int((high - low).max()) + 1, device=field.device)
        index = torch.minimum(low[:, None] + window, high[:, None])
        for axis in range(3):
            parts = highest.index_select(axis, index.flatten())
            highest = parts.unflatten(axis, index.shape).amax(axis + 1)
        occupied = ~(field.activate(highest) <= threshold)  # NaN counts as matter: it must reach the picture
        grown = F.max_pool3d(occupied[None, None].float(), 2 * dilation + 1, stride=1, padding=dilation)[0, 0]
        return Occupancy(grown > 0)


def default_backend(device: torch.device) -> Backend:
    """The fused kernels on the CPU, plain torch elsewhere."""
    return "numba" if device.type == "cpu" else "torch"


def render_field(
    field: GridField,
    cameras: Cameras,
    resolution: int,
    samples: int = 64,
    jitter: Tensor | None = None,
    occupancy: Occupancy | None = None,
    backend: Backend | None = None,
) -> Rendered:
    """Pictures of `resolution` pixels a side, differentiable in the field's raw density and colour (not in the
    cameras).

    samples: samples on a sphere's diameter, so the step is 2 / samples. jitter: (B, H, W) in [0, 1), or None for
    midpoints. occupancy: None visits every sample. backend: None is `default_backend`; asked-for ones are never
    replaced. Raises ValueError for sizes below 1, a jitter or occupancy of the wrong shape, an unknown backend, or
    "numba" off the CPU or in float64.
    """
    if resolution < 1 or samples < 1:
        raise ValueError(f"resolution and samples must be at least 1, got {resolution} and {samples}")
    shape = (len(cameras), resolution, resolution)
    if jitter is not None and tuple(jitter.shape) != shape:
        raise ValueError(f"jitter must have shape {shape}, got {tuple(jitter.shape)}")
    cells = torch.ones(1, 1, 1, dtype=torch.bool, device=field.device) if occupancy is None else occupancy.cells
    if cells.dtype != torch.bool or cells.dim() != 3 or len(set(cells.shape)) != 1:
        raise ValueError(f"occupancy must be bool (C, C, C), got {cells.dtype} {tuple(cells.shape)}")
    step = 2 / samples
    with torch.no_grad():
        rays = cameras.rays(resolution, resolution)
        origins, directions = (x.to(field.raw_density.dtype) for x in rays)
        entry, count = sphere_samples(origins, directions, step, jitter)
    chosen = default_backend(field.device) if backend is None else backend
    if chosen == "numba":
        totals = march_numba(field, origins, directions, entry, count, step, cells, MIN_TRANSMITTANCE)
    elif chosen == "torch":
        totals = march_torch(field, origins, directions, entry, count, step, cells, MIN_TRANSMITTANCE)
    else:
        raise ValueError(f"unknown backend {chosen!r}: use 'numba' or 'torch'")
    color, alpha, normal, depth = totals.split([3, 1, 3, 1], 1)
    rotation = cameras.rotation().to(normal.dtype)
    normal = (rotation.transpose(1, 2) @ normal.flatten(2)).view_as(normal)
    return Rendered(color=color, alpha=alpha, normal=normal, depth=depth)


def sphere_samples(origins: Tensor, directions: Tensor, step: float, jitter: Tensor | None) -> tuple[Tensor, Tensor]:
    """Each ray's first sample distance (B, H, W) and number of samples (B, H, W) int32 inside the unit sphere, in
    front of the origin."""
    middle = -(origins * directions).sum(-1)
    discriminant = middle.square() - origins.square().sum(-1) + 1
    half = discriminant.clamp(min=0).sqrt()
    enter, leave = (middle - half).clamp(min=0), middle + half
    entry = enter + step * (0.5 if jitter is None else jitter.to(enter.dtype))
    count = ((leave - entry) / step).ceil().clamp(min=0)
    hit = (discriminant > 0) & (leave > enter)  # false for NaN
    return torch.where(hit, entry, 0), torch.where(hit, count, 0).int()


def march_torch(
    field: GridField,
    origins: Tensor,
    directions: Tensor,
    entry: Tensor,
    count: Tensor,
    step: float,
    cells: Tensor,
    minimum: float,
) -> Tensor:
    """(B, 8, H, W) totals sum w_i (r g b, 1, world normal, t) on any device: the plain twin of `march_numba`.

    origins, directions (B, H, W, 3); entry, count as from `sphere_samples`; cells bool (C, C, C); minimum: the
    transmittance that ends a ray. Agrees with the kernels to rounding, except for samples within rounding of a cell's
    face or of the end of a ray.
    """
    origins, directions, shape = origins.reshape(-1, 3), directions.reshape(-1, 3), entry.shape
    index = torch.arange(int(count.max()), device=field.device)
    t = entry.reshape(-1, 1) + index * step
    points = origins[:, None] + t[..., None] * directions[:, None]
    visited = (index < count.reshape(-1, 1)) & Occupancy(cells).at(points)
    values = trilinear(field.packed(), points[visited])
    optical = torch.zeros_like(t).masked_scatter(visited, field.activate(values[:, 0]) * step)
    before = optical.cumsum(1) - optical
    weights = (-before).exp() * -torch.expm1(-optical) * ((-before).exp() >= minimum)
    t = t[visited, None]
    features = torch.cat([values[:, 1:4].sigmoid(), torch.ones_like(t), normals_from_gradients(values[:, 4:]), t], 1)
    ray = visited.nonzero()[:, 0]
    totals = features.new_zeros(visited.shape[0], 8).index_add(0, ray, weights[visited, None] * features)
    return totals.view(*shape, 8).permute(0, 3, 1, 2)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, density: Tensor, color: Tensor, rays: tuple[Tensor, ...], cells: Tensor, constants: tuple[float, ...]
    ) -> Tensor:
        raw, lines, threads = (_array(density), _array(color)), tuple(map(_array, rays)), torch.get_num_threads()
        out, ctx.marched = march_forward(raw, lines, _array(cells), constants, threads)
        totals = torch.from_numpy(out)
        ctx.save_for_backward(totals)
        return totals

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        (totals,) = ctx.saved_tensors
        density, color = march_backward(ctx.marched, _array(totals), _array(grad_outputs[0]))
        return torch.from_numpy(density), torch.from_numpy(color), None, None, None


def _array(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().numpy()


def march_numba(
    field: GridField,
    origins: Tensor,
    directions: Tensor,
    entry: Tensor,
    count: Tensor,
    step: float,
    cells: Tensor,
    minimum: float,
) -> Tensor:
    """`march_torch` by the fused kernels of `volume_cpu`. Raises ValueError unless all is float32 on the CPU."""
    for x in (field.raw_density, field.raw_color, origins, directions, entry):
        if x.device.type != "cpu" or x.dtype != torch.float32:
            raise ValueError(
                f"the numba marcher takes float32 on the CPU, not {x.dtype} on {x.device}: use backend='torch'"
            )
    constants = (step, field.density_scale, field.density_bias, NORMAL_EPSILON, minimum)
    fused: Any = _Fused.apply
    return fused(field.raw_density, field.raw_color, (origins, directions, entry, count), cells, constants)

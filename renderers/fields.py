"""A dense-grid radiance field over [-1, 1]^3: raw numbers at vertices, interpolated trilinearly, activated afterwards.

sigma(p) = softplus(scale * V(p) + bias) inside the unit sphere and 0 outside, c(p) = sigmoid(C(p)). Activating after
the interpolation lets a surface fall anywhere inside a cell (DVGO, 2111.11215). The normal is analytic, -g /
sqrt(|g|^2 + eps^2) with g the trilinear interpolation of central differences of V at the vertices. The starting blob
is Magic3D's (2211.10440).

Arrays are indexed [x, y, z]: vertex (i, j, k) lies at (-1, -1, -1) + 2 (i, j, k) / (R - 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NORMAL_EPSILON = (
    1e-2  # raw units a cell: below it normals fade to zero instead of following noise, and gradients stay bounded
)


@dataclass(frozen=True)
class GridField:
    """A field's state. The two tensors are the parameters (float32; float64 works in torch code and serves tests).

    raw_density  (R, R, R): V, any real number.
    raw_color    (R, R, R, 3): C, any real number; sigmoid gives sRGB.
    density_scale, density_bias: the constants of sigma = softplus(scale * V + bias), sigma per world unit.
    """

    raw_density: Tensor
    raw_color: Tensor
    density_scale: float = 10.0
    density_bias: float = 0.0

    def __post_init__(self) -> None:
        r = self.raw_density.shape[0] if self.raw_density.dim() else 0
        if r < 2 or self.raw_density.shape != (r, r, r) or self.raw_color.shape != (r, r, r, 3):
            shapes = f"{tuple(self.raw_density.shape)} and {tuple(self.raw_color.shape)}"
            raise ValueError(
                f"a grid field needs raw density (R, R, R) and raw colour (R, R, R, 3), R >= 2; got {shapes}"
            )
        if self.density_scale <= 0:
            raise ValueError(f"the density scale must be positive, got {self.density_scale}")

    @property
    def resolution(self) -> int:
        return self.raw_density.shape[0]

    @property
    def device(self) -> torch.device:
        return self.raw_density.device

    def to(self, device: torch.device | str) -> GridField:
        """A detached copy of the field on `device`, with parameters that require gradients as these do."""
        density, color = (
            x.detach().to(device, copy=True).requires_grad_(x.requires_grad)
            for x in (self.raw_density, self.raw_color)
        )
        return GridField(density, color, self.density_scale, self.density_bias)

    def activate(self, raw: Tensor) -> Tensor:
        """sigma >= 0 per world unit, from interpolated raw density of any shape."""
        return F.softplus(self.density_scale * raw + self.density_bias)

    def density_at(self, points: Tensor) -> Tensor:
        """sigma (N,) at world points (N, 3); 0 outside the unit sphere. Differentiable in the field and the points."""
        sigma = self.activate(trilinear(self.raw_density[..., None], points)[:, 0])
        return sigma * (points.square().sum(1) <= 1)

    def color_at(self, points: Tensor) -> Tensor:
        """sRGB (N, 3) in (0, 1) at world points (N, 3); beyond the cube the nearest face's. Differentiable in both."""
        return trilinear(self.raw_color, points).sigmoid()

    def normal_at(self, points: Tensor) -> Tensor:
        """World normals (N, 3) at world points (N, 3), out of the object; shorter than 1 where the density is flat."""
        return normals_from_gradients(trilinear(central_differences(self.raw_density), points))

    def packed(self) -> Tensor:
        """(R, R, R, 7): raw density, raw colour, central differences of the raw density. Differentiable."""
        return torch.cat([self.raw_density[..., None], self.raw_color, central_differences(self.raw_density)], -1)


def blob_field(
    generator: torch.Generator,
    resolution: int = 64,
    blob_density: float = 10.0,
    blob_radius: float = 0.5,
    color_noise: float = 0.02,
    density_scale: float = 10.0,
    density_bias: float = 0.0,
    device: torch.device | str = "cpu",
) -> GridField:
    """A soft grey ball: scale * V + bias = blob_density (1 - |p| / blob_radius), C ~ N(0, color_noise^2).

    So sigma is about `blob_density` at the centre and ln 2 at `blob_radius` (world units). Draws on the generator's
    device (CPU). The parameters are leaves that require gradients. Raises ValueError for a resolution below 8 or a
    radius outside (0, 1).
    """
    if resolution < 8:
        raise ValueError(f"a field needs a resolution of at least 8, got {resolution}")
    if not 0 < blob_radius < 1:
        raise ValueError(f"the blob's radius must lie in (0, 1), got {blob_radius}")
    radius = vertex_positions(resolution).norm(dim=-1)
    raw = (blob_density * (1 - radius / blob_radius) - density_bias) / density_scale
    color = color_noise * torch.randn(resolution, resolution, resolution, 3, generator=generator)
    density, color = (x.to(device).requires_grad_(True) for x in (raw, color))
    return GridField(density, color, density_scale, density_bias)


def resample_field(field: GridField, resolution: int) -> GridField:
    """The same field on another grid, trilinearly: a new leaf, for coarse-to-fine schedules."""

    def resize(x: Tensor) -> Tensor:
        y = F.interpolate(
            x.detach().movedim(-1, 0)[None], size=(resolution,) * 3, mode="trilinear", align_corners=True
        )
        return y[0].movedim(0, -1).contiguous().requires_grad_(True)

    density = resize(field.raw_density[..., None]).detach()[..., 0].contiguous().requires_grad_(True)
    return GridField(density, resize(field.raw_color), field.density_scale, field.density_bias)


def vertex_positions(resolution: int, device: torch.device | str = "cpu") -> Tensor:
    """(R, R, R, 3) world positions of the grid's vertices."""
    axis = torch.linspace(-1, 1, resolution, device=device)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)


def trilinear(grid: Tensor, points: Tensor) -> Tensor:
    """(N, C): a grid (R, R, R, C) indexed [x, y, z], interpolated at world points (N, 3); clamped to the cube."""
    # grid_sample counts its axes from the last, so (x, y, z) becomes (z, y, x)
    volume, at = grid.movedim(-1, 0)[None], points.flip(-1)[None, None, None]
    return F.grid_sample(volume, at, padding_mode="border", align_corners=True)[0, :, 0, 0].T


def central_differences(raw: Tensor) -> Tensor:
    """(R, R, R, 3): half the difference of the two neighbours along x, y and z (raw units a cell); edges repeat their
    own value."""
    parts = []
    for axis in range(3):
        r = raw.shape[axis]
        first, last = raw.narrow(axis, 0, 1), raw.narrow(axis, r - 1, 1)
        after = torch.cat([raw.narrow(axis, 1, r - 1), last], axis)
        before = torch.cat([first, raw.narrow(axis, 0, r - 1)], axis)
        parts.append(0.5 * (after - before))
    return torch.stack(parts, -1)


def normals_from_gradients(gradients: Tensor) -> Tensor:
    """-g / sqrt(|g|^2 + eps^2), for g (..., 3) in raw units a cell: of unit length at surfaces, 0 (not NaN) where g
    is 0."""
    return -gradients * (gradients.square().sum(-1, keepdim=True) + NORMAL_EPSILON**2).rsqrt()


def smoothness(grid: Tensor) -> Tensor:
    """Squared total variation of a grid (R, R, R) or (R, R, R, C): the mean over vertices and channels of the squared
    difference to the next vertex, summed over the three axes. A differentiable scalar."""
    return (
        sum(
            (
                (grid.narrow(a, 1, grid.shape[a] - 1) - grid.narrow(a, 0, grid.shape[a] - 1)).square().sum()
                for a in range(3)
            ),
            start=torch.zeros((), dtype=grid.dtype, device=grid.device),
        )
        / grid.numel()
    )

"""Cameras: the one place where axes, azimuth and projection are defined (docs/conventions.md).

World: right-handed, Y up, front to +Z. Azimuth 0 looks at the front from +Z and grows towards +X; elevation grows
upwards. Camera axes are OpenGL's: +X right, +Y up, looking along -Z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DEFAULT_FOV = math.radians(40.0)
DEFAULT_DISTANCE = 2.95


@dataclass(frozen=True)
class Cameras:
    """A batch of B cameras that look at the origin. All fields are float32 tensors of shape (B,), angles in
    radians."""

    azimuth: Tensor
    elevation: Tensor
    distance: Tensor
    fov: Tensor

    def __len__(self) -> int:
        return self.azimuth.shape[0]

    def __getitem__(self, index: slice | Tensor | list[int]) -> Cameras:
        return Cameras(self.azimuth[index], self.elevation[index], self.distance[index], self.fov[index])

    def to(self, device: torch.device | str) -> Cameras:
        return Cameras(*(x.to(device) for x in (self.azimuth, self.elevation, self.distance, self.fov)))

    @property
    def device(self) -> torch.device:
        return self.azimuth.device

    def rotation(self) -> Tensor:
        """(B, 3, 3): columns are the camera's right, up and backward axes in the world (camera-to-world rotation)."""
        sa, ca = self.azimuth.sin(), self.azimuth.cos()
        se, ce = self.elevation.sin(), self.elevation.cos()
        zero = torch.zeros_like(sa)
        right = torch.stack([ca, zero, -sa], -1)
        up = torch.stack([-se * sa, ce, -se * ca], -1)
        back = torch.stack([ce * sa, se, ce * ca], -1)
        return torch.stack([right, up, back], -1)

    def position(self) -> Tensor:
        """(B, 3) camera centres in the world."""
        return self.rotation()[:, :, 2] * self.distance[:, None]

    def pixel(self, resolution: int) -> float:
        """World units across a pixel of the first camera's picture, at the origin."""
        return float(2 * self.distance[0] * torch.tan(self.fov[0] / 2)) / resolution

    def world_to_camera(self) -> Tensor:
        """(B, 4, 4) view matrices."""
        r = self.rotation().transpose(1, 2)
        m = torch.zeros(len(self), 4, 4, device=self.device)
        m[:, :3, :3] = r
        m[:, 2, 3] = -self.distance
        m[:, 3, 3] = 1
        return m

    def projection(self, near: float = 0.5, far: float = 10.0) -> Tensor:
        """(B, 4, 4) OpenGL perspective matrices for square pictures: clip = P @ camera-space point."""
        f = 1 / torch.tan(self.fov / 2)
        m = torch.zeros(len(self), 4, 4, device=self.device)
        m[:, 0, 0] = f
        m[:, 1, 1] = f
        m[:, 2, 2] = -(far + near) / (far - near)
        m[:, 2, 3] = -2 * far * near / (far - near)
        m[:, 3, 2] = -1
        return m

    def clip(self, points: Tensor) -> Tensor:
        """Clip-space positions (B, N, 4) of world points (N, 3), in the convention that `renderers.raster` takes."""
        homogeneous = torch.cat([points, torch.ones_like(points[:, :1])], -1)
        return homogeneous @ (self.projection() @ self.world_to_camera()).transpose(1, 2)

    def rays(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Origins and unit directions, each (B, H, W, 3), through pixel centres; row 0 at the top."""
        y = 1 - 2 * (torch.arange(height, device=self.device) + 0.5) / height
        x = 2 * (torch.arange(width, device=self.device) + 0.5) / width - 1
        tan = torch.tan(self.fov / 2)[:, None, None]
        dx = tan * x.expand(height, width)
        dy = tan * y[:, None].expand(height, width)
        d = torch.stack([dx, dy, -torch.ones_like(dx)], -1)
        d = d / d.norm(dim=-1, keepdim=True)
        d = torch.einsum("bij,bhwj->bhwi", self.rotation(), d)
        return self.position()[:, None, None].expand_as(d), d


def make_cameras(
    azimuth: Tensor, elevation: Tensor, fov: float = DEFAULT_FOV, distance: float = DEFAULT_DISTANCE
) -> Cameras:
    """Cameras at the default field of view and distance. `azimuth`, `elevation`: (B,) radians (elevation may be
    (1,))."""
    azimuth = azimuth.float()
    elevation = elevation.float().expand_as(azimuth)
    return Cameras(azimuth, elevation, torch.full_like(azimuth, distance), torch.full_like(azimuth, fov))


def orbit(count: int, elevation: float = 0.0, start: float = 0.0, device: torch.device | str = "cpu") -> Cameras:
    """`count` cameras at equal azimuth steps from `start`, all at one elevation (radians)."""
    azimuth = start + torch.arange(count, device=device) * (2 * math.pi / count)
    return make_cameras(azimuth, torch.tensor([elevation], device=device))


def random_orbit(
    count: int,
    generator: torch.Generator,
    elevation_range: tuple[float, float],
    device: torch.device | str = "cpu",
) -> Cameras:
    """`count` cameras 360°/count apart from a random start, at one random elevation: what the joint prior was trained
    on.

    Draws on the generator's device (CPU), so the same seed gives the same cameras everywhere.
    """
    u = torch.rand(2, generator=generator)
    low, high = elevation_range
    start = float(u[0]) * 2 * math.pi
    return orbit(count, low + float(u[1]) * (high - low), start, device)

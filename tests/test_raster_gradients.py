"""Gradients of rasterize, interpolate and antialias against supersampled finite differences."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from renderers.raster import RasterizeCpuContext, antialias, interpolate, rasterize
from tests.test_raster import clip, faces

CPU = RasterizeCpuContext()

SIDE = 32
PIXEL = 2 / SIDE
COLORS = torch.tensor([[0.9, 0.2, 0.1], [0.8, 0.3, 0.2], [0.9, 0.1, 0.3], [0.7, 0.2, 0.2]])


def picture(pos: Tensor, tri: Tensor, attr: Tensor, supersample: int) -> Tensor:
    """(1, 3, SIDE, SIDE): antialiased at one sample a pixel, else a plain average of point samples that `antialias`
    has no part in."""
    rast, _ = rasterize(CPU, pos, tri, (SIDE * supersample, SIDE * supersample))
    color, _ = interpolate(attr, rast, tri)
    if supersample == 1:
        color = antialias(color, rast, pos, tri)
    return F.avg_pool2d(color.permute(0, 3, 1, 2), supersample)


def ramp(normal: Tensor) -> Tensor:
    """Smooth image weights (3, SIDE, SIDE) that grow along `normal`."""
    y, x = torch.meshgrid(*[(torch.arange(SIDE) + 0.5) * PIXEL - 1] * 2, indexing="ij")
    s = normal[0] * x + normal[1] * y
    return torch.stack([torch.sin(2.5 * s), torch.sin(2 * s + 0.3 * x), 0.5 + torch.sin(1.5 * s - 0.4 * y)])


def compare(pos: Tensor, tri: Tensor, attr: Tensor, step: Tensor, weights: Tensor) -> tuple[float, float]:
    """d loss / d (motion along `step`, screen units at each vertex) by autograd and by central differences of 16 x 16
    samples a pixel."""
    direction = F.pad(step, (0, 2))[None] * pos[..., 3:]
    s = torch.zeros((), requires_grad=True)
    (picture(pos + s * direction, tri, attr, 1) * weights).sum().backward()
    h = 0.25 * PIXEL
    with torch.no_grad():
        ahead, behind = (picture(pos + k * h * direction, tri, attr, 16) for k in (1, -1))
    assert s.grad is not None
    return float(s.grad), float(((ahead - behind) * weights).sum()) / (2 * h)


def relative_error(pairs: list[tuple[float, float]]) -> float:
    got, want = torch.tensor(pairs).T
    return float((got - want).norm() / want.norm())


def polygon(corners: int, radius: float, centre: Tensor) -> tuple[Tensor, Tensor]:
    angle = torch.arange(corners) * (2 * math.pi / corners) + 0.3
    xy = torch.cat([torch.zeros(1, 2), radius * torch.stack([angle.cos(), angle.sin()], 1)]) + centre
    return xy, faces(*((0, 1 + i, 1 + (i + 1) % corners) for i in range(corners)))


def test_gradient_of_a_moving_silhouette() -> None:
    g = torch.Generator().manual_seed(14)
    for _ in range(3):
        centre = torch.rand(2, generator=g) * PIXEL
        xy, tri = polygon(7, 0.6, centre)
        pos = clip(xy, w=torch.linspace(0.8, 1.4, 8))
        attr = torch.rand(8, 3, generator=g)
        for axis in torch.eye(2):
            assert relative_error([compare(pos, tri, attr, axis.expand(8, 2), ramp(axis))]) < 0.1
        # every corner on its own, along both axes, and growing
        moves = [torch.eye(8)[:, i : i + 1] * axis for i in range(8) for axis in torch.eye(2)] + [xy - centre]
        weights = ramp(torch.tensor([0.8, 0.6]))
        assert relative_error([compare(pos, tri, attr, move, weights) for move in moves]) < 0.1


def sliver(width: float, tip: bool, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A random placement of a strip (or, with a tip, a triangle) 24 pixels long and `width` pixels wide: pos, tri,
    its normal."""
    angle, centre = torch.rand((), generator=g) * math.pi, torch.rand(2, generator=g) * PIXEL
    along = torch.stack([angle.cos(), angle.sin()])
    normal = torch.stack([-angle.sin(), angle.cos()])
    half = 0.5 * width * PIXEL * normal
    ends = [-0.75 * along - half, -0.75 * along + half]
    ends += [0.75 * along] if tip else [0.75 * along + half, 0.75 * along - half]
    xy = torch.stack(ends) + centre
    pos = clip(xy, w=torch.tensor([1.0, 1.3, 0.8, 1.1])[: len(xy)])
    return pos, faces((0, 1, 2)) if tip else faces((0, 1, 2), (0, 2, 3)), normal


@pytest.mark.parametrize(("width", "tip"), [(2.0, False), (3.0, False), (4.0, True)])
def test_gradient_of_a_sliver(width: float, tip: bool) -> None:
    """The narrowest for which 10 % holds over random placements: a strip of 2 px, a triangle 4 px wide at one end (2
    px on average).

    The triangle needs more because its point is thinner than a pixel, where `antialias` sees nothing to blend.
    """
    g = torch.Generator().manual_seed(15)
    moved, corner = [], []
    for _ in range(32):
        pos, tri, normal = sliver(width, tip, g)
        count = pos.shape[1]
        moved.append(compare(pos, tri, COLORS[:count], normal.expand(count, 2), ramp(normal)))
        corner.append(compare(pos, tri, COLORS[:count], torch.eye(count)[:, :1] * normal, ramp(normal)))
    assert relative_error(moved) < 0.1
    assert relative_error(corner) < 0.1


def test_gradient_of_an_occluding_edge() -> None:
    """A near triangle slides over a far one of another colour that fills the picture, so nothing but their border
    changes."""
    g = torch.Generator().manual_seed(16)
    for _ in range(4):
        angle = torch.rand((), generator=g) * 2 * math.pi
        normal = torch.stack([angle.cos(), angle.sin()])
        turn = torch.tensor([0.0, 2.2, 4.0]) + angle
        near = 0.7 * torch.stack([turn.cos(), turn.sin()], 1) + torch.rand(2, generator=g) * PIXEL
        far = torch.tensor([[-4.0, -2], [4, -2], [0, 6]])
        pos = torch.cat([clip(far, z=0.5, w=2.0), clip(near, z=-0.2, w=1.5)], 1)
        tri = faces((0, 1, 2), (3, 4, 5))
        attr = torch.tensor([[0.1, 0.8, 0.3], [0.9, 0.2, 0.5]]).repeat_interleave(3, 0)
        step = torch.cat([torch.zeros(3, 2), normal.expand(3, 2)])
        single = torch.zeros(6, 2)
        single[3] = near[0] / near[0].norm()
        for move, weights in ((step, ramp(normal)), (single, ramp(single[3]))):
            assert relative_error([compare(pos, tri, attr, move, weights)]) < 0.1


def test_gradient_through_attributes() -> None:
    """The picture is linear in the attributes: supersampled values are the reference itself."""
    xy, tri = polygon(7, 0.6, torch.tensor([0.07, -0.04]))
    pos = clip(xy, w=torch.linspace(0.8, 1.4, 8))
    attr = torch.zeros(8, 3, requires_grad=True)
    weights = ramp(torch.tensor([0.8, 0.6])) + 1
    (picture(pos, tri, attr, 1) * weights).sum().backward()
    each = [picture(pos, tri, row[:, None].expand(8, 3), 16) for row in torch.eye(8)]
    want = torch.tensor([float((image * weights).sum()) for image in each])
    assert attr.grad is not None and torch.allclose(attr.grad.sum(1), want, rtol=0.03)


def test_outlines_of_triangles_smaller_than_a_pixel_move() -> None:
    """A hill of 20,000 triangles: nearly none of its outline's triangles are seen by a pixel, so the search must walk
    to it."""
    rings, spokes = 100, 100
    radius, angle = torch.linspace(0, 1, rings + 1)[1:], torch.arange(spokes) * (2 * math.pi / spokes)
    r, a = (x.reshape(-1) for x in torch.meshgrid(radius, angle, indexing="ij"))
    xy = 0.6 * torch.stack([r * a.cos(), r * a.sin()], 1)
    at = torch.arange(rings * spokes).reshape(rings, spokes)
    p, q = at[:-1], at[1:]
    first = torch.stack([p, q, q.roll(-1, 1)], -1).reshape(-1, 3)
    second = torch.stack([p, q.roll(-1, 1), p.roll(-1, 1)], -1).reshape(-1, 3)
    tri = torch.cat([first, second]).int()
    pos = clip(xy, z=0.3 * r)
    attr = torch.ones(len(xy), 3)
    axis = torch.tensor([1.0, 0.0])
    assert relative_error([compare(pos, tri, attr, axis.expand_as(xy), ramp(axis))]) < 0.05
    assert relative_error([compare(pos, tri, attr, xy, ramp(axis) + 1)]) < 0.05

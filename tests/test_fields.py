"""The grid field: axes, look-ups, analytic normals, the blob, and its plain regulariser."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from renderers.fields import (
    GridField,
    blob_field,
    central_differences,
    normals_from_gradients,
    resample_field,
    smoothness,
    trilinear,
    vertex_positions,
)


def linear_field(resolution: int = 9) -> GridField:
    """Raw density x + 2 y + 4 z and raw colour (x, y, z): linear, so trilinear interpolation is exact."""
    p = vertex_positions(resolution)
    return GridField(p @ torch.tensor([1.0, 2.0, 4.0]), p.contiguous())


def points(count: int, seed: int = 0, radius: float = 0.5) -> Tensor:
    return (2 * torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) - 1) * radius


def test_look_ups_follow_the_axes() -> None:
    field, p = linear_field(), points(50)
    torch.testing.assert_close(field.color_at(p), p.sigmoid())
    raw = p @ torch.tensor([1.0, 2.0, 4.0])
    torch.testing.assert_close(field.density_at(p), torch.nn.functional.softplus(10 * raw))


def test_density_is_zero_outside_the_unit_sphere_and_colour_is_not() -> None:
    p = torch.tensor([[0.0, 0.0, 1.01], [0.8, 0.8, 0.0], [0.0, 0.0, 0.99]])
    sigma = linear_field().density_at(p)
    assert sigma[0] == 0 and sigma[1] == 0 and sigma[2] > 1
    assert bool((linear_field().color_at(p) > 0.4).any(1).all())


def test_normals_point_out_of_the_object_and_are_safe_where_it_is_flat() -> None:
    p = points(50)
    expected = -torch.tensor([1.0, 2.0, 4.0]) / math.sqrt(21)
    assert float((linear_field().normal_at(p) - expected).abs().max()) < 1e-3
    flat = torch.zeros(5, 5, 5, requires_grad=True)
    normals = normals_from_gradients(central_differences(flat))
    normals.sum().backward()
    assert bool((normals == 0).all()) and flat.grad is not None and bool(torch.isfinite(flat.grad).all())


def test_blob_is_a_soft_grey_ball() -> None:
    field = blob_field(torch.Generator().manual_seed(0), resolution=33, blob_density=12.0, blob_radius=0.4)
    sigma = field.density_at(torch.tensor([[0.0, 0.0, 0.0], [0.4, 0.0, 0.0], [0.0, 0.9, 0.0]])).detach()
    assert float(sigma[0]) == pytest.approx(12, rel=1e-3)
    assert float(sigma[1]) == pytest.approx(math.log(2), rel=0.05)
    assert float(sigma[2]) < 1e-4
    color = field.color_at(points(200)).detach()
    assert float((color - 0.5).abs().max()) < 0.05 and float(color.std()) > 0
    again = blob_field(torch.Generator().manual_seed(0), resolution=33)
    assert torch.equal(field.raw_color, again.raw_color)
    assert field.raw_density.is_leaf and field.raw_density.requires_grad


def test_blob_keeps_its_density_under_other_constants() -> None:
    field = blob_field(torch.Generator(), 17, blob_density=8.0, density_scale=3.0, density_bias=-2.0)
    assert float(field.density_at(torch.zeros(1, 3)).detach()) == pytest.approx(8, rel=1e-3)


def test_resampling_keeps_a_linear_field() -> None:
    field, p = resample_field(linear_field(9), 14), points(50)
    assert field.resolution == 14 and field.raw_color.is_leaf and field.raw_color.requires_grad
    torch.testing.assert_close(field.color_at(p), linear_field(9).color_at(p))
    torch.testing.assert_close(field.density_at(p), linear_field(9).density_at(p), rtol=1e-5, atol=1e-5)


def test_gradients_of_look_ups_packing_and_smoothness() -> None:
    g = torch.Generator().manual_seed(1)
    density = torch.randn(4, 4, 4, generator=g, dtype=torch.float64, requires_grad=True)
    color = torch.randn(4, 4, 4, 3, generator=g, dtype=torch.float64, requires_grad=True)
    p = points(5).double()

    def all_of(density: Tensor, color: Tensor) -> tuple[Tensor, ...]:
        field = GridField(density, color)
        return field.density_at(p), field.color_at(p), field.normal_at(p), smoothness(density) + smoothness(color)

    assert torch.autograd.gradcheck(all_of, (density, color))


def test_packed_rows() -> None:
    field = linear_field(6)
    packed = field.packed()
    torch.testing.assert_close(packed[..., 1:4], field.raw_color)
    cell = 2 / 5
    interior = packed[1:-1, 1:-1, 1:-1, 4:]
    torch.testing.assert_close(interior, torch.tensor([1.0, 2.0, 4.0]).mul(cell).expand_as(interior))
    middle = trilinear(packed, torch.zeros(1, 3))[0]
    assert float(middle[0]) == pytest.approx(0, abs=1e-6)


def test_smoothness_by_hand() -> None:
    x = torch.zeros(3, 3, 3)
    x[1, 1, 1] = 2.0
    assert float(smoothness(x)) == pytest.approx(6 * 4 / 27)
    assert float(smoothness(torch.ones(4, 4, 4, 3))) == 0


@pytest.mark.parametrize(
    ("density", "color"), [((4, 4, 5), (4, 4, 4, 3)), ((4, 4, 4), (4, 4, 4)), ((1, 1, 1), (1, 1, 1, 3))]
)
def test_wrong_shapes_are_refused(density: tuple[int, ...], color: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="grid field needs"):
        GridField(torch.zeros(density), torch.zeros(color))


def test_blob_refuses_what_it_cannot_draw() -> None:
    with pytest.raises(ValueError, match="resolution"):
        blob_field(torch.Generator(), resolution=4)
    with pytest.raises(ValueError, match="radius"):
        blob_field(torch.Generator(), blob_radius=1.5)

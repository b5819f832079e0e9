"""The ray marcher: the kernels against their torch twin and finite differences, and pictures against geometry."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from renderers.cameras import DEFAULT_DISTANCE, DEFAULT_FOV, Cameras, make_cameras, orbit
from renderers.fields import GridField, blob_field, vertex_positions
from renderers.frames import Rendered
from renderers.volume import Backend, Occupancy, render_field, update_occupancy

BACKENDS: tuple[Backend, ...] = get_args(Backend)
ALL = ("color", "alpha", "normal", "depth")


def ball(resolution: int = 48, radius: float = 0.5, sharpness: float = 30.0) -> GridField:
    """A nearly opaque ball, its +X half red and its other half green."""
    p = vertex_positions(resolution)
    right = p[..., 0] > 0
    color = 10 * torch.stack([2.0 * right - 1, 1 - 2.0 * right, -torch.ones_like(p[..., 0])], -1)
    return GridField(sharpness * (radius - p.norm(dim=-1)), color)


def lopsided(resolution: int = 20, seed: int = 0, dtype: torch.dtype = torch.float32) -> GridField:
    """Noise on a blob that is off-centre: no symmetry hides an exchanged axis."""
    g = torch.Generator().manual_seed(seed)
    r = (vertex_positions(resolution) - torch.tensor([0.2, -0.1, 0.3])).norm(dim=-1)
    density = 0.6 - r + 0.1 * torch.randn(r.shape, generator=g)
    color = torch.randn(*r.shape, 3, generator=g)
    return GridField(density.to(dtype).requires_grad_(), color.to(dtype).requires_grad_(), 9.0, -0.5)


def stacked(picture: Rendered) -> Tensor:
    return torch.cat([getattr(picture, name) for name in ALL], 1)


def one_camera(azimuth_degrees: float, elevation_degrees: float = 0.0) -> Cameras:
    return make_cameras(torch.tensor([math.radians(azimuth_degrees)]), torch.tensor([math.radians(elevation_degrees)]))


def values_and_gradients(field: GridField, backend: Backend, jitter: Tensor | None, occupancy: Occupancy | None):
    out = stacked(render_field(field, orbit(3, 0.3, 0.2), 21, 30, jitter, occupancy, backend))
    up = torch.randn(out.shape, generator=torch.Generator().manual_seed(5))
    gradients = torch.autograd.grad((out * up).sum(), [field.raw_density, field.raw_color])
    return out.detach(), *gradients


@pytest.mark.parametrize("jittered", [False, True])
@pytest.mark.parametrize("skipping", [False, True])
def test_kernels_equal_the_twin(jittered: bool, skipping: bool) -> None:
    field = lopsided()
    jitter = torch.rand(3, 21, 21, generator=torch.Generator().manual_seed(1)) if jittered else None
    occupancy = update_occupancy(field, cells=13, threshold=0.5, dilation=0) if skipping else None
    assert occupancy is None or 0.05 < occupancy.fraction() < 0.5
    fast = values_and_gradients(field, "numba", jitter, occupancy)
    plain = values_and_gradients(field, "torch", jitter, occupancy)
    for a, b in zip(fast, plain, strict=True):
        assert float((a - b).abs().max()) < 2e-5 * float(b.abs().max())


def test_rays_end_early_in_both_backends() -> None:
    """Behind an opaque front nothing gets a gradient, and the twins agree on where that begins."""
    raw, color = torch.full((16, 16, 16), 6.0), torch.zeros(16, 16, 16, 3)
    dense = GridField(raw.requires_grad_(), color.requires_grad_())
    fast, plain = (values_and_gradients(dense, b, None, None) for b in BACKENDS)
    for a, b in zip(fast, plain, strict=True):
        assert float((a - b).abs().max()) < 2e-5 * float(b.abs().max())
    assert float(fast[1][8, 8, 8].abs()) == 0


@pytest.mark.parametrize("skipping", [False, True])
def test_kernel_gradient_matches_finite_differences(skipping: bool) -> None:
    """float32 kernels against central differences of the float64 twin, along random directions and at single
    vertices."""
    field, exact = lopsided(10), lopsided(10, dtype=torch.float64)
    occupancy = update_occupancy(field, cells=6, threshold=0.3, dilation=0) if skipping else None
    cameras = orbit(2, 0.4, 0.5)
    up = torch.randn(2, 8, 12, 12, generator=torch.Generator().manual_seed(2))

    def loss(density: Tensor, color: Tensor) -> float:
        f = GridField(density, color, exact.density_scale, exact.density_bias)
        with torch.no_grad():
            return float((stacked(render_field(f, cameras, 12, 30, None, occupancy, "torch")) * up).sum())

    out = stacked(render_field(field, cameras, 12, 30, None, occupancy, "numba"))
    gradients = torch.autograd.grad((out * up).sum(), [field.raw_density, field.raw_color])
    generator = torch.Generator().manual_seed(3)
    for which, gradient in enumerate(gradients):
        directions = [torch.randn(gradient.shape, generator=generator) for _ in range(3)]
        for vertex in gradient.abs().flatten().topk(5).indices:
            one = torch.zeros(gradient.numel())
            one[vertex] = 1
            directions.append(one.view_as(gradient))
        for direction in directions:
            h = 1e-6  # small enough that no ray changes the sample at which it ends
            step = h * direction.double()
            ends = []
            for sign in (1, -1):
                moved = [exact.raw_density, exact.raw_color]
                moved[which] = moved[which] + sign * step
                ends.append(loss(*moved))
            expected = (ends[0] - ends[1]) / (2 * h)
            assert float((gradient * direction).sum()) == pytest.approx(expected, rel=2e-3, abs=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("azimuth", "elevation"), [(0, 0), (140, 35), (265, -20)])
def test_opaque_ball(backend: Backend, azimuth: float, elevation: float) -> None:
    radius, size, samples = 0.5, 65, 128
    picture = render_field(ball(64, radius, 300.0), one_camera(azimuth, elevation), size, samples, backend=backend)
    sine = radius / DEFAULT_DISTANCE  # the silhouette's half angle
    silhouette = math.tan(math.asin(sine)) / math.tan(DEFAULT_FOV / 2)
    assert float(picture.alpha.mean()) == pytest.approx(math.pi / 4 * silhouette**2, rel=0.02)
    middle = size // 2
    assert float(picture.depth[0, 0, middle, middle]) == pytest.approx(DEFAULT_DISTANCE - radius, abs=2 * 2 / samples)
    assert picture.normal[0, :, middle, middle].tolist() == pytest.approx([0, 0, 1], abs=0.02)
    # to the right of and above the centre the surface turns right and up, in camera axes
    assert float(picture.normal[0, 0, middle, middle + 10]) > 0.3
    assert float(picture.normal[0, 1, middle - 10, middle]) > 0.3
    assert float(picture.normal.norm(dim=1).max()) < 1.001
    assert float(picture.alpha[0, 0, 0, 0]) == 0 and float(picture.depth[0, 0, 0, 0]) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_azimuth_and_rows(backend: Backend) -> None:
    red = render_field(ball(), one_camera(90), 33, backend=backend).color[0, :, 16, 16]
    green = render_field(ball(), one_camera(270), 33, backend=backend).color[0, :, 16, 16]
    front = render_field(ball(), one_camera(0), 33, backend=backend).color[0]
    assert red.tolist() == pytest.approx([1, 0, 0], abs=0.05)
    assert green.tolist() == pytest.approx([0, 1, 0], abs=0.05)
    assert float(front[0, 16, 20]) > 0.9 and float(front[1, 16, 12]) > 0.9
    high = vertex_positions(32)[..., 1] - 0.3
    top = GridField(20 * high, torch.zeros(32, 32, 32, 3))
    alpha = render_field(top, one_camera(0), 33, backend=backend).alpha[0, 0]
    assert float(alpha[5, 16]) > 0.9 and float(alpha[27, 16]) < 0.01


@pytest.mark.parametrize("backend", BACKENDS)
def test_skipping_keeps_the_picture(backend: Backend) -> None:
    field = blob_field(torch.Generator().manual_seed(0), 40, blob_radius=0.4)
    occupancy = update_occupancy(field)
    assert occupancy.fraction() < 0.3
    whole = stacked(render_field(field, orbit(2, 0.2), 32, backend=backend)).detach()
    skipped = stacked(render_field(field, orbit(2, 0.2), 32, occupancy=occupancy, backend=backend)).detach()
    assert float((whole - skipped)[:, :7].abs().max()) < 5e-3
    nothing = Occupancy(torch.zeros(4, 4, 4, dtype=torch.bool))
    assert not bool(render_field(field, orbit(1), 16, occupancy=nothing, backend=backend).alpha.any())


@pytest.mark.parametrize("cells", [7, 16, 33])
def test_occupancy_covers_all_matter(cells: int) -> None:
    """No point is denser than the threshold outside it, for cells that do and do not fall on the grid; dilation grows
    it."""
    field = lopsided(16)
    occupancy = update_occupancy(field, cells, threshold=0.4, dilation=0)
    p = 2 * torch.rand(40000, 3, generator=torch.Generator().manual_seed(4)) - 1
    sigma = field.density_at(p).detach()
    assert float(sigma[~occupancy.at(p)].max()) <= 0.4
    assert float(sigma[occupancy.at(p)].max()) > 0.4
    grown = update_occupancy(field, cells, threshold=0.4, dilation=1)
    assert bool((grown.cells | ~occupancy.cells).all()) and grown.fraction() > occupancy.fraction()


def test_same_bytes_again() -> None:
    field = lopsided(32)
    jitter = torch.rand(3, 21, 21, generator=torch.Generator().manual_seed(1))
    runs = [values_and_gradients(field, "numba", jitter, update_occupancy(field)) for _ in range(3)]
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))


def test_thread_count_changes_only_rounding() -> None:
    field, threads = lopsided(), torch.get_num_threads()
    results = []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            results.append(values_and_gradients(field, "numba", None, None))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0][0], results[1][0])
    for a, b in zip(results[0][1:], results[1][1:], strict=True):
        assert float((a - b).abs().max()) < 1e-5 * float(a.abs().max())


def test_nan_reaches_the_picture() -> None:
    """Also past the occupancy grid: a NaN counts as matter, so that collapse is seen."""
    field = lopsided(16)
    with torch.no_grad():
        field.raw_density[8, 8, 12] = float("nan")
        for backend in BACKENDS:
            picture = render_field(field, one_camera(0), 17, occupancy=update_occupancy(field), backend=backend)
            assert bool(picture.alpha.isnan().any())


def test_bad_calls_are_refused() -> None:
    field, camera = ball(16), one_camera(0)
    with pytest.raises(ValueError, match="at least 1"):
        render_field(field, camera, 0)
    with pytest.raises(ValueError, match="jitter"):
        render_field(field, camera, 8, jitter=torch.zeros(2, 8, 8))
    with pytest.raises(ValueError, match="occupancy"):
        render_field(field, camera, 8, occupancy=Occupancy(torch.ones(4, 4, 4)))
    with pytest.raises(ValueError, match="unknown backend"):
        render_field(field, camera, 8, backend="cuda")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="float32"):
        render_field(GridField(field.raw_density.double(), field.raw_color.double()), camera, 8, backend="numba")
    with pytest.raises(ValueError, match="occupancy needs"):
        update_occupancy(field, threshold=0)

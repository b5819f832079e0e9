"""Visual hull, remeshing, signed distance and large steps, on shapes whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from app.stages.fuse import level_set
from renderers.cameras import Cameras, make_cameras, orbit
from renderers.distance import signed_distance, winding
from renderers.fields import trilinear, vertex_positions
from renderers.hull import carve, project, silhouette_distance
from renderers.precondition import LargeSteps, combinatorial_laplacian, factorised, over_grid, over_mesh
from renderers.remesh import remesh
from renderers.snapshot import snapshots
from tests.objects import Mesh, car, sword, table

MARGIN = 1.0  # pixels: more than half a voxel's diagonal


def alpha_of(mesh: Mesh, cameras: Cameras, size: int = 64) -> Tensor:
    return torch.from_numpy(snapshots([mesh] * len(cameras), cameras, size, supersample=4))[:, 3:4]


def solid(mesh: trimesh.Trimesh) -> tuple[Tensor, Tensor]:
    return torch.tensor(np.array(mesh.vertices), dtype=torch.float32), torch.tensor(np.array(mesh.faces)).int()


def as_trimesh(vertices: Tensor, faces: Tensor) -> trimesh.Trimesh:
    return trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)


def surface_points(mesh: Mesh, count: int = 4000) -> Tensor:
    points, _ = trimesh.sample.sample_surface(trimesh.Trimesh(mesh[0], mesh[3], process=False), count, seed=1)
    return torch.from_numpy(np.asarray(points, np.float32))


@pytest.mark.parametrize("views", [4, 8])
@pytest.mark.parametrize("make", [car, table, sword])
def test_the_hull_of_exact_frames_contains_the_object(make, views: int) -> None:
    mesh, cameras = make(), orbit(views, math.radians(15))
    values = carve(alpha_of(mesh, cameras), cameras, 64, MARGIN, level=0.4)
    inside = trilinear(values[..., None], surface_points(mesh))[:, 0]
    assert float(inside.min()) > 0, "what marching cubes interpolates is positive all over the object's surface"
    hull = as_trimesh(*level_set(values))
    assert hull.is_watertight and hull.volume > 0
    assert hull.volume < 0.5 * 8, "the hull is carved, not the whole cube"


def test_more_views_carve_more_and_an_outvoted_view_carves_nothing() -> None:
    mesh, cameras = car(), orbit(8, math.radians(15))
    alpha = alpha_of(mesh, cameras)
    inside = [int((carve(alpha[:n], cameras[:n], 48) > 0).sum()) for n in (2, 4, 8)]
    assert inside[0] > inside[1] > inside[2]
    blind = alpha.clone()
    blind[3] = 0  # one view sees nothing at all
    assert int((carve(blind, cameras, 48, margin=0.5) > 0).sum()) == 0
    kept = carve(blind, cameras, 48, margin=0.5, outvoted=1) > 0
    strict = carve(alpha, cameras, 48, margin=0.5) > 0
    assert bool((kept | ~strict).all()), "what the other views agree on survives"
    with pytest.raises(ValueError, match="outvoted"):
        carve(alpha, cameras, 48, outvoted=8)


def test_silhouette_distance_is_in_pixels_and_signed() -> None:
    alpha = torch.zeros(1, 1, 32, 32)
    alpha[:, :, 8:24, 8:24] = 1
    d = silhouette_distance(alpha)[0, 0]
    assert abs(float(d[64, 64]) - 8) < 0.3 and abs(float(d[64, 0]) + 8) < 0.3
    assert bool((silhouette_distance(torch.zeros(1, 1, 32, 32)) == -64).all())


def test_projection_agrees_with_the_rays_of_the_camera() -> None:
    cameras = make_cameras(torch.tensor([0.3, 2.0]), torch.tensor([0.2, -0.1]))
    origin, direction = cameras.rays(8, 8)
    at = project((origin + 2.5 * direction)[0].reshape(-1, 3), cameras)[0].reshape(8, 8, 2)
    centres = (torch.arange(8) + 0.5) / 4 - 1
    torch.testing.assert_close(at[..., 0], centres.expand(8, 8), atol=1e-4, rtol=0)
    torch.testing.assert_close(at[..., 1], centres[:, None].expand(8, 8), atol=1e-4, rtol=0)


def test_signed_distance_of_a_sphere_and_of_overlapping_boxes() -> None:
    d = signed_distance(*solid(trimesh.creation.icosphere(4, 0.6)), 40)
    exact = 0.6 - vertex_positions(40).norm(dim=-1)
    near = exact.abs() < 0.1
    assert float((d - exact)[near].abs().max()) < 0.003 and bool((d[~near].sign() == exact[~near].sign()).all())
    two = trimesh.util.concatenate([trimesh.creation.box((0.8, 0.8, 0.8)), trimesh.creation.box((0.4, 0.4, 1.6))])
    inside = signed_distance(*solid(two), 40) > 0
    x, y, z = vertex_positions(40).abs().unbind(-1)
    exact = ((x < 0.4) & (y < 0.4) & (z < 0.4)) | ((x < 0.2) & (y < 0.2) & (z < 0.8))
    assert torch.equal(inside, exact), "overlapping parts are one solid"
    count = winding(np.asarray(two.vertices + 1) * 39 / 2, np.asarray(two.faces, np.int32), 40)
    assert set(np.unique(count)) == {0, 1, 2}


@pytest.mark.parametrize("length", [0.12, 0.05])
def test_remeshing_keeps_shape_genus_and_closedness(length: float) -> None:
    torus = trimesh.creation.torus(0.6, 0.25, major_sections=60, minor_sections=24)
    v, f = remesh(*solid(torus), length)
    out = as_trimesh(v, f)
    assert out.is_watertight and out.is_winding_consistent and out.euler_number == 0
    assert abs(out.volume / torus.volume - 1) < 0.04
    edges = out.edges_unique_length
    assert abs(np.median(edges) / length - 1) < 0.15
    assert np.quantile(edges, 0.98) / np.quantile(edges, 0.02) < 2.6, "isotropic"
    off = np.hypot(np.hypot(out.vertices[:, 0], out.vertices[:, 1]) - 0.6, out.vertices[:, 2]) - 0.25
    assert np.abs(off).max() < 0.25 * length


def test_remeshing_keeps_a_thin_blade_and_is_deterministic() -> None:
    blade = trimesh.creation.box((0.12, 1.2, 0.02))
    a, b = remesh(*solid(blade), 0.06), remesh(*solid(blade), 0.06)
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    out = as_trimesh(*a)
    assert out.is_watertight and out.volume > 0.85 * blade.volume and out.extents[1] > 1.1
    with pytest.raises(ValueError, match="positive length"):
        remesh(*a, 0)


def test_the_laplacian_has_zero_row_sums_and_the_factor_inverts() -> None:
    v, f = solid(trimesh.creation.icosphere(2))
    laplacian = combinatorial_laplacian(f, len(v))
    assert np.abs(laplacian.sum(1)).max() < 1e-12
    assert sorted(set(laplacian.diagonal())) == [5, 6], "neighbours of an icosphere's vertices"
    x = np.random.default_rng(0).normal(size=(len(v), 3))
    np.testing.assert_allclose(factorised(f, len(v), 7.0).solve(x + 7 * (laplacian @ x)), x, atol=1e-9)


def test_large_steps_are_smooth_bounded_and_converge() -> None:
    v, f = solid(trimesh.creation.icosphere(3))
    target = v * torch.tensor([1.2, 0.8, 1.0])
    p = v.clone().requires_grad_(True)
    optimizer = LargeSteps(p, over_mesh(f, len(p), 10), lr=0.02)
    noise = torch.zeros_like(v)
    noise[0] = 1
    p.grad = noise.clone()
    optimizer.step()
    moved = (v - p.detach()).norm(dim=1)
    assert float(moved[0]) == float(moved.max()) <= 4.001 * 0.02
    assert int((moved > 0.1 * moved.max()).sum()) > 10, "one vertex's gradient moves its neighbourhood"
    p = v.clone().requires_grad_(True)
    optimizer = LargeSteps(p, over_mesh(f, len(p), 10), lr=0.02)
    for i in range(120):
        optimizer.param_groups[0]["lr"] = 0.02 * 0.96**i
        p.grad = None
        (p - target).square().sum().backward()
        optimizer.step()
    assert float((p.detach() - target).norm(dim=1).max()) < 0.01


def test_no_guess_empties_a_ray_through_a_sure_silhouette() -> None:
    cameras = orbit(4)
    frames = torch.from_numpy(snapshots([table()] * 4, cameras, 64))
    alpha = frames[:, 3:4].clone()
    alpha[1:, :, 32:] = 0  # three guesses that have lost the legs
    plain = carve(alpha, cameras, 64)
    kept = carve(alpha, cameras, 64, sure=[0])
    at = project(vertex_positions(64).reshape(-1, 3), cameras[:1])[0]
    pixel = ((at * 0.5 + 0.5) * 64).long().clamp(0, 63)

    def covered(h: torch.Tensor) -> float:
        seen = torch.zeros(64, 64, dtype=torch.bool)
        inside = h.reshape(-1) > 0
        seen[pixel[inside, 1], pixel[inside, 0]] = True
        wanted = alpha[0, 0] > 0.99
        return float((seen & wanted).sum() / wanted.sum())

    assert covered(plain) < 0.75 and covered(kept) > 0.97
    outside = (alpha[0, 0] == 0)[pixel[:, 1], pixel[:, 0]]
    far = torch.nn.functional.max_pool2d(alpha[:1], 5, 1, 2)[0, 0] == 0
    nowhere = outside & far[pixel[:, 1], pixel[:, 0]]
    assert float(kept.reshape(-1)[nowhere].max()) < 0, "and none puts anything beside it"
    assert (kept >= plain - 1e-5)[plain > 0].all(), "what all agree on stays"
    with pytest.raises(ValueError, match="cannot be outvoted"):
        carve(alpha, cameras, 16, outvoted=3, sure=[0])


def test_on_a_grid_the_preconditioner_is_the_same_matrix() -> None:
    """Against I + lambda L of a 4 x 4 x 4 grid's edges, built densely."""
    at = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), -1).reshape(-1, 3)
    near = np.abs(at[:, None] - at[None]).sum(2) == 1
    matrix = np.eye(64) + 7.0 * (np.diag(near.sum(1)) - near)
    x = np.random.default_rng(0).normal(size=(64, 2))
    np.testing.assert_allclose(over_grid(4, 7.0)(torch.from_numpy(matrix @ matrix @ x)).numpy(), x, atol=1e-9)

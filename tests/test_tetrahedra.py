"""Marching tetrahedra: closed surfaces of known shape and topology, gradients, and a fit that changes topology."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import trimesh
from torch import Tensor

from app.recipes import DirectRecipe, RefineRecipe
from app.stages.fuse import fuse_step
from app.stages.rounds import falling, rounds_of, start_round
from renderers.cameras import Cameras, orbit
from renderers.isosurface import keep_largest_components, signed_volume
from renderers.mesh import render_mesh
from renderers.raster import RasterizeCpuContext
from renderers.tetrahedra import COUNT, marching_tetrahedra, tet_grid

GRID = tet_grid(24)
STEPS = 44


def fields(c: Cameras) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return c.azimuth, c.elevation, c.distance, c.fov


def ball(p: Tensor, radius: float = 0.6) -> Tensor:
    return radius - p.norm(dim=1)


def torus(p: Tensor, ring: float = 0.55, tube: float = 0.25) -> Tensor:
    across = (p[:, 0].square() + p[:, 2].square()).sqrt() - ring
    return tube - (across.square() + p[:, 1].square()).sqrt()


def as_trimesh(vertices: Tensor, faces: Tensor) -> trimesh.Trimesh:
    return trimesh.Trimesh(vertices.detach().numpy(), faces.numpy(), process=False)


def test_the_tetrahedra_fill_the_cube_and_are_positively_oriented() -> None:
    p = GRID.points[GRID.tets].double()
    volume = torch.linalg.det(p[:, 1:] - p[:, :1]) / 6
    assert float(volume.min()) > 0 and float(volume.sum()) == pytest.approx(8.0, rel=1e-5)
    assert COUNT.tolist() == [0, 1, 1, 2, 1, 2, 2, 1, 1, 2, 2, 1, 2, 1, 1, 0]


@pytest.mark.parametrize(("shape", "euler", "volume"), [(ball, 2, 0.9048), (torus, 0, 0.6785)])
def test_a_ball_and_a_torus_have_their_volume_and_genus(shape, euler: int, volume: float) -> None:
    vertices, faces = marching_tetrahedra(GRID, shape(GRID.points))
    mesh = as_trimesh(vertices, faces)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.euler_number == euler
    assert signed_volume(vertices, faces) == pytest.approx(volume, rel=0.03), "outwards, and as large as it is"
    assert float(shape(vertices).abs().max()) < 0.02


def test_any_values_give_a_closed_surface_without_a_doubled_or_turned_triangle() -> None:
    g = torch.Generator().manual_seed(0)
    grid = tet_grid(9)
    values = torch.randn(len(grid.points), generator=g)
    values[::7] = 0
    vertices, faces = marching_tetrahedra(
        grid, values, grid.points + 0.04 * torch.randn(grid.points.shape, generator=g)
    )
    mesh = as_trimesh(vertices, faces)
    assert mesh.is_watertight and mesh.is_winding_consistent and len(faces) > 500
    assert len(torch.unique(faces.long().sort(1).values, dim=0)) == len(faces)


def test_gradients_are_those_of_finite_differences() -> None:
    grid = tet_grid(5)
    values = ball(grid.points.double(), 0.7) + 0.01
    points = grid.points.double()
    grid = type(grid)(points, grid.tets, grid.border, grid.cell)
    weights = torch.randn(200, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def work(v: Tensor, p: Tensor) -> Tensor:
        out, _ = marching_tetrahedra(grid, v, p)
        return (out * weights[: len(out)]).sum()

    assert torch.autograd.gradcheck(work, (values.requires_grad_(), points.clone().requires_grad_()))


def test_nothing_inside_is_a_sentence() -> None:
    with pytest.raises(ValueError, match="no surface"):
        marching_tetrahedra(GRID, torch.full((len(GRID.points),), -1.0))
    with pytest.raises(ValueError, match="at least 3"):
        tet_grid(2)


@pytest.mark.parametrize(("kind", "euler"), [("tetrahedra", 0), ("mesh", 2)])
def test_only_tetrahedra_turn_a_ball_into_a_torus(kind: str, euler: int) -> None:
    """Exact pictures of a torus, from a ball: what opens the hole is that alpha's gradient moves what it covers."""
    target = marching_tetrahedra(tet_grid(48), torus(tet_grid(48).points))
    cameras = Cameras(*(torch.cat(x) for x in zip(*(fields(orbit(6, e, 0.2)) for e in (-0.9, 0.3, 1.2)), strict=True)))
    context = RasterizeCpuContext()
    frames = render_mesh(context, *target, cameras, 48, torch.full_like(target[0], 0.5), supersample=2).frames()
    rounds = dataclasses.replace(
        rounds_of(RefineRecipe(steps=STEPS, rounds=2, rate=0.02, rate_end=0.004, surface=kind, grid=28), 0.04),
        coarse=1500,
        fine=3000,
    )
    vertices, faces = marching_tetrahedra(GRID, ball(GRID.points, 0.8))
    for r, steps in enumerate(rounds.steps):
        state, now = start_round(vertices, faces, rounds, r, {})
        step = falling(fuse_step(now, frames.detach(), cameras, DirectRecipe()), state, rounds, r)
        for i in range(steps):
            state.backward(step(i).loss)
            state.update()
        vertices, faces = now().vertices.detach(), now().faces
    vertices, faces = keep_largest_components(vertices, faces, 0.05)
    mesh = as_trimesh(vertices, faces)
    assert mesh.is_watertight and mesh.euler_number == euler
    if kind == "tetrahedra":
        assert float(torus(vertices).abs().mean()) < 0.02

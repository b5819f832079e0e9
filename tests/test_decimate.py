"""Decimation: any shape, any target, the surface stays a closed manifold of the same topology."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from renderers.decimate import decimate
from renderers.fields import GridField, vertex_positions
from renderers.isosurface import density_to_mesh, signed_volume
from renderers.topology import arrays, face_areas, faults


def of_trimesh(mesh: trimesh.Trimesh) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(np.array(mesh.vertices, np.float32)), torch.from_numpy(np.array(mesh.faces, np.int32))


def of_distance(inside: Tensor) -> tuple[Tensor, Tensor]:
    """Marching cubes of a signed distance on a grid, positive inside."""
    field = GridField(20 * inside, torch.zeros(*inside.shape, 3))
    return density_to_mesh(field, threshold=math.log(2), fill_cavities=False)


def box(p: Tensor, low: tuple[float, float, float], high: tuple[float, float, float]) -> Tensor:
    return torch.minimum(p - torch.tensor(low), torch.tensor(high) - p).amin(-1)


def chair(p: Tensor, leg: float = 0.04) -> Tensor:
    """A seat, a back of two posts and two rails, four legs `leg` to each side of their axis."""
    parts = [box(p, (-0.4, -0.05, -0.4), (0.4, 0.05, 0.4))]
    for x in (-0.35, 0.35):
        for z in (-0.35, 0.35):
            parts.append(box(p, (x - leg, -0.7, z - leg), (x + leg, 0, z + leg)))
        parts.append(box(p, (x - leg, 0, -0.35 - leg), (x + leg, 0.7, -0.35 + leg)))
    for y in (0.35, 0.65):
        parts.append(box(p, (-0.35, y - 0.04, -0.39), (0.35, y + 0.04, -0.31)))
    return torch.stack(parts).amax(0)


def blobs(p: Tensor, seed: int) -> Tensor:
    """A smooth random level set, with handles and parts."""
    g = torch.Generator().manual_seed(seed)
    wave = torch.randn(12, 3, generator=g) * 5
    phase = torch.rand(12, generator=g) * 6.3
    return torch.minimum((p @ wave.T + phase).sin().sum(-1) / 20, 0.8 - p.norm(dim=-1))


@cache
def shape(name: str) -> tuple[Tensor, Tensor]:
    if name == "ball":
        return of_trimesh(trimesh.creation.icosphere(4, 0.5))
    if name == "torus":
        return of_trimesh(trimesh.creation.torus(0.6, 0.15, 64, 40))
    if name == "thin ring":
        return of_trimesh(trimesh.creation.torus(0.6, 0.01, 96, 12))
    if name == "cube":
        return of_trimesh(trimesh.creation.box((1, 1, 1)).subdivide().subdivide().subdivide().subdivide())
    if name == "blade":
        return of_trimesh(trimesh.creation.box((1.5, 0.2, 0.01)).subdivide().subdivide().subdivide().subdivide())
    if name == "two parts":
        return of_distance(torch.maximum(*(0.3 - (p48() - torch.tensor([x, 0, 0])).norm(dim=-1) for x in (-0.5, 0.5))))
    if name == "cavity":
        r = p48().norm(dim=-1)
        return of_distance(torch.minimum(0.6 - r, r - 0.4))
    if name == "chair":
        return of_distance(chair(vertex_positions(72)))
    return of_distance(blobs(p48(), int(name[5:])))


@cache
def p48() -> Tensor:
    return vertex_positions(48)


SHAPES = (
    *("ball", "torus", "thin ring", "cube", "blade", "two parts", "cavity", "chair"),
    *(f"blobs{k}" for k in range(8)),
)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("target", [2000, 500, 120, 4])
def test_a_closed_manifold_stays_one(name: str, target: int) -> None:
    v, f = shape(name)
    before, after = arrays(v, f), arrays(*decimate(v, f, target))
    assert faults(before[1]).manifold and faults(after[1]).manifold
    old, new = (trimesh.Trimesh(*m, process=False) for m in (before, after))
    assert new.euler_number == old.euler_number and new.body_count == old.body_count
    assert new.is_watertight and new.is_winding_consistent
    assert len(after[1]) <= len(before[1]) and face_areas(*after).min() > 0
    assert np.isfinite(after[0]).all()
    if target > 4:
        assert (np.abs(after[0]) < np.abs(before[0]).max(0) * 1.1 + 0.02).all()
        assert len(after[1]) <= target or name.startswith("blobs") or name == "thin ring"
        assert (new.volume > 0) == (old.volume > 0)


@pytest.mark.parametrize("name", ["ball", "torus", "cube", "chair", "two parts", "cavity", "blade"])
def test_the_shape_is_kept(name: str) -> None:
    v, f = shape(name)
    fewer = decimate(v, f, 600)
    assert 590 <= len(fewer[1]) <= 600
    assert signed_volume(*fewer) == pytest.approx(signed_volume(v, f), rel=0.06 if name == "blade" else 0.03)
    torch.testing.assert_close(fewer[0].amin(0), v.amin(0), atol=0.02, rtol=0)
    torch.testing.assert_close(fewer[0].amax(0), v.amax(0), atol=0.02, rtol=0)


def test_planes_cost_nothing() -> None:
    v, f = shape("cube")
    corners, faces = decimate(v, f, 12)
    assert len(faces) == 12
    torch.testing.assert_close(corners.abs(), torch.full((8, 3), 0.5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("target", [1000, 500, 300])
def test_thin_legs_survive(target: int) -> None:
    """Each of a chair's legs is cut by a plane near its foot, at about its place and width."""
    v, f = shape("chair")
    mesh = trimesh.Trimesh(*arrays(*decimate(v, f, target)), process=False)
    feet = mesh.section(plane_origin=[0, -0.6, 0], plane_normal=[0, 1, 0])
    rings = feet.discrete
    assert len(rings) == 4
    for ring in rings:
        assert np.abs(np.abs(ring.mean(0)[[0, 2]]) - 0.35).max() < 0.03
        assert (np.ptp(ring, axis=0)[[0, 2]] > 0.05).all() and (np.ptp(ring, axis=0)[[0, 2]] < 0.12).all()


def test_a_mesh_that_is_no_manifold_is_repaired_first() -> None:
    a = trimesh.creation.box((1, 1, 1)).subdivide().subdivide().subdivide()
    b = a.copy()
    b.apply_translation((1, 1, 0))
    both = trimesh.util.concatenate([a, b])
    both.merge_vertices()
    v, f = of_trimesh(both)
    assert not faults(arrays(v, f)[1]).closed
    fewer, faces = decimate(v, f, 100)
    assert len(faces) <= 100 and faults(arrays(fewer, faces)[1]).manifold
    assert signed_volume(fewer, faces) == pytest.approx(2, rel=0.02)


def test_the_same_mesh_gives_the_same_faces() -> None:
    v, f = shape("chair")
    one, two = decimate(v, f, 700), decimate(v.clone(), f.clone(), 700)
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    assert one[0].dtype == torch.float32 and one[1].dtype == torch.int32
    assert decimate(v, f, len(f))[1] is f
    with pytest.raises(ValueError, match="at least 4"):
        decimate(v, f, 3)


def test_borders_stay_where_they_are() -> None:
    """A ball with a cap of another colour: where faces have one colour each, less of the surface has the wrong one."""
    v, f = shape("ball")
    cap = v[f.long()].mean(1)[:, 1] > 0.2
    edges = torch.cat([f[:, [0, 1]], f[:, [1, 2]], f[:, [2, 0]]]).long().sort(1).values
    of_cap = cap.repeat(3)
    inside, outside = (set(map(tuple, edges[m].tolist())) for m in (of_cap, ~of_cap))
    borders = torch.tensor(sorted(inside & outside))

    def wrong(m: tuple[Tensor, Tensor]) -> float:
        mesh = trimesh.Trimesh(*arrays(*m), process=False)
        points, face = trimesh.sample.sample_surface(mesh, 20_000, seed=0)
        share = np.bincount(face, points[:, 1] > 0.2, len(mesh.faces)) / np.bincount(face, minlength=len(mesh.faces))
        return float(np.minimum(share, 1 - share)[face].mean())

    with_borders = decimate(v, f, 200, borders, 10.0)
    assert faults(arrays(*with_borders)[1]).manifold and len(with_borders[1]) <= 200
    assert wrong(with_borders) < 0.5 * wrong(decimate(v, f, 200))
    assert signed_volume(*with_borders) == pytest.approx(signed_volume(v, f), rel=0.05)

"""Clean-up: what is broken comes out closed, and what is whole stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from renderers.cleanup import repair, watertight
from renderers.isosurface import signed_volume
from renderers.parts import Cleaned, clean, drop_hidden, drop_small
from renderers.topology import arrays, faults


def mesh_of(*meshes: trimesh.Trimesh) -> tuple[Tensor, Tensor]:
    whole = trimesh.util.concatenate(meshes)
    return torch.from_numpy(np.array(whole.vertices, np.float32)), torch.from_numpy(np.array(whole.faces, np.int32))


def box(size: float = 1.0, at: tuple[float, float, float] = (0, 0, 0)) -> trimesh.Trimesh:
    mesh = trimesh.creation.box((size, size, size))
    mesh.apply_translation(at)
    return mesh


def reread(vertices: Tensor, faces: Tensor) -> trimesh.Trimesh:
    """As a program reads an STL: no indices, corners at one place welded."""
    corners = vertices.numpy()[faces.numpy().reshape(-1)]
    return trimesh.Trimesh(corners, np.arange(len(corners)).reshape(-1, 3), process=True)


def bunch(kind: str) -> tuple[Tensor, Tensor]:
    """Broken meshes."""
    ball = trimesh.creation.icosphere(3, 0.5)
    if kind == "holes":
        v, f = mesh_of(ball)
        return v, torch.cat([f[:40], f[47:300], f[301:900], f[905:]])
    if kind == "an edge of four faces":
        return mesh_of(box(), box(at=(1, 1, 0)))
    if kind == "a corner of two fans":
        return mesh_of(box(), box(at=(1, 1, 1)))
    if kind == "turned faces":
        v, f = mesh_of(ball)
        f[::3] = f[::3].flip(1)
        return v, f
    if kind == "inside out":
        v, f = mesh_of(ball)
        return v, f.flip(1)
    if kind == "soup":
        v, f = mesh_of(ball)
        return v[f.long()].reshape(-1, 3), torch.arange(3 * len(f)).int().reshape(-1, 3)
    if kind == "doubled":
        v, f = mesh_of(ball)
        return v, torch.cat([f, f[:9], f[20:25].flip(1)])
    if kind == "a sheet":
        v = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
        return v, torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)
    if kind == "a wall inside":
        v, f = mesh_of(box())
        low = [int(((v - torch.tensor(p)).norm(dim=1)).argmin()) for p in ((-0.5, -0.5, -0.5), (0.5, 0.5, -0.5))]
        high = [int(((v - torch.tensor(p)).norm(dim=1)).argmin()) for p in ((0.5, 0.5, 0.5), (-0.5, -0.5, 0.5))]
        wall = torch.tensor([[low[0], low[1], high[0]], [low[0], high[0], high[1]]], dtype=torch.int32)
        return v, torch.cat([f, wall])
    if kind == "an open tube":
        tube = trimesh.creation.annulus(0.3, 0.5, 1.0)
        v, f = mesh_of(tube)
        normal = torch.from_numpy(np.array(tube.face_normals))
        return v, f[normal[:, 2].abs() < 0.9]
    if kind == "a strip of Moebius":
        turn = torch.linspace(0, 2 * torch.pi, 41)[:-1]
        w = torch.tensor([-0.2, 0.2])
        r = 1 + w[None] * torch.cos(turn / 2)[:, None]
        v = torch.stack(
            [r * turn.cos()[:, None], r * turn.sin()[:, None], w[None] * torch.sin(turn / 2)[:, None]], -1
        ).reshape(-1, 3)
        quads = []
        for i in range(40):
            a, b = 2 * i, 2 * i + 1
            c, d = (2 * i + 2, 2 * i + 3) if i < 39 else (1, 0)
            quads += [[a, b, d], [a, d, c]]
        return v, torch.tensor(quads, dtype=torch.int32)
    raise AssertionError(kind)


KINDS = (
    *("holes", "an edge of four faces", "a corner of two fans", "turned faces", "inside out", "soup", "doubled"),
    *("a sheet", "a wall inside", "an open tube", "a strip of Moebius"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_broken_comes_out_watertight(kind: str) -> None:
    v, f = bunch(kind)
    broken = reread(v, f)
    whole = broken.is_watertight and broken.is_winding_consistent and broken.volume > 0
    assert not whole or kind in ("soup", "a corner of two fans")
    closed, closed_faces = watertight(v, f)
    assert closed.dtype == torch.float32 and closed_faces.dtype == torch.int32
    again = reread(closed, closed_faces)
    assert again.is_watertight and again.is_winding_consistent and again.volume > 0
    assert len(again.faces) == len(closed_faces)
    assert faults(arrays(closed, closed_faces)[1]).manifold
    assert signed_volume(closed, closed_faces) > 0


@pytest.mark.parametrize("seed", range(12))
def test_any_triangles_come_out_watertight(seed: int) -> None:
    """Random faces over few vertices: edges of many faces, doubles, strips of Moebius, bow-ties, all at once."""
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(8 + seed * 3, 3, generator=generator)
    v[1] = v[0]
    f = torch.randint(0, len(v), (20 + 10 * seed, 3), generator=generator).int()
    closed, faces = watertight(v, f)
    again = reread(closed, faces)
    assert again.is_watertight and again.is_winding_consistent and len(again.faces) == len(faces)
    assert faults(arrays(closed, faces)[1]).manifold


@pytest.mark.parametrize("kind", ["turned faces", "inside out", "soup", "doubled"])
def test_the_repaired_ball_is_the_ball(kind: str) -> None:
    v, f = mesh_of(trimesh.creation.icosphere(3, 0.5))
    closed, faces = watertight(*bunch(kind))
    assert len(faces) == len(f) and signed_volume(closed, faces) == pytest.approx(signed_volume(v, f), rel=1e-4)


def test_two_boxes_at_one_edge_keep_their_volume() -> None:
    v, f, done = repair(*bunch("an edge of four faces"))
    assert done.parted == 1 and done.holes == 0
    assert signed_volume(v, f) == pytest.approx(2, rel=0.01)


def test_a_watertight_mesh_keeps_its_faces() -> None:
    hollow = trimesh.util.concatenate([trimesh.creation.icosphere(2, 0.5), trimesh.creation.icosphere(2, 0.3)])
    hollow.faces[320:] = hollow.faces[320:, ::-1]  # a cavity
    v, f = mesh_of(hollow)
    closed, faces = watertight(v, f)
    assert len(faces) == len(f) and signed_volume(closed, faces) == pytest.approx(signed_volume(v, f), rel=1e-5)


def test_what_cannot_be_closed_is_refused_in_a_sentence() -> None:
    v, f = mesh_of(box())
    with pytest.raises(ValueError, match="not finite"):
        watertight(v * float("nan"), f)
    with pytest.raises(ValueError, match="no face with an area"):
        watertight(v, f[:0])
    with pytest.raises(ValueError, match="no face with an area"):
        watertight(torch.zeros_like(v), f)


def ball(radius: float, at: tuple[float, float, float] = (0, 0, 0), level: int = 2) -> trimesh.Trimesh:
    mesh = trimesh.creation.icosphere(level, radius)
    mesh.apply_translation(at)
    return mesh


def test_small_parts_go_and_the_rest_stays() -> None:
    big, speck, part = ball(0.5), ball(0.01, (0.7, 0, 0)), ball(0.1, (-0.8, 0, 0))
    v, f, small = drop_small(*mesh_of(big, speck, part))
    assert small == 1 and len(f) == 2 * 320 and float(v[:, 0].max()) < 0.51 and float(v[:, 0].min()) < -0.85
    v, f = mesh_of(big)
    assert drop_small(v, f)[1] is f
    only = mesh_of(*(ball(0.01, (0.05 * k, 0, 0), level=0) for k in range(1200)))
    assert len(drop_small(*only)[1]) == 20  # each is below a thousandth: one is left


def test_what_no_side_sees_goes() -> None:
    """Inside one part, inside two that overlap, and a cavity's shell; not what sticks out, or lies beside."""
    inside = ball(0.1, (0.1, 0, 0))
    hollow = ball(0.2, (-0.2, 0, 0))
    hollow.invert()
    out = ball(0.2, (0, 0.5, 0))
    beside = ball(0.1, (0, -0.9, 0))
    v, f, hidden = drop_hidden(*mesh_of(ball(0.5, level=3), inside, hollow, out, beside))
    assert hidden == 2 and len(f) == 1280 + 2 * 320
    assert float(v[:, 1].max()) > 0.69 and float(v[:, 1].min()) < -0.99
    v, f, hidden = drop_hidden(*mesh_of(ball(0.5, (-0.2, 0, 0)), ball(0.5, (0.2, 0, 0)), ball(0.3)))
    assert hidden == 1 and len(f) == 2 * 320
    v, f = mesh_of(ball(0.5))
    assert drop_hidden(v, f)[1] is f


def test_clean_says_what_it_did() -> None:
    v, f = mesh_of(ball(0.5), ball(0.1), ball(0.01, (0.9, 0, 0)))
    v, f, done = clean(v, f[3:])
    assert (done.small, done.hidden) == (1, 1) and done.repaired is not None and done.repaired.holes == 1
    assert faults(arrays(v, f)[1]).manifold
    assert done.sentence() == "Cleaned the mesh: dropped 1 tiny part, dropped 1 hidden part, closed the surface."
    same = clean(v, f)
    assert same[1] is f and same[2] == Cleaned() and same[2].sentence() == ""

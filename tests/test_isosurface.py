"""Density to mesh: size, winding, axes, closedness, and what happens without a surface."""

from __future__ import annotations

import math

import pytest
import torch
import trimesh
from torch import Tensor

from renderers.cameras import orbit
from renderers.fields import GridField, blob_field, vertex_positions
from renderers.isosurface import (
    EmptyMeshError,
    automatic_threshold,
    density_to_mesh,
    keep_largest_components,
    opacity_threshold,
    signed_volume,
)
from renderers.volume import render_field


def field_of(raw: Tensor) -> GridField:
    return GridField(raw, torch.zeros(*raw.shape, 3))


def ball(radius: float = 0.5, resolution: int = 48, center: tuple[float, float, float] = (0, 0, 0)) -> GridField:
    """sigma falls through ln 2 at `radius`."""
    return field_of(20 * (radius - (vertex_positions(resolution) - torch.tensor(center)).norm(dim=-1)))


def trimesh_of(vertices: Tensor, faces: Tensor) -> trimesh.Trimesh:
    return trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)


@pytest.mark.parametrize("resolution", [None, 70])
def test_sphere(resolution: int | None) -> None:
    vertices, faces = density_to_mesh(ball(), threshold=math.log(2), resolution=resolution)
    assert vertices.dtype == torch.float32 and faces.dtype == torch.int32
    radii = vertices.norm(dim=1)
    assert float((radii / 0.5 - 1).abs().max()) < 0.01
    assert signed_volume(vertices, faces) == pytest.approx(4 / 3 * math.pi * 0.5**3, rel=0.01)
    mesh = trimesh_of(vertices, faces)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert float((mesh.face_normals * mesh.triangles_center).sum(1).min()) > 0


def test_world_axes() -> None:
    """A box that reaches 0.6 to +X, 0.4 to +Y, 0.2 to +Z, and 0.1 the other ways."""
    p = vertex_positions(64)
    low, high = torch.tensor([-0.1, -0.1, -0.1]), torch.tensor([0.6, 0.4, 0.2])
    raw = torch.minimum(p - low, high - p).amin(-1) * 20
    vertices, faces = density_to_mesh(field_of(raw), threshold=math.log(2))
    torch.testing.assert_close(vertices.amin(0), low, atol=0.01, rtol=0)
    torch.testing.assert_close(vertices.amax(0), high, atol=0.01, rtol=0)
    assert signed_volume(vertices, faces) == pytest.approx(0.7 * 0.5 * 0.3, rel=0.03)


def test_closed_at_the_unit_sphere() -> None:
    vertices, faces = density_to_mesh(field_of(torch.full((40, 40, 40), 5.0)), threshold=10.0)
    mesh = trimesh_of(vertices, faces)
    assert mesh.is_watertight and signed_volume(vertices, faces) == pytest.approx(4 / 3 * math.pi, rel=0.01)
    assert float((vertices.norm(dim=1) - 1).abs().max()) < 0.01


@pytest.mark.parametrize("sharpness", [1.0, 4.0, 40.0])
def test_automatic_threshold_covers_what_pictures_show(sharpness: float) -> None:
    """The mesh of soft and of sharp balls has the radius at which pictures pass one half opaque."""
    field = field_of(sharpness * (0.6 - vertex_positions(48).norm(dim=-1)))
    vertices, _ = density_to_mesh(field)
    camera = orbit(1)
    alpha = render_field(field, camera, 128, 128).alpha
    share = float((alpha > 0.5).float().mean())
    seen = math.sqrt(4 * share / math.pi) * math.tan(float(camera.fov) / 2)  # tangent of the silhouette's half angle
    radius = float(camera.distance) * math.sin(math.atan(seen))
    assert float(vertices.norm(dim=1).mean()) == pytest.approx(radius, rel=0.05)


def test_empty_raises() -> None:
    empty = field_of(torch.full((16, 16, 16), -2.0))
    with pytest.raises(EmptyMeshError, match="opaque"):
        density_to_mesh(empty)
    with pytest.raises(EmptyMeshError, match="nowhere above"):
        density_to_mesh(empty, threshold=1.0)
    with pytest.raises(EmptyMeshError, match="no triangles"):
        keep_largest_components(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int32))


def test_density_in_the_cube_corners_is_not_matter() -> None:
    corners = field_of(10 * (vertex_positions(24).norm(dim=-1) - 1.1))
    with pytest.raises(EmptyMeshError):
        density_to_mesh(corners)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        density_to_mesh(field_of(torch.full((8, 8, 8), float("nan"))))
    with pytest.raises(ValueError, match="threshold"):
        density_to_mesh(ball(), threshold=0.0)


def test_cavities_are_filled_on_request() -> None:
    r = vertex_positions(48).norm(dim=-1)
    shell = field_of(20 * (0.1 - (r - 0.5).abs()))
    outer = 4 / 3 * math.pi * 0.6**3
    filled = density_to_mesh(shell, threshold=math.log(2))
    hollow = density_to_mesh(shell, threshold=math.log(2), fill_cavities=False)
    assert signed_volume(*filled) == pytest.approx(outer, rel=0.02)
    assert signed_volume(*hollow) == pytest.approx(outer - 4 / 3 * math.pi * 0.4**3, rel=0.02)


def test_floaters_are_dropped() -> None:
    big, small = ball(0.4, center=(-0.3, 0, 0)), ball(0.1, center=(0.6, 0.2, 0))
    field = field_of(torch.maximum(big.raw_density, small.raw_density))
    vertices, faces = density_to_mesh(field, threshold=math.log(2))
    kept, kept_faces = keep_largest_components(vertices, faces, 0.2)
    assert float(vertices[:, 0].max()) > 0.65 and float(kept[:, 0].max()) < 0.15
    assert signed_volume(kept, kept_faces) == pytest.approx(4 / 3 * math.pi * 0.4**3, rel=0.02)
    assert len(torch.unique(kept_faces)) == len(kept)
    both, _ = keep_largest_components(vertices, faces, 0.01)
    assert len(both) == len(vertices)


def test_opacity_threshold() -> None:
    assert opacity_threshold(0.5, 0.1) == pytest.approx(math.log(2) / 0.1)


def test_blob_has_a_mesh() -> None:
    field = blob_field(torch.Generator().manual_seed(0), 32)
    assert 0 < automatic_threshold(field) < 10
    assert signed_volume(*density_to_mesh(field)) > 0.1

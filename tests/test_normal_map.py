"""The normal map, decoded as the glTF specification says, against the dense mesh that it was baked from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fast_simplification
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trimesh
from PIL import Image
from torch import Tensor

from app.export.bake import bake
from app.export.glb import TexturedMesh, read_glb, textured, write_glb
from app.export.normals import bake_normals, tangents
from app.export.preview import sample_texture
from app.export.unwrap import make_atlas
from renderers.cameras import orbit
from renderers.mesh import vertex_normals
from renderers.raster import interpolate, make_context, rasterize

SIZE = 256
CTX = make_context("cpu")
Mesh = tuple[Tensor, Tensor]


def bumpy(subdivisions: int, bumps: float) -> Mesh:
    ball = trimesh.creation.icosphere(subdivisions)
    v = torch.from_numpy(np.asarray(ball.vertices, np.float32))
    height = 1 + bumps * (6 * v[:, :1]).sin() * (6 * v[:, 1:2]).sin() * (6 * v[:, 2:]).sin()
    return 0.8 * v * height, torch.from_numpy(np.asarray(ball.faces, np.int32))


def mapped(low: Mesh, dense: Mesh) -> TexturedMesh:
    atlas = make_atlas(*low, SIZE)
    plain = textured(atlas, bake(CTX, lambda p: p * 0 + 0.5, atlas, 64))
    t = tangents(plain.vertices, plain.faces, plain.uv, plain.normals)
    return replace(plain, tangents=t, normal_map=bake_normals(CTX, atlas, plain.normals, t, dense, SIZE))


def shaded(mesh: TexturedMesh, with_map: bool) -> tuple[Tensor, Tensor]:
    """(normals (B, H, W, 3), covered (B, H, W)) of what a viewer shades with."""
    pos = orbit(4, 0.4).clip(mesh.vertices)
    rast, _ = rasterize(CTX, pos, mesh.faces, (96, 96))
    t = torch.zeros(len(mesh.vertices), 4) if mesh.tangents is None else mesh.tangents
    values, _ = interpolate(torch.cat([mesh.normals, t, mesh.uv], 1), rast, mesh.faces)
    n, t, w, uv = values.split([3, 3, 1, 2], -1)
    n = F.normalize(n, dim=-1)
    if with_map:
        assert mesh.normal_map is not None
        x = 2 * sample_texture(mesh.normal_map.permute(2, 0, 1).float() / 255, uv.reshape(-1, 2)) - 1
        x = F.normalize(x, dim=1).reshape(n.shape)
        t = F.normalize(t, dim=-1)
        n = F.normalize(t * x[..., :1] + torch.linalg.cross(n, t) * w.sign() * x[..., 1:2] + n * x[..., 2:], dim=-1)
    return n, rast[..., 3] > 0


@pytest.mark.parametrize(("bumps", "share"), [(0.0, 0.92), (0.08, 0.5)])
def test_a_low_poly_ball_shades_closer_to_the_dense_one(bumps: float, share: float) -> None:
    dense = bumpy(4, bumps)
    v, f = fast_simplification.simplify(dense[0].numpy(), dense[1].numpy(), target_count=60 if bumps == 0 else 300)
    low = torch.from_numpy(v), torch.from_numpy(f.astype(np.int32))
    none = torch.zeros(len(dense[0]), 2), vertex_normals(*dense), torch.zeros(1, 1, 3)
    truth, seen = shaded(TexturedMesh(*dense, *none), False)
    mesh = mapped(low, dense)
    errors = {}
    for with_map in (False, True):
        n, covered = shaded(mesh, with_map)
        both = seen & covered
        lit = [(x[both] @ torch.tensor([0.48, 0.64, 0.6])).clamp(min=0) for x in (n, truth)]
        errors[with_map] = float((lit[0] - lit[1]).square().mean())
    assert errors[True] < share * errors[False], errors


def test_a_flat_map_is_blue_and_the_tangents_are_unit_and_across() -> None:
    low = bumpy(3, 0.0)
    mesh = mapped(low, low)
    assert mesh.tangents is not None and mesh.normal_map is not None
    assert torch.allclose(mesh.tangents[:, :3].norm(dim=1), torch.ones(len(mesh.vertices)), atol=1e-5)
    assert float((mesh.tangents[:, :3] * mesh.normals).sum(1).abs().max()) < 1e-4
    assert set(mesh.tangents[:, 3].unique().tolist()) <= {-1.0, 1.0}
    assert float((mesh.normal_map.float().mean((0, 1)) - torch.tensor([127.5, 127.5, 253])).abs().max()) < 4


def test_the_bitangent_points_to_the_top_of_the_picture() -> None:
    """A quad in the plane z = 0, upright in its texture: T is +x, B is +y, up, where v is less."""
    v = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    uv = torch.tensor([[0.0, 1], [1, 1], [1, 0], [0, 0]])
    t = tangents(v, torch.tensor([[0, 1, 2], [0, 2, 3]]), uv, torch.tensor([[0.0, 0, 1]]).expand(4, 3))
    assert torch.allclose(t, torch.tensor([[1.0, 0, 0, 1]]).expand(4, 4))
    mirrored = tangents(
        v, torch.tensor([[0, 1, 2], [0, 2, 3]]), uv * torch.tensor([-1.0, 1]) + torch.tensor([1.0, 0]),
        torch.tensor([[0.0, 0, 1]]).expand(4, 3),
    )  # fmt: skip
    assert torch.allclose(mirrored, torch.tensor([[-1.0, 0, 0, -1]]).expand(4, 4))


def test_the_glb_holds_it_and_trimesh_reads_it(tmp_path: Path) -> None:
    mesh = mapped(bumpy(2, 0.05), bumpy(4, 0.05))
    write_glb(tmp_path / "a.glb", mesh)
    again = read_glb(tmp_path / "a.glb")
    assert again.normal_map is not None and again.tangents is not None and mesh.normal_map is not None
    assert torch.equal(again.normal_map, mesh.normal_map) and torch.equal(again.tangents, mesh.tangents)
    other = trimesh.load(tmp_path / "a.glb", force="mesh", process=False)
    picture = other.visual.material.normalTexture
    assert isinstance(picture, Image.Image)
    assert np.array_equal(np.asarray(picture.convert("RGB")), mesh.normal_map.numpy())
    write_glb(tmp_path / "b.glb", replace(mesh, normal_map=None, tangents=None))
    assert read_glb(tmp_path / "b.glb").normal_map is None
    with pytest.raises(ValueError, match="tangents"):
        write_glb(tmp_path / "c.glb", replace(mesh, tangents=None))


def test_a_thin_part_takes_its_own_side() -> None:
    """A plate thinner than the distance between samples: each side keeps its own direction."""
    plate = trimesh.creation.box((1.2, 0.01, 1.2)).subdivide().subdivide().subdivide()
    v, f = (
        torch.from_numpy(np.asarray(plate.vertices, np.float32)),
        torch.from_numpy(np.asarray(plate.faces, np.int32)),
    )
    flat = trimesh.creation.box((1.2, 0.01, 1.2))
    flat.unmerge_vertices()
    low = (torch.from_numpy(np.asarray(flat.vertices, np.float32)), torch.from_numpy(np.asarray(flat.faces, np.int32)))
    n, covered = shaded(mapped(low, (v, f)), True)
    assert float(n[..., 1][covered].median()) > 0.9

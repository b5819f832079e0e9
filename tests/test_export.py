"""Unwrap, bake and GLB: every file is read back, by us and by trimesh."""

from __future__ import annotations

import json
import struct
import time
from dataclasses import replace
from pathlib import Path

import fast_simplification
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trimesh
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes
from torch import Tensor

from app.export.bake import bake, texel_points
from app.export.glb import TexturedMesh, read_glb, textured, write_glb
from app.export.preview import sample_texture
from app.export.unwrap import UnwrapError, Unwrapped, box_unwrap, make_atlas, own_atlas, unwrap
from app.export.xatlas_worker import folded
from renderers.raster import make_context

SIZE = 512
BOX = 256
FACES = 5000
CTX = make_context("cpu")


def surface(seed: int, ripple: float, side: int = 40) -> tuple[Tensor, Tensor]:
    """A closed blob by marching cubes, decimated; `ripple` is the strength of the noise that shatters atlases."""
    g = np.linspace(-1, 1, side)
    x, y, z = np.meshgrid(g, g, g, indexing="ij")
    rng = np.random.default_rng(seed)
    inside = 0.6 - np.sqrt((1.1 * x) ** 2 + y**2 + (1.3 * z) ** 2) + ripple * rng.normal(size=x.shape)
    inside += 0.12 * np.sin(5 * x) * np.cos(4 * y)
    vertices, faces, _, _ = marching_cubes(inside, 0.0, gradient_direction="ascent")
    vertices = vertices / (side - 1) * 2 - 1
    vertices, faces = vertices.astype(np.float32), faces.astype(np.int32)
    if len(faces) > FACES:
        vertices, faces = fast_simplification.simplify(vertices, faces, target_count=FACES)
    return torch.from_numpy(vertices.astype(np.float32)), torch.from_numpy(faces.astype(np.int32))


def paint(points: Tensor) -> Tensor:
    """An analytic sRGB colour of position."""
    return 0.5 + 0.45 * torch.sin(points * torch.tensor([5.0, 6.0, 7.0]) + torch.tensor([0.0, 1.0, 2.0]))


@pytest.fixture(scope="module")
def blob() -> tuple[Tensor, Tensor]:
    return surface(0, 0.0)


@pytest.fixture(scope="module")
def atlas(blob: tuple[Tensor, Tensor]) -> Unwrapped:
    return unwrap(*blob, atlas_size=SIZE)


@pytest.fixture(scope="module")
def rippled() -> Unwrapped:
    """A mesh for which xatlas alone gives charts that fold over themselves."""
    return unwrap(*surface(3, 0.03), atlas_size=SIZE)


@pytest.fixture(scope="module")
def asset(atlas: Unwrapped) -> TexturedMesh:
    return textured(atlas, bake(CTX, paint, atlas, SIZE))


def covered(atlas: Unwrapped, size: int) -> tuple[NDArray, NDArray, NDArray]:
    """(N, 3) row, column, face of every texel centre strictly inside a face, and barycentrics (N, 3); brute force."""
    corners = atlas.uv.numpy().astype(np.float64)[atlas.faces.numpy()] * size
    cells, weights = [], []
    for face, t in enumerate(corners):
        low = np.floor(t.min(0) - 0.5).astype(int).clip(0)
        high = np.ceil(t.max(0) + 0.5).astype(int).clip(None, size)
        column, row = np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]))
        p = np.stack([column + 0.5, row + 0.5], -1)
        edges = [np.roll(t, -1 - i, 0)[:2] for i in range(3)]
        b = np.stack([(e[1, 0] - e[0, 0]) * (p[..., 1] - e[0, 1]) - (e[1, 1] - e[0, 1]) * (p[..., 0] - e[0, 0])
                      for e in edges], -1)  # fmt: skip
        area = b.sum(-1)
        inside = (b * np.sign(area)[..., None] > 1e-3).all(-1)
        cells.append(np.stack([row[inside], column[inside], np.full(inside.sum(), face)], 1))
        weights.append(b[inside] / area[inside][:, None])
    return np.concatenate(cells)[:, :2], np.concatenate(cells)[:, 2], np.concatenate(weights)


def charts(atlas: Unwrapped) -> NDArray:
    """(F,) chart of each face: faces that share a split vertex."""
    a, b, c = atlas.faces.numpy().T
    edges = coo_matrix((np.ones(2 * len(a)), (np.r_[a, b], np.r_[b, c])), shape=(len(atlas.uv),) * 2)
    return connected_components(edges)[1][a]


def one_sentence(error: pytest.ExceptionInfo[BaseException]) -> bool:
    text = str(error.value)
    return text.endswith(".") and "\n" not in text and "Traceback" not in text


def test_unwrap_keeps_the_mesh(blob: tuple[Tensor, Tensor], atlas: Unwrapped) -> None:
    vertices, faces = blob
    assert torch.equal(atlas.vmapping[atlas.faces.long()], faces.long())
    assert torch.equal(atlas.vertices, vertices[atlas.vmapping])
    assert 0 <= float(atlas.uv.min()) and float(atlas.uv.max()) <= 1
    assert 0 < atlas.charts < 40
    assert atlas.charts == len(np.unique(charts(atlas)))


@pytest.mark.parametrize("name", ["atlas", "rippled"])
def test_charts_neither_overlap_nor_come_close(name: str, request: pytest.FixtureRequest) -> None:
    unwrapped: Unwrapped = request.getfixturevalue(name)
    cells, _, _ = covered(unwrapped, 2 * SIZE)
    flat = cells[:, 0] * 2 * SIZE + cells[:, 1]
    assert len(np.unique(flat)) == len(flat)
    cells, face, _ = covered(unwrapped, SIZE)
    label = np.full((SIZE + 6, SIZE + 6), -1)
    label[cells[:, 0] + 3, cells[:, 1] + 3] = charts(unwrapped)[face]
    centre = label[3:-3, 3:-3]
    for dy in range(7):
        for dx in range(7):  # closer than the padding of 4
            other = label[dy : dy + SIZE, dx : dx + SIZE]
            assert not ((centre >= 0) & (other >= 0) & (other != centre)).any()


def test_atlas_is_well_used(atlas: Unwrapped) -> None:
    cells, _, _ = covered(atlas, SIZE)
    assert len(cells) > 0.4 * SIZE**2
    assert cells.max() > 0.9 * SIZE


def test_folded_finds_fans_that_wind_twice() -> None:
    turn = np.linspace(0, 3 * np.pi, 7)  # six faces of 90 degrees around one vertex: one and a half turns
    flat = np.concatenate([[[0.0, 0.0]], 10 * np.stack([np.cos(turn), np.sin(turn)], 1)])
    faces = np.stack([np.zeros(6, int), np.arange(1, 7), np.arange(2, 8)], 1)
    assert len(folded(flat, faces)) == 2
    assert len(folded(flat, faces[:4])) == 0


def test_unwrap_is_deterministic(blob: tuple[Tensor, Tensor], atlas: Unwrapped) -> None:
    again = unwrap(*blob, atlas_size=SIZE)
    assert torch.equal(again.uv, atlas.uv) and torch.equal(again.faces, atlas.faces)


def test_a_mesh_without_area_gets_no_atlas_at_all(blob: tuple[Tensor, Tensor]) -> None:
    line = blob[0] * torch.tensor([1.0, 0, 0])
    with pytest.raises(ValueError, match="no area") as error:
        make_atlas(line, blob[1])
    assert one_sentence(error)


def test_unwrap_refuses_in_one_sentence(blob: tuple[Tensor, Tensor]) -> None:
    vertices, faces = blob
    with pytest.raises(UnwrapError, match="simplify") as error:
        unwrap(vertices, faces, face_budget=100)
    assert one_sentence(error)
    with pytest.raises(UnwrapError, match=r"in 0\.01 s") as error:
        unwrap(vertices, faces, time_limit=0.01)
    assert one_sentence(error)
    with pytest.raises(UnwrapError, match="no area") as error:
        unwrap(torch.ones_like(vertices), faces)
    assert one_sentence(error)
    with pytest.raises(UnwrapError, match="do not fit") as error:
        unwrap(vertices, faces, atlas_size=8)
    assert one_sentence(error)


def noise(side: int) -> tuple[Tensor, Tensor]:
    """Marching cubes of white noise: nothing but crumbs and tunnels, on which xatlas takes minutes."""
    values = np.random.default_rng(5).normal(size=(side,) * 3)
    vertices, faces, _, _ = marching_cubes(values, 0.0)
    return torch.from_numpy(vertices.astype(np.float32) / side), torch.from_numpy(faces.astype(np.int32))


@pytest.mark.parametrize("why", ["a really slow mesh", "too many faces", "charts that do not fit", "a crash"])
def test_where_xatlas_fails_box_projection_is_taken_and_says_why(
    why: str, blob: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = time.perf_counter()
    if why == "a really slow mesh":
        mesh = noise(25)
        assert len(mesh[1]) > 30_000
        found, said = make_atlas(*mesh, atlas_size=SIZE, time_limit=2.0), "in 2 s"
        assert time.perf_counter() - start < 60, "the limit holds"
    elif why == "too many faces":
        mesh = blob
        found, said = make_atlas(*mesh, atlas_size=SIZE, face_budget=1000), "up to 1000"
    elif why == "a crash":  # a process that dies as native code does
        monkeypatch.setattr("app.export.unwrap._WORKER", "import os; os.abort()")
        mesh = blob
        found, said = make_atlas(*mesh, atlas_size=SIZE), "it ended with code -6"
        monkeypatch.undo()
    else:
        mesh = noise(10)
        found, said = make_atlas(*mesh, atlas_size=32), "do not fit"
    assert found.how == "box" and said in found.reason and found.reason.endswith(".")
    assert torch.equal(found.vmapping[found.faces.long()], mesh[1].long())
    assert torch.equal(found.vertices, mesh[0][found.vmapping])
    assert 0 <= float(found.uv.min()) and float(found.uv.max()) <= 1
    assert make_atlas(*blob, atlas_size=SIZE).how == "xatlas"


def helix(turns: int = 3, steps: int = 40) -> tuple[Tensor, Tensor]:
    """A spiral ramp: one smooth surface whose projection from above covers itself."""
    angle = np.linspace(0, 2 * np.pi * turns, turns * steps)
    rings = [np.stack([r * np.cos(angle), 0.1 * angle, -r * np.sin(angle)], 1) for r in (0.5, 1.0)]
    vertices, n = np.concatenate(rings).astype(np.float32), len(angle)
    a, b = np.arange(n - 1), np.arange(n, 2 * n - 1)
    faces = np.concatenate([np.stack([a, b, a + 1], 1), np.stack([a + 1, b, b + 1], 1)])
    return torch.from_numpy(vertices), torch.from_numpy(faces.astype(np.int32))


@pytest.mark.parametrize("shape", ["blob", "ripples", "helix", "doubled faces", "degenerate faces"])
def test_box_projection_never_overlaps(shape: str, blob: tuple[Tensor, Tensor]) -> None:
    vertices, faces = helix() if shape == "helix" else surface(3, 0.03) if shape == "ripples" else blob
    if shape == "doubled faces":
        faces = torch.cat([faces, faces[:50]])
    elif shape == "degenerate faces":
        faces = torch.cat([faces, faces[:20, [0, 0, 1]], faces[:20, [2, 2, 2]]])
    found = box_unwrap(vertices, faces, BOX)
    cells, face, _ = covered(found, 2 * BOX)
    flat = cells[:, 0] * 2 * BOX + cells[:, 1]
    assert len(np.unique(flat)) == len(flat) > 0.5 * BOX**2
    cells, face, _ = covered(found, BOX)
    label = np.full((BOX + 6, BOX + 6), -1)
    label[cells[:, 0] + 3, cells[:, 1] + 3] = charts(found)[face]
    centre = label[3:-3, 3:-3]
    for dy, dx in np.ndindex(7, 7):  # closer than the padding of 4
        other = label[dy : dy + BOX, dx : dx + BOX]
        assert not ((centre >= 0) & (other >= 0) & (other != centre)).any()
    if shape == "blob":
        assert found.charts < 40
    # no face is squeezed: along the nearest axis a face keeps at least 0.3 of its area
    p, q = vertices[faces.long()].double(), F.pad(found.uv[found.faces.long()].double(), (0, 1))
    areas = [torch.linalg.cross(x[:, 1] - x[:, 0], x[:, 2] - x[:, 0]).norm(dim=1) for x in (p, q)]
    real = areas[0] > 1e-9
    ratio = areas[1][real] / areas[0][real]
    assert float(ratio.min()) > 0.25 * float(ratio.max())
    assert not bool(bake(CTX, paint, found, 64).eq(0).all())


def test_own_coordinates_are_taken_only_where_they_hold_a_texture(atlas: Unwrapped) -> None:
    mesh = (atlas.vertices, atlas.faces)
    kept = own_atlas(*mesh, atlas.uv, SIZE)
    assert kept is not None and kept.how == "own" and kept.charts == atlas.charts
    assert torch.equal(kept.uv, atlas.uv) and torch.equal(kept.faces, atlas.faces)
    assert own_atlas(*mesh, 2 * atlas.uv, SIZE) is None, "outside the picture"
    assert own_atlas(*mesh, atlas.uv.round(), SIZE) is None, "a palette's points"
    folded_over = (atlas.uv - 0.5).abs()
    assert own_atlas(*mesh, folded_over, SIZE) is None, "overlapping"
    assert own_atlas(*mesh, torch.full_like(atlas.uv, torch.nan), SIZE) is None


def mips(picture: NDArray) -> list[NDArray]:
    """The levels that a viewer makes, by averaging 2 x 2, down to 8 x 8; (S, S, 3) float."""
    levels = [picture.astype(np.float64)]
    while len(levels[-1]) > 8:
        levels.append(levels[-1].reshape(len(levels[-1]) // 2, 2, -1, 2, 3).mean((1, 3)))
    return levels


@pytest.mark.parametrize("how", ["xatlas", "box"])
def test_no_background_bleeds_into_any_mip_level(how: str, blob: tuple[Tensor, Tensor], atlas: Unwrapped) -> None:
    found = atlas if how == "xatlas" else box_unwrap(*blob, SIZE)

    def red(points: Tensor) -> Tensor:
        return torch.tensor([0.8, 0.1, 0.2]).expand(len(points), 3)

    for level in mips(bake(CTX, red, found, SIZE).numpy()):
        assert np.abs(level - np.array([204, 26, 51])).max() < 1, f"background in the level of {len(level)} texels"

    # and neighbours' colours stay away: what a chart's border reads in a level is near its own colour
    picture = bake(CTX, paint, found, SIZE).numpy()
    points = found.vertices[found.faces.long()].mean(1)
    uv, truth = found.uv[found.faces.long()].mean(1), paint(points)
    for level, allowed in zip(mips(picture)[:4], (0.02, 0.03, 0.05, 0.09), strict=False):
        read = sample_texture(torch.from_numpy(level).float().permute(2, 0, 1) / 255, uv)
        assert float((read - truth).abs().mean()) < allowed


@pytest.mark.parametrize("how", ["xatlas", "box"])
def test_both_sides_of_a_seam_read_the_same_colour(how: str, blob: tuple[Tensor, Tensor], atlas: Unwrapped) -> None:
    """Along every edge that two charts share: what bilinear filtering reads on one side against the other."""
    found = atlas if how == "xatlas" else box_unwrap(*blob, SIZE)
    picture = bake(CTX, paint, found, SIZE).permute(2, 0, 1).float() / 255
    split = found.faces.long()
    ends = torch.stack([split, split.roll(-1, 1)], 2).reshape(-1, 2)
    whole = found.vmapping[ends]
    order = whole[:, 0] > whole[:, 1]  # both sides of an edge in the same direction
    ends[order] = ends[order].flip(1)
    key = whole.amin(1) * len(blob[0]) + whole.amax(1)
    by = key.argsort()
    one, other = ends[by][:-1], ends[by][1:]
    seam = (key[by][1:] == key[by][:-1]) & (one != other).any(1)
    assert int(seam.sum()) > 100
    for along in (0.25, 0.5, 0.75):
        uv = [(1 - along) * found.uv[e[seam, 0]] + along * found.uv[e[seam, 1]] for e in (one, other)]
        difference = (sample_texture(picture, uv[0]) - sample_texture(picture, uv[1])).abs()
        assert float(difference.mean()) < 0.008 and float(difference.quantile(0.99)) < 0.04, difference.quantile(0.99)


@pytest.mark.parametrize("what", ["empty", "nan", "index", "shape"])
def test_bad_meshes_are_refused(what: str, blob: tuple[Tensor, Tensor], asset: TexturedMesh, tmp_path: Path) -> None:
    vertices, faces = blob[0].clone(), blob[1].clone()
    if what == "empty":
        vertices, faces = vertices[:0], faces[:0]
    elif what == "nan":
        vertices[3, 1] = torch.nan
    elif what == "index":
        faces[0, 0] = len(vertices)
    else:
        faces = faces[:, :2]
    with pytest.raises(ValueError) as error:
        unwrap(vertices, faces)
    assert one_sentence(error)
    with pytest.raises(ValueError) as error:
        write_glb(tmp_path / "mesh.glb", replace(asset, vertices=vertices, faces=faces))
    assert one_sentence(error)
    assert list(tmp_path.iterdir()) == []


def test_texels_have_the_colour_of_their_surface_point(atlas: Unwrapped, asset: TexturedMesh) -> None:
    cells, face, weights = covered(atlas, SIZE)
    corners = atlas.vertices.numpy()[atlas.faces.numpy()[face]].astype(np.float64)
    points = (corners * weights[..., None]).sum(1)
    expected = paint(torch.from_numpy(points)).numpy() * 255
    baked = asset.texture.numpy()[cells[:, 0], cells[:, 1]]
    assert np.abs(baked - expected).max() < 0.51


def test_empty_texels_take_the_nearest_colour(atlas: Unwrapped, asset: TexturedMesh) -> None:
    texture = asset.texture.numpy().reshape(-1, 3).astype(int)
    texels, _ = texel_points(CTX, atlas, SIZE)
    filled = np.zeros(SIZE * SIZE, bool)
    filled[texels.numpy()] = True
    full, empty = np.flatnonzero(filled), np.flatnonzero(~filled)
    assert len(empty) > 1000
    tree = cKDTree(np.stack(np.divmod(full, SIZE), 1))
    distance, nearest = tree.query(np.stack(np.divmod(empty, SIZE), 1), k=12)
    same = (texture[full[nearest]] == texture[empty][:, None]).all(2)
    assert (same & (distance < distance[:, :1] + 1e-9)).any(1).all()  # among those equally near


def test_small_faces_claim_the_texel_under_their_middle(atlas: Unwrapped) -> None:
    size = 48
    texels, points = texel_points(CTX, atlas, size)
    assert len(torch.unique(texels)) == len(texels)
    assert bool(torch.isfinite(points).all())
    column, row = (atlas.uv[atlas.faces.long()].mean(1) * size).long().unbind(1)
    filled = torch.zeros(size * size, dtype=torch.bool)
    filled[texels] = True
    _, owner, _ = covered(atlas, size)
    missed = torch.ones(len(atlas.faces), dtype=torch.bool)
    missed[torch.from_numpy(owner)] = False
    assert int(missed.sum()) > 10
    assert bool(filled[(row * size + column)[missed]].all())


def test_bake_refuses_colours_that_are_not_numbers(atlas: Unwrapped) -> None:
    with pytest.raises(ValueError) as error:
        bake(CTX, lambda p: torch.full_like(p, torch.nan), atlas, 64)
    assert one_sentence(error)


def test_glb_reads_back_equal(asset: TexturedMesh, tmp_path: Path) -> None:
    write_glb(tmp_path / "mesh.glb", asset)
    back = read_glb(tmp_path / "mesh.glb")
    for name in ("vertices", "faces", "uv", "normals", "texture"):
        assert torch.equal(getattr(back, name), getattr(asset, name)), name


def test_trimesh_reads_the_same(asset: TexturedMesh, tmp_path: Path) -> None:
    write_glb(tmp_path / "mesh.glb", asset)
    scene = trimesh.load_scene(tmp_path / "mesh.glb", process=False)
    (mesh,) = scene.geometry.values()
    assert all(np.array_equal(scene.graph.get(node)[0], np.eye(4)) for node in scene.graph.nodes_geometry)
    assert isinstance(mesh, trimesh.Trimesh)
    np.testing.assert_array_equal(mesh.vertices, asset.vertices.numpy())
    np.testing.assert_array_equal(mesh.faces, asset.faces.numpy())
    np.testing.assert_allclose(mesh.vertex_normals, asset.normals.numpy(), atol=1e-6)
    visual = mesh.visual
    assert isinstance(visual, trimesh.visual.TextureVisuals) and visual.uv is not None
    np.testing.assert_allclose(visual.uv[:, 1], 1 - asset.uv[:, 1].numpy(), atol=1e-6)  # trimesh counts from below
    material = visual.material
    assert isinstance(material, trimesh.visual.material.PBRMaterial)
    np.testing.assert_array_equal(np.asarray(material.baseColorTexture), asset.texture.numpy())
    assert (material.metallicFactor, material.roughnessFactor, material.doubleSided) == (0, 0.9, False)


def test_normals_point_outwards(blob: tuple[Tensor, Tensor], asset: TexturedMesh, tmp_path: Path) -> None:
    write_glb(tmp_path / "mesh.glb", asset)
    back = read_glb(tmp_path / "mesh.glb")
    a, b, c = back.vertices[back.faces.long()].unbind(1)
    assert float((a * torch.linalg.cross(b, c)).sum()) / 6 > 0.1
    flat = torch.linalg.cross(b - a, c - a)
    solid = flat.norm(dim=1) > 1e-7
    assert bool(((back.normals[back.faces.long()] * flat[:, None]).sum(-1)[solid] > 0).all())
    torch.testing.assert_close(back.normals.norm(dim=1), torch.ones(len(back.normals)))


def test_normals_are_smooth_across_seams(atlas: Unwrapped, asset: TexturedMesh) -> None:
    order = torch.argsort(atlas.vmapping, stable=True)
    same = atlas.vmapping[order][1:] == atlas.vmapping[order][:-1]
    assert int(same.sum()) > 20
    assert torch.equal(asset.normals[order][1:][same], asset.normals[order][:-1][same])


def document(path: Path) -> dict:
    data = path.read_bytes()
    magic, two, total, length, kind = struct.unpack_from("<IIIII", data)
    assert (magic, two, total, kind) == (0x46546C67, 2, len(data), 0x4E4F534A)
    assert length % 4 == 0
    size, kind = struct.unpack_from("<II", data, 20 + length)
    assert kind == 0x004E4942 and 28 + length + size == total
    return json.loads(data[20 : 20 + length])


def test_glb_document(asset: TexturedMesh, tmp_path: Path) -> None:
    write_glb(tmp_path / "mesh.glb", asset, name="ein Pilz", extras={"prompt": "ein roter Pilz ✓", "seed": 3})
    d = document(tmp_path / "mesh.glb")
    assert d["asset"]["generator"].startswith("polymode ")
    assert d["asset"]["extras"] == {"prompt": "ein roter Pilz ✓", "seed": 3}
    assert d["nodes"] == [{"mesh": 0, "name": "ein Pilz"}]  # no rotation
    (primitive,) = d["meshes"][0]["primitives"]
    assert set(primitive["attributes"]) == {"POSITION", "NORMAL", "TEXCOORD_0"}
    position = d["accessors"][primitive["attributes"]["POSITION"]]
    np.testing.assert_array_equal(np.float32(position["min"]), asset.vertices.numpy().min(0))
    np.testing.assert_array_equal(np.float32(position["max"]), asset.vertices.numpy().max(0))
    assert all(view["byteOffset"] % 4 == 0 for view in d["bufferViews"])
    assert len(d["images"]) == 1 and d["images"][0]["mimeType"] == "image/png"


def test_same_input_same_bytes(blob: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    for name in ("one.glb", "two.glb"):
        unwrapped = unwrap(*blob, atlas_size=256)
        write_glb(tmp_path / name, textured(unwrapped, bake(CTX, paint, unwrapped, 256)), extras={"seed": 0})
    assert (tmp_path / "one.glb").read_bytes() == (tmp_path / "two.glb").read_bytes()


def test_a_failed_write_leaves_what_was_there(asset: TexturedMesh, tmp_path: Path) -> None:
    path = tmp_path / "mesh.glb"
    write_glb(path, asset)
    before = path.read_bytes()
    broken = asset.normals.clone()
    broken[0] = torch.inf
    with pytest.raises(ValueError) as error:
        write_glb(path, replace(asset, normals=broken))
    assert one_sentence(error)
    with pytest.raises(ValueError) as error:
        write_glb(path, replace(asset, texture=asset.texture.float()))
    assert one_sentence(error)
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        write_glb(tmp_path / "taken", asset)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mesh.glb", "taken"]


@pytest.mark.parametrize("damage", ["short", "text", "no material", "json", "picture"])
def test_damaged_files_are_refused(damage: str, asset: TexturedMesh, tmp_path: Path) -> None:
    path = tmp_path / "mesh.glb"
    write_glb(path, asset)
    data = path.read_bytes()
    if damage == "short":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "text":
        path.write_text("a red mushroom, but not a GLB")
    elif damage == "no material":
        path.write_bytes(data.replace(b'"materials"', b'"mysteries"'))
    elif damage == "json":
        path.write_bytes(data.replace(b'{"asset"', b'["asset"'))
    else:
        path.write_bytes(data.replace(b"IHDR", b"IHXX"))
    with pytest.raises(ValueError) as error:
        read_glb(path)
    assert one_sentence(error)

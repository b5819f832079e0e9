"""The report of a mesh against meshes whose faults are known, and what broken files get: a sentence and a code."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from app.errors import UsageError
from app.export.crossing import grid, thin_share
from app.export.formats import write
from app.export.glb import TexturedMesh, write_glb
from app.export.mesh_files import ANY
from app.export.mesh_read import read_here
from app.export.read import read_textured, textured
from app.export.report import Report, as_json, from_json, report, rows
from renderers.mesh import vertex_normals
from tests.test_formats import wedge


def plain(*parts: trimesh.Trimesh) -> TexturedMesh:
    """Grey, one point of a palette."""
    mesh = trimesh.util.concatenate(list(parts))
    v, f = torch.tensor(np.array(mesh.vertices)).float(), torch.tensor(np.array(mesh.faces)).int()
    grey = torch.full((4, 4, 3), 128, dtype=torch.uint8)
    return TexturedMesh(v, f, torch.full((len(v), 2), 0.5), vertex_normals(v, f), grey)


def moved(mesh: trimesh.Trimesh, *by: float) -> trimesh.Trimesh:
    out = mesh.copy()
    out.apply_translation(by)
    return out


def clean(r: Report) -> bool:
    return r.watertight and not (r.nonmanifold_edges or r.doubled_faces or r.degenerate_faces or r.crossings)


def test_a_sound_mesh_is_found_sound() -> None:
    r = report(wedge(), 100)
    assert clean(r) and r.genus == 0 and not r.flipped and r.components == 1
    assert (r.faces, r.vertices, r.size, r.axes) == (12, 24, (2, 3, 4), "Y up, front +Z")
    assert (r.texture, r.charts, r.palette, r.overlap, r.outside) == ((48, 32), 6, None, 0, 0)
    assert r.texels_used == pytest.approx(6 * 64 / (48 * 32), abs=0.04)  # texels on a diagonal count for none
    assert r.thin_walls == 0 and r.warnings == ()
    assert 200 < max(r.brightest) and min(r.darkest) < 50


@pytest.mark.parametrize(("rings", "genus"), [(1, 1), (2, 2)])
def test_genus_counts_handles(rings: int, genus: int) -> None:
    parts = [moved(trimesh.creation.torus(1, 0.3, 24, 12), 4.0 * k, 0, 0) for k in range(rings)]
    r = report(plain(*parts))
    assert r.genus == genus and r.components == rings and clean(r)


def test_faults_are_counted_and_said() -> None:
    box = trimesh.creation.box([1, 1, 1])
    fin = trimesh.Trimesh([[-0.5, -0.5, -0.5], [0.5, -0.5, -0.5], [0, -2, -2]], [[0, 1, 2]], process=False)
    r = report(plain(trimesh.Trimesh(box.vertices, box.faces[:-1], process=False)))
    assert not r.watertight and r.open_edges == 3 and r.genus is None and "open at 3 edges" in r.warnings[0]
    r = report(plain(box, fin))
    assert r.nonmanifold_edges == 1 and any("non-manifold" in w for w in r.warnings)
    r = report(plain(box, trimesh.Trimesh(box.vertices, box.faces[:1], process=False)))
    assert r.doubled_faces == 1 and any("twice" in w for w in r.warnings)
    r = report(plain(trimesh.Trimesh(box.vertices, box.faces[:, ::-1], process=False)))
    assert r.flipped and any("inside out" in w for w in r.warnings)
    r = report(plain(box, trimesh.Trimesh([[0, 0, 0], [0.1, 0, 0], [0.2, 0, 0]], [[0, 1, 2]], process=False)))
    assert r.degenerate_faces == 1 and r.components == 2


def brute(mesh: trimesh.Trimesh) -> int:
    """Pairs of faces without a common corner of which an edge of one passes through the other, without a grid."""
    from app.export.crossing import _pierces

    p = np.asarray(mesh.vertices)[mesh.faces].astype(float)
    found = 0
    for a in range(len(p)):
        for b in range(a + 1, len(p)):
            if len(set(mesh.faces[a]) & set(mesh.faces[b])) < 2:
                edges = [(p[a], p[b]), (p[b], p[a])]
                found += any(_pierces(x[m], x[(m + 1) % 3], y) > 0 for x, y in edges for m in range(3))
    return found


def test_crossing_faces_are_those_that_brute_force_finds() -> None:
    ball = trimesh.creation.icosphere(subdivisions=1)
    other = moved(ball, 0.61, 0.27, 0.13)
    far = moved(ball, 5, 0, 0)
    r = report(plain(ball, other, far))
    assert r.crossings == brute(trimesh.util.concatenate([ball, other])) > 20
    assert not r.crossings_capped and any("pass through" in w for w in r.warnings)
    assert report(plain(ball, far)).crossings == 0


def test_a_cut_off_count_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.export.crossing.MOST_TESTS", 10)
    ball = trimesh.creation.icosphere(subdivisions=2)
    r = report(plain(ball, moved(ball, 0.6, 0.2, 0.1)))
    assert r.crossings_capped and dict(rows(r))["Crossing faces"].startswith("at least ")


def test_thin_walls_depend_on_the_printed_size() -> None:
    plate = plain(trimesh.creation.box([1, 1, 0.02]).subdivide().subdivide())
    assert report(plate, 40).thin_walls > 0.9 and "1 mm when it is printed 40 mm" in " ".join(
        report(plate, 40).warnings
    )
    assert report(plate, 100).thin_walls < 0.05
    p = plate.vertices.double().numpy()[plate.faces.numpy()]
    assert thin_share(p, 0.019, grid(p)) < 0.05 < 0.9 < thin_share(p, 0.021, grid(p))


def test_overlap_and_coordinates_outside_are_found() -> None:
    mesh = wedge()
    twice = mesh.uv.clone()
    twice[4:8] = twice[0:4]
    r = report(dataclasses.replace(mesh, uv=twice))
    assert r.overlap == pytest.approx(0.2, abs=0.02) and any("several faces" in w for w in r.warnings)
    r = report(dataclasses.replace(mesh, uv=mesh.uv + torch.tensor([0.5, 0])))
    assert r.outside > 0.3 and any("outside the picture" in w for w in r.warnings)


def test_degenerate_uv_is_a_palette_and_nothing_divides_by_zero() -> None:
    r = report(plain(trimesh.creation.icosphere(subdivisions=1)))
    assert (r.palette, r.charts, r.texels_used, r.overlap) == (1, None, None, None) and clean(r)
    flat = plain(trimesh.Trimesh([[0, 0, 0]] * 3, [[0, 1, 2]], process=False))
    assert report(flat).degenerate_faces == 1
    assert report(wedge(colors=True)).texture is None


def test_a_report_survives_json() -> None:
    r = report(wedge())
    assert from_json(json.loads(json.dumps(as_json(r)))) == r
    assert from_json({}) is None and from_json(None) is None


# files that are broken


def glb_with(document: dict[str, Any], binary: bytes = b"") -> bytes:
    text = json.dumps({"asset": {"version": "2.0"}} | document).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(binary), 0x004E4942) + binary
    return struct.pack("<III", 0x46546C67, 2, 12 + len(body)) + body


def whole(folder: Path) -> bytes:
    trimesh.creation.icosphere(subdivisions=1).export(folder / "whole.glb")
    return (folder / "whole.glb").read_bytes()


def nan_ply(folder: Path) -> bytes:
    head = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
    head += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    return (head + "0 0 0\nnan 0 1\n0 1 0\n3 0 1 2\n").encode()


def many_faces(folder: Path) -> bytes:
    return bytes(80) + struct.pack("<I", 2_000_000) + bytes(100_000_000)


BROKEN: dict[str, tuple[str, Callable[[Path], bytes], str]] = {
    "nothing in it": ("a.glb", lambda d: b"", "empty"),
    "text": ("a.glb", lambda d: b"a red mushroom, but not a GLB", "not a binary glTF"),
    "cut short": ("a.glb", lambda d: whole(d)[:900], "cut short"),
    "no triangles": ("a.glb", lambda d: glb_with({"scenes": [{"nodes": []}]}), "empty|damaged"),
    "bad JSON": ("a.glb", lambda d: glb_with({}).replace(b"{", b"["), "damaged"),
    "Draco": (
        "a.glb",
        lambda d: glb_with({"extensionsRequired": ["KHR_draco_mesh_compression"]}),
        "compressed with Draco",
    ),
    "a buffer that is elsewhere": ("a.glb", lambda d: glb_with({"buffers": [{"uri": "x.bin"}]}), "'x.bin' beside it"),
    "a buffer out of the folder": ("a.gltf", lambda d: b'{"buffers": [{"uri": "../x.bin"}]}', "not in its folder"),
    "NaN": ("a.ply", nan_ply, "1 vertices that are not finite"),
    "an STL cut short": ("a.stl", lambda d: many_faces(d)[:200], "damaged|empty"),
    "a picture": ("a.png", lambda d: b"\x89PNG", "no kind of mesh"),
    "no zip": ("a.3mf", lambda d: b"PK\x03\x04 no", "not a 3MF"),
    "two million faces": ("a.stl", many_faces, "2,000,000 faces and the limit is 1,000,000"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_sentence(name: str, tmp_path: Path) -> None:
    file, make, words = BROKEN[name]
    path = tmp_path / file
    path.write_bytes(make(tmp_path))
    with pytest.raises(UsageError, match=words) as e:
        read_here(path, ANY)
    assert str(e.value).endswith(".") and "\n" not in str(e.value)


def test_the_reader_is_a_process_with_a_time_limit(tmp_path: Path) -> None:
    (tmp_path / "a.glb").write_text("a red mushroom, but not a GLB")
    with pytest.raises(UsageError, match="not a binary glTF") as e:
        read_textured(tmp_path / "a.glb")
    assert str(e.value).startswith(str(tmp_path / "a.glb"))
    (tmp_path / "slow.obj").write_text("v 0 0 0\n")
    with pytest.raises(UsageError, match=r"slow\.obj was not read within 0\.01 s"):
        read_textured(tmp_path / "slow.obj", time_limit=0.01)
    with pytest.raises(UsageError, match="does not exist"):
        read_textured(tmp_path / "none.obj")
    assert ANY.faces == 1_000_000


def same(a: TexturedMesh, b: TexturedMesh) -> bool:
    """Places and size."""
    one, two = a.vertices.unique(dim=0), b.vertices.unique(dim=0)
    return one.shape == two.shape and float((one - two).abs().max()) < 1e-4


@pytest.mark.parametrize("kind", ["obj", "ply", "stl", "3mf", "off"])
def test_what_we_write_is_read_back_where_and_as_large_as_it_was(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"m.{kind}"
    if kind == "off":
        trimesh.Trimesh(wedge().vertices.numpy()[:, [0, 2, 1]] * [1, -1, 1], wedge().faces.numpy()).export(path)
    else:
        write(path, wedge(), None)
    back = textured(read_here(path, ANY))
    centred = [dataclasses.replace(m, vertices=m.vertices - m.vertices.amin(0)) for m in (back, wedge())]
    assert same(*centred)
    r, original = report(back), report(wedge())
    assert (r.faces, r.watertight, r.flipped, r.size) == (12, True, False, original.size)
    if kind == "obj":
        assert torch.equal(back.texture, wedge().texture) and r.charts == 6
    if kind == "ply":
        assert back.colors is not None and len(back.colors.unique(dim=0)) == 6


def test_parts_with_pictures_of_their_own_share_one(tmp_path: Path) -> None:
    write_glb(tmp_path / "one.glb", wedge())
    one = trimesh.load_scene(tmp_path / "one.glb", process=False).to_mesh()
    red = dataclasses.replace(wedge(), texture=torch.tensor([[[200, 0, 0]]], dtype=torch.uint8).repeat(16, 16, 1))
    write_glb(tmp_path / "two.glb", red)
    two = trimesh.load_scene(tmp_path / "two.glb", process=False).to_mesh()
    two.apply_translation([10, 0, 0])
    trimesh.Scene([one, two]).export(tmp_path / "both.glb")
    path = tmp_path / "both.glb"
    back = textured(read_here(path, ANY))
    assert len(back.faces) == 24 and back.colors is None
    high, wide = back.texture.shape[:2]
    column, row = (back.uv * torch.tensor([wide, high])).long().unbind(1)
    seen = back.texture[row, column]
    assert seen[back.vertices[:, 0] > 5].unique(dim=0).tolist() == [[200, 0, 0]]
    assert len(seen[back.vertices[:, 0] < 5].unique(dim=0)) == 6


def test_materials_dye_their_pictures_and_plain_ones_are_fields(tmp_path: Path) -> None:
    """A white picture under a factor of half the light, and two plain boxes, red and green (linear in glTF)."""
    material = trimesh.visual.material.PBRMaterial
    quad = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    white = Image.fromarray(np.full((8, 8, 3), 255, np.uint8))
    dye = material(baseColorTexture=white, baseColorFactor=[0.5, 1.0, 1.0, 1.0])
    quad.visual = trimesh.visual.TextureVisuals(uv=np.array([[0, 0], [1, 0], [1, 1], [0, 1]]), material=dye)
    boxes = []
    for k, factor in enumerate(([1.0, 0, 0, 1], [0, 1.0, 0, 1])):
        boxes.append(moved(trimesh.creation.box([1, 1, 1]), 5.0 * (k + 1), 0, 0))
        boxes[-1].visual = trimesh.visual.TextureVisuals(material=material(baseColorFactor=factor))
    trimesh.Scene([quad, *boxes]).export(tmp_path / "all.glb")
    mesh = read_textured(tmp_path / "all.glb")
    high, wide = mesh.texture.shape[:2]
    column, row = (mesh.uv * torch.tensor([wide, high])).long().unbind(1)
    seen, x = mesh.texture[row, column], mesh.vertices[:, 0]
    assert seen[x < 2].unique(dim=0).tolist() == [[188, 255, 255]]
    assert seen[(x > 3) & (x < 7)].unique(dim=0).tolist() == [[255, 0, 0]]
    assert seen[x > 8].unique(dim=0).tolist() == [[0, 255, 0]]

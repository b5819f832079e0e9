"""Every format is written, and read back by other programs' readers: trimesh, usd-core and, where it is installed,
assimp. Positions, faces, colours, scale and orientation."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from numpy.typing import NDArray
from PIL import Image

from app.errors import MissingError, UsageError
from app.export import size as sizes
from app.export.formats import files_of, write
from app.export.glb import TexturedMesh, read_glb
from app.export.size import FORMATS, parse_formats, parse_size, require_formats
from app.export.solid import welded
from renderers.topology import faults

# a wedge that no turn or mirror maps to itself: 2 wide (x), 3 high (y), 4 deep (z); its low end is the front (+Z)
CORNERS = np.float32([[-1, 0, 2], [1, 0, 2], [-1, 0, -2], [1, 0, -2], [-1, 3, -2], [1, 3, -2], [-1, 1, 2], [1, 1, 2]])
SIDES = {  # the corners of each, counter-clockwise from outside, and its colour
    "front": ([0, 1, 7, 6], (230, 30, 30)),
    "back": ([3, 2, 4, 5], (30, 200, 40)),
    "left": ([2, 0, 6, 4], (40, 60, 220)),
    "right": ([1, 3, 5, 7], (240, 220, 20)),
    "top": ([6, 7, 5, 4], (20, 220, 230)),
    "bottom": ([2, 3, 1, 0], (220, 40, 220)),
}
VOLUME = 2 * 4 * 2.0


def wedge(colors: bool = False) -> TexturedMesh:
    """Each side has a chart of its own, of one colour: a texture of 3 by 2 fields of 16 texels."""
    points, uv, normals, faces, tints = [], [], [], [], []
    texture = np.zeros((32, 48, 3), np.uint8)
    for k, (corners, color) in enumerate(SIDES.values()):
        x, y = k % 3, k // 3
        texture[16 * y : 16 * y + 16, 16 * x : 16 * x + 16] = color
        p = CORNERS[corners]
        n = np.cross(p[1] - p[0], p[2] - p[0])
        points += list(p)
        normals += [n / np.linalg.norm(n)] * 4
        field = np.float32([[4, 12], [12, 12], [12, 4], [4, 4]]) + [16 * x, 16 * y]
        uv += list(field / [48, 32])
        faces += [[4 * k, 4 * k + 1, 4 * k + 2], [4 * k, 4 * k + 2, 4 * k + 3]]
        tints += [color] * 4
    white = np.full((1, 1, 3), 255, np.uint8)
    return TexturedMesh(
        torch.from_numpy(np.float32(points)),
        torch.from_numpy(np.int32(faces)),
        torch.from_numpy(np.float32(uv)),
        torch.from_numpy(np.float32(normals)),
        torch.from_numpy(white if colors else texture),
        colors=torch.from_numpy(np.uint8(tints)) if colors else None,
    )


def z_up(points: NDArray) -> NDArray:
    return points[:, [0, 2, 1]] * [1, -1, 1]


def same_points(a: NDArray, b: NDArray, within: float = 1e-5) -> bool:
    """As sets."""
    distance = np.linalg.norm(np.asarray(a)[:, None] - np.asarray(b)[None], axis=2)
    return bool((distance.min(0) < within).all() and (distance.min(1) < within).all())


def read(path: Path) -> trimesh.Trimesh:
    mesh = trimesh.load_scene(path, process=False).to_mesh()
    assert isinstance(mesh, trimesh.Trimesh)
    return mesh


def outward(mesh: trimesh.Trimesh) -> float:
    """The signed volume."""
    a, b, c = np.moveaxis(np.asarray(mesh.vertices)[mesh.faces], 1, 0)
    return float((a * np.cross(b, c)).sum()) / 6


def side_colors(mesh: trimesh.Trimesh, colors: NDArray, up: str) -> dict[str, NDArray]:
    """The colour in the middle of each side, by the direction that its faces look in."""
    looks = {"front": (0, 0, 1), "back": (0, 0, -1), "left": (-1, 0, 0), "right": (1, 0, 0), "bottom": (0, -1, 0)}
    found = {}
    for name, direction in looks.items():
        d = np.array(direction, float)
        d = z_up(d[None])[0] if up == "z" else d
        mine = np.asarray(mesh.face_normals) @ d > 0.99
        assert mine.any(), name
        found[name] = colors[np.asarray(mesh.faces)[mine]].reshape(-1, 3).astype(float).mean(0)
    return found


def right_colors(found: dict[str, NDArray], within: float = 3) -> bool:
    return all(np.abs(c - SIDES[name][1]).max() <= within for name, c in found.items())


def texture_at(mesh: trimesh.Trimesh) -> NDArray:
    """(V, 3): the material's picture at each vertex; trimesh counts v from below."""
    visual: Any = mesh.visual
    material = visual.material
    image = getattr(material, "baseColorTexture", None) or material.image
    picture = np.asarray(image.convert("RGB"))
    column, row = (visual.uv * [picture.shape[1], -picture.shape[0]] + [0, picture.shape[0]]).astype(int).T
    return picture[row, column]


@pytest.mark.parametrize("kind", ["glb", "obj"])
@pytest.mark.parametrize("painted", [False, True])
def test_formats_with_a_texture_keep_the_mesh_as_it_is(kind: str, painted: bool, tmp_path: Path) -> None:
    mesh = wedge(painted)
    write(tmp_path / f"m.{kind}", mesh, None)
    back = read(tmp_path / f"m.{kind}")
    assert same_points(back.vertices, CORNERS) and len(back.faces) == 12
    assert outward(back) == pytest.approx(VOLUME)
    if painted and kind == "glb":
        again = read_glb(tmp_path / "m.glb").colors
        assert again is not None and mesh.colors is not None and torch.equal(again, mesh.colors)
    elif painted:
        lines = [line.split() for line in (tmp_path / "m.obj").read_text().splitlines() if line[:2] == "v "]
        assert {tuple(map(float, x[4:])) for x in lines} == {
            tuple(float(f"{np.float32(c) / np.float32(255):.9g}") for c in color) for _, color in SIDES.values()
        }
    else:
        assert right_colors(side_colors(back, texture_at(back), "y"))


def test_an_obj_is_closed_however_many_charts_it_has(tmp_path: Path) -> None:
    write(tmp_path / "a b.obj", wedge(), None)
    text = (tmp_path / "a b.obj").read_text()
    assert len(re.findall("^v ", text, re.M)) == 8 and len(re.findall("^vt ", text, re.M)) == 24
    corners = np.array(
        [[int(w.split("/")[0]) - 1 for w in line.split()[1:]] for line in text.splitlines() if line[0] == "f"]
    )
    assert faults(corners).manifold
    assert "mtllib a_b.mtl" in text and {p.name for p in files_of(tmp_path / "a b.obj")} == {
        "a_b-normals.png",
        *(p.name for p in tmp_path.iterdir()),
    }
    material = (tmp_path / "a_b.mtl").read_text()
    assert "newmtl base_colour\n" in material and "map_Kd a_b.png" in material and "Pr 0.9" in material
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a_b.png")), wedge().texture.numpy())


@pytest.mark.parametrize("painted", [False, True])
def test_a_ply_is_z_up_and_painted_by_vertex(painted: bool, tmp_path: Path) -> None:
    write(tmp_path / "m.ply", wedge(painted), None)
    back = read(tmp_path / "m.ply")
    assert same_points(back.vertices, z_up(CORNERS)) and outward(back) == pytest.approx(VOLUME)
    assert right_colors(side_colors(back, np.asarray(back.visual.vertex_colors)[:, :3], "z"), 6)  # pyright: ignore[reportAttributeAccessIssue]


def test_a_ply_joins_seams_and_keeps_borders(tmp_path: Path) -> None:
    mesh = wedge()
    smooth = torch.nn.functional.normalize(mesh.vertices - mesh.vertices.mean(0))
    grey = dataclasses.replace(mesh, normals=smooth, texture=torch.full((8, 8, 3), 99, dtype=torch.uint8))
    write(tmp_path / "grey.ply", grey, None)
    assert len(read(tmp_path / "grey.ply").vertices) == 8
    write(tmp_path / "m.ply", dataclasses.replace(mesh, normals=smooth), None)
    assert len(read(tmp_path / "m.ply").vertices) == 24


@pytest.mark.parametrize("kind", ["stl", "3mf"])
@pytest.mark.parametrize(("size", "longest"), [(80.0, 80.0), (None, 4000.0), (25.4, 25.4)])
def test_prints_are_closed_in_millimetres_and_z_up(
    kind: str, size: float | None, longest: float, tmp_path: Path
) -> None:
    write(tmp_path / f"m.{kind}", wedge(), size)
    back = trimesh.load_scene(tmp_path / f"m.{kind}").to_mesh()
    assert back.is_watertight and back.is_winding_consistent
    scale = longest / 4
    expected = z_up(CORNERS) * scale
    assert same_points(back.vertices, expected - expected.min(0), 1e-3)
    assert back.volume == pytest.approx(VOLUME * scale**3, rel=1e-5)
    assert float(back.extents.max()) == pytest.approx(longest, rel=1e-6)


def test_a_3mf_says_millimetre_and_has_colours(tmp_path: Path) -> None:
    write(tmp_path / "m.3mf", wedge(), 80.0)
    with zipfile.ZipFile(tmp_path / "m.3mf") as z:
        assert z.testzip() is None
        model = z.read("3D/3dmodel.model").decode()
    from lxml import etree

    root = etree.fromstring(model.encode())
    assert root.get("unit") == "millimeter"
    colors = re.findall('<m:color color="#(......)"/>', model)
    assert colors and len(re.findall("<triangle ", model)) == 12
    assert all(int(p) < len(colors) for p in re.findall(r'p[123]="(\d+)"', model))
    near = [
        np.abs(np.array(list(bytes.fromhex(c)), float) - [s[1] for s in SIDES.values()]).max(1).min() for c in colors
    ]
    assert max(near) <= 9


def test_a_usdz_is_in_metres_and_has_its_picture(tmp_path: Path) -> None:
    pytest.importorskip("pxr")
    from pxr import Usd, UsdGeom, UsdShade  # pyright: ignore[reportAttributeAccessIssue]

    write(tmp_path / "m.usdz", wedge(), 80.0)
    stage: Any = Usd.Stage.Open(str(tmp_path / "m.usdz"))  # pyright: ignore[reportAttributeAccessIssue]
    assert UsdGeom.GetStageUpAxis(stage) == "Y" and UsdGeom.GetStageMetersPerUnit(stage) == 1  # pyright: ignore[reportAttributeAccessIssue]
    mesh = UsdGeom.Mesh(stage.GetPrimAtPath("/Root/Mesh"))  # pyright: ignore[reportAttributeAccessIssue]
    points = np.array(mesh.GetPointsAttr().Get())
    assert same_points(points, CORNERS * 0.02, 1e-7)
    faces = np.array(mesh.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3)
    back = trimesh.Trimesh(points, faces, process=False)
    assert outward(back) == pytest.approx(VOLUME * 0.02**3, rel=1e-4)
    st = np.array(UsdGeom.PrimvarsAPI(mesh).GetPrimvar("st").Get())  # pyright: ignore[reportAttributeAccessIssue]
    with zipfile.ZipFile(tmp_path / "m.usdz") as z:
        names = z.namelist()
        picture = np.asarray(Image.open(z.open("base_colour.png")).convert("RGB"))
        dates = {i.date_time[0] for i in z.infolist()}
    assert names == ["mesh.usdc", "base_colour.png"] and dates == {1980}
    column, row = (st * [48, -32] + [0, 32]).astype(int).T
    assert right_colors(side_colors(back, picture[row, column], "y"))
    bound, _ = UsdShade.MaterialBindingAPI(mesh.GetPrim()).ComputeBoundMaterial()  # pyright: ignore[reportAttributeAccessIssue]
    shader, _, _ = bound.ComputeSurfaceSource()
    assert shader.GetInput("roughness").Get() == pytest.approx(0.9) and shader.GetInput("metallic").Get() == 0


def test_a_normal_map_goes_along_where_the_format_has_one(tmp_path: Path) -> None:
    flat = torch.tensor([[[128, 128, 255]]], dtype=torch.uint8).repeat(8, 8, 1)
    tangents = torch.tensor([1.0, 0, 0, 1]).repeat(24, 1)
    mesh = dataclasses.replace(wedge(), normal_map=flat, tangents=tangents)
    write(tmp_path / "m.obj", mesh, None)
    assert "norm m-normals.png\n" in (tmp_path / "m.mtl").read_text()
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "m-normals.png")), flat.numpy())
    pytest.importorskip("pxr")
    from pxr import Usd, UsdShade  # pyright: ignore[reportAttributeAccessIssue]

    write(tmp_path / "m.usdz", mesh, 80.0)
    stage: Any = Usd.Stage.Open(str(tmp_path / "m.usdz"))  # pyright: ignore[reportAttributeAccessIssue]
    surface = UsdShade.Shader(stage.GetPrimAtPath("/Root/base_colour/surface"))  # pyright: ignore[reportAttributeAccessIssue]
    source, _, _ = surface.GetInput("normal").GetConnectedSource()
    reads = UsdShade.Shader(source.GetPrim())  # pyright: ignore[reportAttributeAccessIssue]
    assert reads.GetInput("file").Get().path == "normals.png" and reads.GetInput("sourceColorSpace").Get() == "raw"
    with zipfile.ZipFile(tmp_path / "m.usdz") as z:
        np.testing.assert_array_equal(np.asarray(Image.open(z.open("normals.png"))), flat.numpy())


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_mesh_gives_the_same_bytes(kind: str, tmp_path: Path) -> None:
    if kind == "usdz":
        pytest.importorskip("pxr")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / f"m.{kind}", wedge(), 80.0)
    for path in (tmp_path / "one").iterdir():
        other = tmp_path / "two" / path.name
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest()


@pytest.mark.skipif(shutil.which("assimp") is None, reason="assimp (Debian's assimp-utils) is not installed")
@pytest.mark.parametrize("kind", ["glb", "obj", "ply", "stl", "3mf"])
def test_assimp_imports_it(kind: str, tmp_path: Path) -> None:
    """USDZ is not among assimp 5's formats."""
    write(tmp_path / f"m.{kind}", wedge(), 80.0)
    said = subprocess.run(["assimp", "info", str(tmp_path / f"m.{kind}")], capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stdout + said.stderr
    assert re.search(r"Faces: +12\b", said.stdout), said.stdout
    low, high = (
        np.array(re.search(rf"{w} point +\((\S+) (\S+) (\S+)\)", said.stdout).groups(), float)  # pyright: ignore[reportOptionalMemberAccess]
        for w in ("Minimum", "Maximum")
    )
    expected = {"stl": (40, 80, 60), "3mf": (40, 80, 60), "ply": (2, 4, 3)}.get(kind, (2, 3, 4))
    np.testing.assert_allclose(high - low, expected, rtol=1e-4)


VALIDATOR = Path("/tmp/gltfv/node_modules/gltf-validator")
VALIDATE = """
const fs = require('fs'), v = require(process.argv[1]);
v.validateBytes(new Uint8Array(fs.readFileSync(process.argv[2]))).then(r => console.log(JSON.stringify(r.issues)));
"""


@pytest.mark.skipif(
    shutil.which("node") is None or not VALIDATOR.is_dir(), reason="Khronos' gltf-validator (npm) is not installed"
)
@pytest.mark.parametrize("painted", [False, True])
def test_the_khronos_validator_finds_nothing(painted: bool, tmp_path: Path) -> None:
    write(tmp_path / "m.glb", wedge(painted), None)
    command = ["node", "-e", VALIDATE, str(VALIDATOR), str(tmp_path / "m.glb")]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert '"numErrors":0' in said.stdout and '"numWarnings":0' in said.stdout, said.stdout + said.stderr


@pytest.mark.parametrize("kind", ["stl", "3mf"])
def test_an_open_surface_is_closed_and_that_is_said(kind: str, tmp_path: Path) -> None:
    mesh = wedge()
    said = write(tmp_path / f"m.{kind}", dataclasses.replace(mesh, faces=mesh.faces[:-2]), 80.0)
    assert said == "Closed for printing: 1 holes closed."
    assert trimesh.load_scene(tmp_path / f"m.{kind}").to_mesh().is_watertight
    assert write(tmp_path / f"whole.{kind}", mesh, 80.0) == ""


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("what", ["nan", "empty"])
def test_broken_meshes_are_refused_by_every_writer(kind: str, what: str, tmp_path: Path) -> None:
    mesh = wedge()
    points = mesh.vertices.clone()
    points[3] = torch.nan
    broken = {"nan": {"vertices": points}, "empty": {"faces": mesh.faces[:0]}}[what]
    with pytest.raises(ValueError) as e:
        write(tmp_path / f"m.{kind}", dataclasses.replace(mesh, **broken), 80.0)
    assert str(e.value).endswith(".") and "\n" not in str(e.value) and not list(tmp_path.iterdir())


def test_rows_that_are_equal_are_welded_in_their_order() -> None:
    rows = np.float32([[1, 0], [0, 1], [1, -0.0], [0, 1], [2, 2]])
    first, index = welded(rows)
    assert first.tolist() == [0, 1, 4] and index.tolist() == [0, 1, 0, 1, 2]


@pytest.mark.parametrize(
    ("text", "millimetres"),
    [("80mm", 80), ("80", 80), ("8 cm", 80), ("0.08m", 80), (".5in", 12.7), ("80MM", 80), ("1.m", 1000)],
)
def test_sizes_have_units(text: str, millimetres: float) -> None:
    assert parse_size(text) == pytest.approx(millimetres)


@pytest.mark.parametrize("text", ["", "big", "-80mm", "0mm", "80 furlongs", "1e3mm", "nan", "inf", "999999m", "8 0mm"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="80mm"):
        parse_size(text)


def test_formats_are_names_with_commas() -> None:
    assert parse_formats("OBJ, .stl,obj 3mf") == ("obj", "stl", "3mf")
    for bad in ("", " , ", "fbx", "glb,exe"):
        with pytest.raises(UsageError, match="glb, obj, ply, stl, 3mf, usdz"):
            parse_formats(bad)


def test_usdz_without_usd_core_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes.importlib.util, "find_spec", lambda name: None)
    require_formats(("glb", "stl"))
    with pytest.raises(MissingError, match="pip install usd-core"):
        require_formats(("glb", "usdz"))

"""Anybody's mesh file: colours, axes and scale as they were written by trimesh, and refusals in one sentence."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from app.errors import UsageError
from app.export.mesh_files import START
from app.export.mesh_read import read_here, with_area
from tests.objects import car


def colored_box(extents: tuple[float, float, float] = (1, 2, 3)) -> trimesh.Trimesh:
    """A box whose upper vertices are red and whose lower ones are blue, off the origin."""
    box = trimesh.creation.box(extents)
    box.apply_translation((5, 6, 7))
    colors = np.where(box.vertices[:, 1:2] > 6, [[200, 10, 10, 255]], [[10, 10, 200, 255]])
    box.visual = trimesh.visual.ColorVisuals(box, vertex_colors=colors.astype(np.uint8))
    return box


@pytest.mark.parametrize("suffix", ["glb", "ply", "obj", "off", "stl"])
def test_a_file_is_read_at_its_own_place_scale_and_axes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"box.{suffix}"
    box = colored_box()
    box.export(path)
    mesh = read_here(path)
    low, high = (np.array(x) for x in box.bounds)
    turned = suffix in ("stl", "ply", "off")  # where Z is up by custom
    if turned:
        low, high = np.array([low[0], low[2], -high[1]]), np.array([high[0], high[2], -low[1]])
    assert np.allclose(mesh.vertices.amin(0), low) and np.allclose(mesh.vertices.amax(0), high)
    again = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy())
    assert len(mesh.faces) == 12 and np.isclose(again.volume, 6)  # positive: the outside is still outside
    outward = (mesh.normals * (mesh.vertices - torch.from_numpy((low + high) / 2).float())).sum(1)
    assert bool((outward > 0).all())
    assert mesh.coloured == (suffix in ("glb", "ply", "obj"))
    if mesh.coloured and suffix != "glb":  # trimesh writes vertex colours of a GLB as they are, not as linear
        up = -mesh.vertices[:, 2] if turned else mesh.vertices[:, 1]
        top = mesh.vertex_colors()[up > 6]
        assert torch.allclose(top, torch.tensor([200.0, 10, 10]) / 255, atol=2e-3)


def test_texture_factor_and_coordinates(tmp_path: Path) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:4] = [255, 0, 0]  # the upper half
    picture[4:] = [0, 255, 0]
    quad = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=Image.fromarray(picture), baseColorFactor=[0.5, 1.0, 1.0, 1.0]
    )
    quad.visual = trimesh.visual.TextureVisuals(uv=np.array([[0, 0], [1, 0], [1, 1], [0, 1]]), material=material)
    quad.export(tmp_path / "quad.glb")
    mesh = read_here(tmp_path / "quad.glb")
    assert mesh.uv is not None and mesh.coloured and len(mesh.textures) == 1
    low = mesh.color(torch.tensor([0]), torch.tensor([[0.5, 0.5, 0.0]]))  # the middle of the lower edge
    high = mesh.color(torch.tensor([1]), torch.tensor([[0.0, 0.5, 0.5]]))
    assert torch.allclose(low, torch.tensor([[0.0, 1.0, 0.0]]), atol=0.01)
    assert torch.allclose(high, torch.tensor([[0.735, 0.0, 0.0]]), atol=0.01)  # half of the light


def test_several_parts_are_placed_by_their_nodes(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    mirrored = np.diag([-1.0, 1, 1, 1])
    scene.add_geometry(trimesh.creation.box((1, 1, 1)), transform=mirrored)
    moved = np.eye(4)
    moved[:3, 3] = [4, 0, 0]
    scene.add_geometry(trimesh.creation.icosphere(1, 0.5), transform=moved)
    scene.export(tmp_path / "two.glb")
    mesh = read_here(tmp_path / "two.glb")
    assert torch.allclose(mesh.vertices.amax(0), torch.tensor([4.5, 0.5, 0.5]))
    whole = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy())
    assert np.isclose(whole.volume, 1 + trimesh.creation.icosphere(1, 0.5).volume, rtol=1e-4)


def write_stl(path: Path, faces: int, value: float = 0.0) -> None:
    with path.open("wb") as file:
        file.write(b"\0" * 80 + struct.pack("<I", faces))
        file.write((b"\0" * 12 + struct.pack("<9f", value, 0, 0, 1, 0, 0, 0, 1, 0) + b"\0\0") * faces)


def bad_file(folder: Path, kind: str) -> Path:
    if kind == "missing":
        return folder / "nowhere.glb"
    if kind == "folder":
        (folder / "a.glb").mkdir()
        return folder / "a.glb"
    if kind == "empty":
        (folder / "a.glb").write_bytes(b"")
        return folder / "a.glb"
    if kind == "text":
        (folder / "a.glb").write_text("this is no mesh\n" * 20)
        return folder / "a.glb"
    if kind == "text obj":
        (folder / "a.obj").write_text("this is no mesh\n" * 20)
        return folder / "a.obj"
    if kind == "suffix":
        (folder / "notes.txt").write_text("v 0 0 0")
        return folder / "notes.txt"
    if kind == "points":
        (folder / "a.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")
        return folder / "a.obj"
    if kind == "one place":
        (folder / "a.obj").write_text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n")
        return folder / "a.obj"
    if kind == "line":
        (folder / "a.obj").write_text("v 0 0 0\nv 1 1 1\nv 2 2 2\nf 1 2 3\n")
        return folder / "a.obj"
    if kind == "outside":
        (folder / "a.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n")
        return folder / "a.off"
    if kind == "cut":
        trimesh.creation.icosphere(2).export(folder / "whole.glb")
        data = (folder / "whole.glb").read_bytes()
        (folder / "a.glb").write_bytes(data[: len(data) // 2])
        return folder / "a.glb"
    if kind == "nan":
        write_stl(folder / "a.stl", 3, float("nan"))
        return folder / "a.stl"
    assert kind == "two million"
    write_stl(folder / "a.stl", 2_000_000)
    return folder / "a.stl"


BAD = [
    "missing",
    "folder",
    "empty",
    "text",
    "text obj",
    "suffix",
    "points",
    "one place",
    "line",
    "outside",
    "cut",
    "nan",
]


@pytest.mark.parametrize("kind", [*BAD, "two million"])
def test_a_bad_file_is_one_sentence(tmp_path: Path, kind: str) -> None:
    start = time.perf_counter()
    with pytest.raises(UsageError) as e:
        path = bad_file(tmp_path, kind)
        with_area(read_here(path), path)
    text = str(e.value)
    assert text.endswith(".") and "\n" not in text and e.value.exit_code == 2
    assert str(tmp_path)[:40] in text, "it says which file"
    if kind == "two million":
        assert f"{START.faces:,}" in text and time.perf_counter() - start < 20


def test_an_obj_of_too_many_faces_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "many.obj"
    path.write_bytes(b"v 0 0 0\nv 1 0 0\nv 0 1 0\n" + b"f 1 2 3\n" * (START.faces + 1))
    start = time.perf_counter()
    with pytest.raises(UsageError, match="faces and the limit is"):
        read_here(path)
    assert time.perf_counter() - start < 2


def test_a_code_made_car_keeps_its_colours(tmp_path: Path) -> None:
    v, n, c, f = car()
    colors = (np.c_[c, np.ones(len(c))] * 255).round().astype(np.uint8)
    trimesh.Trimesh(v, f, vertex_normals=n, vertex_colors=colors, process=False).export(tmp_path / "car.ply")
    mesh = read_here(tmp_path / "car.ply")
    assert np.array_equal(mesh.faces.numpy(), f)
    assert np.array_equal(mesh.vertices.numpy(), v[:, [0, 2, 1]] * np.float32([1, 1, -1]))
    assert np.allclose(mesh.vertex_colors().numpy(), c, atol=2e-3)
    assert np.allclose(mesh.normals.numpy(), n[:, [0, 2, 1]] * [1, 1, -1], atol=1e-3)

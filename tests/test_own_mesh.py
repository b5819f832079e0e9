"""A mesh of one's own as the start: read, kept in the run, painted or grown from, and put back to its own place."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from app.candidates import Own, Shape
from app.cli import run_generate, run_texture
from app.commands import Generate, Texture, parse
from app.errors import UsageError
from app.export.glb import read_glb
from app.export.mesh_read import read_here
from app.export.unwrap import make_atlas
from app.own_mesh import dense, load, placed, prepare, solid
from app.recipe_yaml import load_recipe
from app.recipes import FinishRecipe, MeshRecipe, Recipe, TextureRecipe, check, paint_preset, preset
from app.stages.surface import surface
from tests.objects import Mesh, car, mushroom, tree
from tests.test_direct import job_of
from tests.test_mesh_read import BAD, bad_file


def write(path: Path, mesh: Mesh) -> trimesh.Trimesh:
    """A code-made object far from the origin and large, so that a run that leaves it elsewhere is noticed."""
    v, n, c, f = mesh
    out = trimesh.Trimesh(
        v * 40 + [100, -20, 3], f, vertex_normals=n, vertex_colors=(np.c_[c, np.ones(len(c))] * 255).astype(np.uint8),
        process=False,
    )  # fmt: skip
    out.export(path)
    return out


def recipe_of(path: Path, paint: bool = True, method: str = "direct") -> Recipe:
    return replace(paint_preset("draft") if paint else preset("draft"), prompt="x", init=str(path), paint=paint,
                   method=method)  # fmt: skip


def run(*words: str) -> tuple[int, dict]:
    command = [sys.executable, "-m", "app.cli", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


QUICK = ["--direct.steps", "4", "--texture-size", "128", "--prior", "embedded"]


def test_paint_keeps_the_geometry_and_changes_the_colour(tmp_path: Path) -> None:
    path, out = tmp_path / "car.obj", tmp_path / "run"
    write(path, car())
    code, said = run("texture", str(path), "a red sports car", "--out", str(out), *QUICK)
    assert code == 0 and said["status"] == "done"
    before, after = read_here(path), read_glb(out / "mesh.glb")
    assert torch.equal(after.vertices[after.faces.long()], before.vertices[before.faces.long()]), "bit by bit"
    flat = (after.normals[after.faces.long()] - before.normals[before.faces.long()]).abs().max()
    assert float(flat) < 1e-5, "its own normals"
    red = torch.tensor([0.8, 0.1, 0.1])
    mean = after.texture.float().mean((0, 1)) / 255
    assert float((mean - red).norm()) < 0.6 * float((before.vertex_colors().mean(0) - red).norm())
    m = json.loads((out / "metadata.json").read_text())
    assert m["mesh"]["unwrap"] == "xatlas" and m["mesh"]["faces"] == len(before.faces)
    assert json.loads((out / "job.json").read_text())["kind"] == "texture"
    assert list((out / "previews").glob("sample-*.png"))
    assert (out / "start" / "original.obj").read_bytes() == path.read_bytes()

    # its folder is enough: the file is gone, and the run goes on
    path.unlink()
    (out / "mesh.glb").rename(tmp_path / "first.glb")
    (out / "metadata.json").unlink()
    code, said = run("generate", "--resume", str(out))
    assert code == 0 and (out / "mesh.glb").read_bytes() == (tmp_path / "first.glb").read_bytes()


def test_distillation_paints_too(tmp_path: Path) -> None:
    path, out = tmp_path / "tree.glb", tmp_path / "run"
    write(path, tree())
    short = ["--method", "sds", "--field.steps", "3", "--field.resolution", "32", "--texture-size", "128"]
    code, _ = run("texture", str(path), "a green tree", "--out", str(out), *short)
    assert code == 0
    before, after = read_here(path), read_glb(out / "mesh.glb")
    assert torch.equal(after.vertices[after.faces.long()], before.vertices[before.faces.long()])
    assert list((out / "previews").glob("paint-*.png"))


def test_growing_from_a_mesh_puts_it_back(tmp_path: Path) -> None:
    path, out = tmp_path / "mushroom.glb", tmp_path / "run"
    made = write(path, mushroom())
    short = ["--init", str(path), "--field.steps", "3", "--refine.steps", "2", "--field.resolution", "48"]
    size = ["--mesh.resolution", "64", "--mesh.faces", "3000", "--texture-size", "128"]
    code, said = run("generate", "a red mushroom", *short, *size, "--out", str(out))
    assert code == 0, said
    after = read_glb(out / "mesh.glb")
    low, high = after.vertices.amin(0).numpy(), after.vertices.amax(0).numpy()
    assert np.abs(low - made.bounds[0]).max() < 5 and np.abs(high - made.bounds[1]).max() < 5  # of 48 across
    colors = after.texture[(after.uv * 127).round().long().unbind(1)[::-1]].float() / 255
    cap = colors[after.vertices[:, 1] > 40 * 0.55 - 20].mean(0)
    assert cap[0] > cap[1] + 0.2 and cap[0] > cap[2] + 0.2, "the red cap is where it was"


@pytest.mark.parametrize("kind", [*BAD, "two million"])
@pytest.mark.parametrize("command", ["texture", "generate"])
def test_a_bad_file_ends_with_a_sentence_and_no_folder(command: str, kind: str, tmp_path: Path) -> None:
    path, out = bad_file(tmp_path, kind), tmp_path / "run"
    words = ["texture", str(path), "a car"] if command == "texture" else ["generate", "a car", "--init", str(path)]
    asked = parse([*words, "--out", str(out)])
    assert isinstance(asked, Texture | Generate)
    with pytest.raises(UsageError) as e:
        run_texture(asked) if isinstance(asked, Texture) else run_generate(asked)
    assert str(e.value).endswith(".") and "\n" not in str(e.value) and e.value.exit_code == 2
    assert not out.exists()


def test_a_mesh_that_encloses_nothing_is_no_start(tmp_path: Path) -> None:
    quad = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    quad.export(tmp_path / "quad.ply")
    own = placed(read_here(tmp_path / "quad.ply"))
    with pytest.raises(UsageError, match="encloses no space"):
        solid(own, recipe_of(tmp_path / "quad.ply", paint=False, method="sds"))
    write(tmp_path / "car.obj", car())
    solid(placed(read_here(tmp_path / "car.obj")), recipe_of(tmp_path / "car.ply", paint=False))


def test_what_is_kept_in_the_run_is_what_was_read(tmp_path: Path) -> None:
    write(tmp_path / "car.obj", car())
    recipe = recipe_of(tmp_path / "car.obj")
    kept = prepare(recipe, tmp_path / "run")
    first, again = read_here(tmp_path / "car.obj"), load(kept)
    for name in ("vertices", "faces", "normals", "tint", "texture"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert again.coloured and again.uv is None
    assert load_recipe(kept.folder / "config.yaml") == recipe
    (kept.start / "mesh.safetensors").write_bytes(b"no")
    with pytest.raises(UsageError, match="missing or damaged"):
        load(kept)


def test_placing_is_undone_exactly_enough(tmp_path: Path) -> None:
    write(tmp_path / "car.obj", car())
    mesh = read_here(tmp_path / "car.obj")
    own = placed(mesh)
    assert float(own.vertices.norm(dim=1).max()) == pytest.approx(0.95, abs=1e-5)
    assert torch.allclose((own.vertices.amax(0) + own.vertices.amin(0)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(own.back(own.vertices), mesh.vertices, atol=1e-4)
    assert torch.equal(own.welded[own.faces.long()], own.vertices[mesh.faces.long()])


def test_a_low_poly_mesh_says_where_its_colours_are(tmp_path: Path) -> None:
    write(tmp_path / "car.obj", car())
    own = placed(read_here(tmp_path / "car.obj"))
    points, faces, colors = dense(own, 0.05)
    corners = points[faces.long()]
    assert float((corners - corners.roll(1, 1)).norm(dim=2).max()) <= 0.05 + 1e-6 and len(points) > 1000
    yellow = (colors - torch.tensor([0.95, 0.85, 0.1])).norm(dim=1) < 0.02
    assert 0.02 < float(yellow.float().mean()) < 0.3
    assert float(points[yellow][:, 2].min()) > 0.7 * float(points[:, 2].max()), "the nose, at the front"


def test_split_vertices_are_joined_to_be_unwrapped_and_split_again() -> None:
    solid_box = trimesh.creation.icosphere(2)
    v = torch.from_numpy(np.asarray(solid_box.triangles, np.float32).reshape(-1, 3))  # every triangle by itself
    f = torch.arange(len(v), dtype=torch.int32).reshape(-1, 3)
    atlas = make_atlas(v, f, 256)
    assert atlas.how == "xatlas" and atlas.charts < 40, "not a chart a triangle"
    assert torch.equal(atlas.vertices[atlas.faces.long()], v[f.long()])
    assert torch.equal(atlas.vmapping[atlas.faces.long()], f.long())


@pytest.mark.parametrize(
    "changes", [{"finish": FinishRecipe(kind="lowpoly")}, {"mesh": MeshRecipe(symmetry="x")}], ids=str
)
def test_a_mesh_of_ones_own_takes_no_other_surface(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="keeps its surface"):
        check(Recipe("a chair", init="chair.glb", **changes))


@pytest.mark.parametrize("words", ["bal", "notes.txt", "mesh.blend"])
def test_an_init_that_is_none_is_refused(words: str) -> None:
    with pytest.raises(UsageError, match="choose ball or direct, or a mesh file"):
        check(replace(preset("draft"), prompt="x", init=words))


@pytest.mark.parametrize("fits", [True, False])
def test_own_texture_coordinates_are_kept_where_they_will_do(fits: bool, tmp_path: Path) -> None:
    ball = trimesh.creation.icosphere(2)
    v, f = (torch.from_numpy(np.array(x)) for x in (ball.vertices.astype(np.float32), ball.faces.astype(np.int32)))
    atlas = make_atlas(v, f, 256)
    uv = atlas.uv if fits else atlas.uv * 0.01 + 0.3  # one colour of a palette
    away = 1000 * atlas.vertices + 5
    own = Own(away, torch.nn.functional.normalize(atlas.vertices, dim=1), uv)
    grey = torch.full_like(atlas.vertices, 0.5)
    shape = Shape(atlas.vertices, atlas.faces, grey, lambda p: p * 0 + 0.5, own=own)
    recipe = replace(recipe_of(tmp_path / "ball.glb"), texture=TextureRecipe(size=128))
    made = surface(job_of(recipe, tmp_path / "run"), shape)
    assert made.atlas["unwrap"] == ("own" if fits else "xatlas")
    assert torch.equal(made.mesh.vertices[made.mesh.faces.long()], away[atlas.faces.long()])
    assert torch.equal(made.mesh.uv, uv) == fits
    assert made.sphere is not None and float(made.seen(made.mesh).vertices.norm(dim=1).max()) < 1.01

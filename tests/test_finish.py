"""The low-poly finish: few flat faces, one palette colour each, and the shape and its colour borders are kept."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from app.candidates import Shape
from app.commands import Generate, parse
from app.errors import CollapseError, UsageError
from app.export.glb import read_glb, write_glb
from app.export.lowpoly import find_palette, low_poly, potts, surface_colors, to_lab
from app.recipes import FinishRecipe, MeshRecipe, Recipe, check
from app.run.folder import create_run
from app.run.progress import Progress
from app.run.work import Clock, Work
from app.stages.asset import export, lowpoly
from app.stages.mirror import mirror, mirrored_shape
from app.stages.rounds import finish
from renderers.cameras import orbit
from renderers.flatten import flatten
from renderers.isosurface import signed_volume
from renderers.mesh import render_mesh
from renderers.raster import make_context
from renderers.topology import arrays, face_areas, faults
from tests.test_decimate import of_trimesh, shape

RED, GREEN, WHITE = (torch.tensor(c) for c in ([0.8, 0.1, 0.1], [0.2, 0.7, 0.2], [0.9, 0.9, 0.85]))


def spotted(points: Tensor, noise: float = 0.06) -> Tensor:
    """A red ball with a green cap and a white spot in front, blotchy as a prior's textures are."""
    color = RED.repeat(len(points), 1)
    color[points[:, 1] > 0.25] = GREEN
    color[(points - torch.tensor([0.0, 0.0, 0.5])).norm(dim=1) < 0.2] = WHITE
    waves = torch.stack([(points * k).sum(1) for k in (31.0, 47.0, 59.0)], 1).sin()
    return color + noise * waves + noise * torch.sin(900 * points)


def ball() -> tuple[Tensor, Tensor]:
    return of_trimesh(trimesh.creation.icosphere(4, 0.5))


def finished(faces: int = 400, **settings: float) -> tuple[Tensor, Tensor, Tensor]:
    """vertices, faces and colours of faces (F, 3) of a finished ball, checked for what all finished meshes are."""
    v, f = ball()
    made = low_poly(v, f, surface_colors(v, f, spotted)[1], faces, **settings)  # type: ignore[arg-type]
    m = made.mesh
    assert len(m.vertices) == 3 * len(m.faces) and len(m.faces) <= faces
    a, b, c = (m.vertices[m.faces[:, k].long()] for k in range(3))
    flat = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=1)
    for k in range(3):
        torch.testing.assert_close(m.normals[m.faces[:, k].long()], flat, atol=1e-4, rtol=0)
    texels = (m.uv * m.texture.shape[0]).long()
    color = m.texture[texels[:, 1], texels[:, 0]].reshape(-1, 3, 3)
    assert bool((color == color[:, :1]).all())
    assert np.array_equal(color[:, 0].numpy(), made.colors[made.label])
    # filters find nothing but the face's own colour around it
    assert bool(((m.uv * m.texture.shape[0]) % 8 == 4).all())
    return m.vertices, m.faces, color[:, 0].float() / 255


def test_a_blotchy_ball_comes_out_in_its_three_colours() -> None:
    v, f, color = finished()
    found = torch.unique(color, dim=0)
    assert len(found) == 3
    for wanted in (RED, GREEN, WHITE):
        assert float((found - wanted).abs().amax(1).min()) < 0.05
    middle = v[f.long()].mean(1)
    clear = ((middle[:, 1] - 0.25).abs() > 0.06) & (
        ((middle - torch.tensor([0, 0, 0.5])).norm(dim=1) - 0.2).abs() > 0.06
    )
    right = (color - spotted(middle, 0.0)).abs().amax(1) < 0.1
    assert float(right[clear].float().mean()) > 0.99
    assert float(right.float().mean()) > 0.85


def test_borders_between_colours_are_short() -> None:
    """A border that follows every blotch is long; the ring around the cap and the spot's have known lengths."""
    v, f = ball()
    made = low_poly(v, f, surface_colors(v, f, lambda p: spotted(p, 0.09))[1], 600)
    w, g = made.mesh.vertices.numpy(), made.mesh.faces.numpy()
    whole = trimesh.Trimesh(w, g, process=True)
    assert whole.is_watertight and len(whole.faces) == len(g)
    differ = made.label[whole.face_adjacency[:, 0]] != made.label[whole.face_adjacency[:, 1]]
    ends = whole.vertices[whole.face_adjacency_edges[differ]]
    length = float(np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1).sum())
    true = 2 * math.pi * (math.sqrt(0.25 - 0.25**2) + 0.196)
    assert 0.8 * true < length < 1.5 * true


def test_a_palette_of_one_colour_and_of_a_few() -> None:
    assert len(torch.unique(finished(palette=1)[2], dim=0)) == 1
    assert len(torch.unique(finished(palette=2)[2], dim=0)) == 2
    v, f = ball()
    grey = low_poly(v, f, torch.full((len(f), 4, 3), 0.5), 100)
    assert grey.colors.tolist() == [[128, 128, 128]]


def test_alike_colours_are_one_and_rare_ones_none() -> None:
    lab = to_lab(np.array([[0.5, 0.5, 0.5], [0.52, 0.5, 0.5], [0.9, 0.1, 0.1], [0.1, 0.1, 0.9]]))
    assert len(find_palette(lab, np.array([1.0, 1.0, 1.0, 0.001]), 8)) == 2
    assert len(find_palette(lab, np.ones(4), 8)) == 3


def test_the_potts_term_takes_the_crease() -> None:
    """A cube, each side's faces unsure but for one: labels change at its edges."""
    v, f = arrays(*shape("cube"))
    n = np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]])
    top = n[:, 1] > 1e-9
    sure = np.random.default_rng(0).random(len(f)) < 0.15
    cost = np.where(top[:, None] == [False, True], 0.0, np.where(sure, 1.0, 0.02)[:, None])
    label = potts(v, f, face_areas(v, f)[:, None] * cost, 0.02)
    assert (label == top).mean() > 0.99


def test_the_same_shape_gives_the_same_file(tmp_path: Path) -> None:
    v, f = ball()
    colors = surface_colors(v, f, spotted)[1]
    for name in "ab":
        write_glb(tmp_path / f"{name}.glb", low_poly(v.clone(), f.clone(), colors.clone(), 300).mesh)
    assert (tmp_path / "a.glb").read_bytes() == (tmp_path / "b.glb").read_bytes()
    again = trimesh.load(tmp_path / "a.glb", force="mesh")
    again.merge_vertices(merge_tex=True, merge_norm=True)
    assert again.is_watertight and again.volume > 0.4


def test_silhouette_and_colour_are_kept() -> None:
    v, f = shape("chair")

    def wood(p: Tensor) -> Tensor:
        return torch.where(p[:, 1:2] > 0, torch.tensor([0.7, 0.45, 0.2]), torch.tensor([0.35, 0.2, 0.1]))

    made = low_poly(v, f, surface_colors(v, f, wood)[1], 500)
    few = trimesh.Trimesh(made.mesh.vertices, made.mesh.faces, process=True)
    assert few.is_watertight and few.volume == pytest.approx(signed_volume(v, f), rel=0.1)
    cameras, grey = orbit(8, 0.3), torch.zeros(1, 3)
    one, two = (
        render_mesh(make_context("cpu"), w, g, cameras, 128, grey.expand(len(w), 3)).alpha > 0.5
        for w, g in ((made.mesh.vertices, made.mesh.faces), (v, f))
    )
    overlap = (one & two).flatten(1).sum(1) / (one | two).flatten(1).sum(1)
    assert float(overlap.mean()) > 0.95


def test_flattening_takes_bumps_and_leaves_edges() -> None:
    v, f = shape("cube")
    bumpy = v + 0.01 * torch.randn(v.shape, generator=torch.Generator().manual_seed(0))
    flat, same = flatten(bumpy, f)
    assert torch.equal(same, f) and faults(arrays(flat, same)[1]).manifold

    def off(w: Tensor) -> float:
        return float((w.abs().amax(1) - 0.5).abs().mean())

    assert off(flat) < 0.5 * off(bumpy)
    assert float(flat.abs().amax()) > 0.47 and signed_volume(flat, f) == pytest.approx(1, rel=0.03)


def test_the_recipes_numbers_are_used() -> None:
    v, f = ball()
    made = Shape(v, f, spotted, spotted)
    recipe = Recipe("a ball", finish=FinishRecipe("lowpoly", faces=200, colors=2))
    whole = lowpoly(made, recipe)
    mesh, about = whole.mesh, whole.atlas
    assert len(mesh.faces) == about["faces"] == 200 and about["colors"] == 2 and about["vertices"] == 600
    fewer = dataclasses.replace(recipe, mesh=MeshRecipe(faces=120))
    assert lowpoly(made, fewer).atlas["faces"] == 120
    attributes = torch.cat([v, spotted(v)], 1)
    by_vertex = Shape(v, f, spotted(v), lambda p: p[:, 6:], attributes)
    assert lowpoly(by_vertex, recipe).atlas["colors"] == 2


def test_a_mirrored_shape_has_mirrored_colours() -> None:
    v, f = shape("chair")
    v = v + torch.tensor([0.013, 0, 0])

    def sided(p: Tensor) -> Tensor:
        return torch.where(p[:, :1] > 0, RED, GREEN)

    by_function, side = mirrored_shape(Shape(v, f, sided, sided))
    wanted = RED if side > 0 else GREEN
    points = by_function.vertices
    assert bool((by_function.texture(points[points[:, 0].abs() > 0.05]) == wanted).all())
    attributes = torch.cat([torch.zeros_like(v), v], 1)
    by_vertex, side = mirrored_shape(Shape(v, f, v.clone(), lambda p: p[:, 6:9], attributes))
    assert isinstance(by_vertex.color, Tensor) and by_vertex.attributes is not None
    w = by_vertex.vertices
    there = torch.cat([side * w[:, :1].abs(), w[:, 1:]], 1)
    off = (by_vertex.attributes[:, 3:] - there).norm(dim=1)
    assert float(off.max()) < 0.02 and torch.equal(by_vertex.color, by_vertex.attributes[:, 3:])


def test_finish_and_symmetry_are_flags_of_their_own() -> None:
    command = parse(["generate", "a ball", "--finish", "lowpoly", "--symmetry", "x", "--finish.faces", "300"])
    assert isinstance(command, Generate)
    recipe = command.recipe
    assert (recipe.finish.kind, recipe.finish.faces, recipe.mesh.symmetry) == ("lowpoly", 300, "x")
    assert (Recipe().finish.kind, Recipe().mesh.symmetry) == ("smooth", "none")
    for wrong, says in (("--finish", "Unknown finish 'shiny'; choose"), ("--symmetry", "Unknown symmetry 'shiny'")):
        command = parse(["generate", "a ball", wrong, "shiny"])
        assert isinstance(command, Generate)
        with pytest.raises(UsageError, match=says):
            check(dataclasses.replace(command.recipe, prompt="a ball"))


def test_a_run_is_mirrored_and_finished(tmp_path: Path) -> None:
    """Two spheres beside each other, of two colours: the larger is kept, on both sides, in its one colour."""
    meshes = [trimesh.creation.icosphere(4, r) for r in (0.3, 0.2)]
    meshes[0].apply_translation((0.4, 0, 0)), meshes[1].apply_translation((-0.4, 0, 0))
    v, f = of_trimesh(trimesh.util.concatenate(meshes))

    def sided(p: Tensor) -> Tensor:
        return torch.where(p[:, :1] > 0, RED, GREEN)

    recipe = Recipe("two balls", mesh=MeshRecipe(symmetry="x"), finish=FinishRecipe("lowpoly", faces=200))
    run = create_run(recipe, tmp_path / "run")
    job = Work(recipe, run, Progress(quiet=True), Clock(), lambda: False, None, torch.device("cpu"))  # type: ignore[arg-type]
    shape, found = mirror(job, Shape(v, f, sided, sided))
    about, _, report = export(job, shape)
    assert 0 <= found < 0.8
    assert job.progress.notes == [f"The shape was {found:.0%} symmetric across x = 0; its +X half is mirrored."]
    mesh = read_glb(job.run.folder / "mesh.glb")
    assert len(mesh.faces) == about["faces"] == report["faces"] == 200 and about["colors"] == 1
    assert float(mesh.vertices[:, 0].min()) < -0.65 and float(mesh.vertices[:, 0].max()) > 0.65
    texel = mesh.texture[4, 4].float() / 255
    assert float((texel - RED).abs().max()) < 0.01


def test_a_fitted_mesh_that_nothing_can_be_made_of_is_a_collapse_with_a_sentence() -> None:
    v, f = shape("ball")
    for broken in (torch.zeros_like(v), torch.full_like(v, float("nan"))):
        with pytest.raises(CollapseError, match=r"The fitted mesh is of no use: .*\w\. Try another --seed\."):
            finish(broken, f, MeshRecipe())
    with pytest.raises(CollapseError, match="no triangles"):
        finish(v, f[:0], MeshRecipe())


def test_what_is_fitted_comes_out_clean() -> None:
    """A part inside the ball and a hole in it: both are gone, at any number of faces."""
    v, f = shape("ball")
    both = torch.cat([v, 0.4 * v]), torch.cat([f[7:], f + len(v)])
    for faces in (100_000, 500):
        w, g = finish(*both, MeshRecipe(faces=faces))
        assert faults(arrays(w, g)[1]).manifold and len(g) <= min(faces, len(f) + 30)
        assert signed_volume(w, g) == pytest.approx(signed_volume(v, f), rel=0.02)

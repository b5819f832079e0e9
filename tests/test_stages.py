"""The stages against an oracle: a prior with exact scores, a Gaussian around the true picture of an object a view.

SDS on it must reproduce the object: its shape, its colours, its front. No network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import trimesh
from scipy.spatial import cKDTree

from app.errors import Cancelled, CollapseError
from app.optimize import Optimization
from app.recipes import FieldRecipe, MeshRecipe, Recipe, RefineRecipe
from app.run.folder import Run, create_run, generators
from app.run.live import Look
from app.run.progress import Progress
from app.run.work import Clock, Work
from app.stages.field import field_of_mesh, field_step, start_field
from app.stages.mesh import extract, refine_step, start_color
from app.stages.rounds import Now, Step, falling, move, rounds_of, start_round
from app.stages.views import camera_sets
from app.web.show import stage_name
from guidance.method import Asked, Guidance, Setup
from guidance.prior import Prior, Views, squared_cosine_schedule
from guidance.priors.analytic import AnalyticPrior, Mixture
from guidance.sds import SDS
from guidance.start import start
from renderers.cameras import make_cameras, orbit
from renderers.fields import GridField
from renderers.mesh import render_mesh, vertex_normals
from renderers.raster import make_context
from renderers.remesh import remesh
from renderers.snapshot import snapshots
from renderers.volume import render_field, update_occupancy
from tests.objects import Mesh, car, sphere, table

SIZE = 32
CPU = torch.device("cpu")


def truth_of(mesh: Mesh, azimuth: torch.Tensor, elevation: torch.Tensor, size: int, fine: int) -> torch.Tensor:
    """Frames (B, 7, size, size) of a mesh, `fine` times finer before they are averaged."""
    return torch.from_numpy(snapshots([mesh] * len(azimuth), make_cameras(azimuth, elevation), size, supersample=fine))


def truth(azimuth: torch.Tensor, elevation: torch.Tensor) -> torch.Tensor:
    """Frames (B, 7, SIZE, SIZE) of the car."""
    return truth_of(car(), azimuth, elevation, SIZE, 4)


def around_the_car(views: Views) -> Mixture:
    x = truth(views.azimuth, views.elevation) * 2 - 1
    return Mixture(torch.ones(len(x), 1), x[:, None], torch.full((len(x), 1), 0.05))


def anything_of(size: int) -> Callable[[Views], Mixture]:
    def anything(views: Views) -> Mixture:
        n = len(views.azimuth)
        return Mixture(torch.ones(n, 1), torch.zeros(n, 1, 7, size, size), torch.full((n, 1), 0.5))

    return anything


def refined(
    surface: tuple[torch.Tensor, torch.Tensor],
    field: GridField,
    recipe: RefineRecipe,
    prior: Prior,
    guidance: Guidance,
) -> tuple[torch.Tensor, torch.Tensor, GridField]:
    """(vertices, faces, colour) after all of the refinement's rounds."""
    rounds, streams = rounds_of(recipe, orbit(1).pixel(prior.frame_shape[-1])), generators(1)
    solid, also = start_color(field, recipe)
    vertices, faces = surface
    for r, steps in enumerate(rounds.steps):
        state, now = start_round(vertices, faces, rounds, r, streams, also)
        step = refine_step(now, solid, state, recipe, prior, guidance, rounds.before(r))
        step = falling(step, state, rounds, r)
        for i in range(steps):
            state.backward(step(i).loss)
            state.update()
        vertices, faces = now().vertices.detach(), now().faces
    return vertices, faces, solid


def sds(prior: Prior, scale: float) -> Guidance:
    return start(SDS(), Setup(prior, Asked("a car"), scale))


@pytest.fixture(scope="module")
def prior() -> AnalyticPrior:
    mixtures = {"a car": around_the_car, "": anything_of(SIZE)}
    return AnalyticPrior(mixtures, (7, SIZE, SIZE), squared_cosine_schedule(), images=True)


@pytest.fixture(scope="module")
def grown(prior: AnalyticPrior) -> GridField:
    recipe = FieldRecipe(steps=120, resolution=32, samples=32, scale=1.0, smooth_density=1.0, smooth_color=1.0)
    field, state = start_field(recipe, generators(0), CPU)
    step = field_step(field, state, recipe, prior, sds(prior, recipe.scale))
    for i in range(recipe.steps):
        result = step(i)
        state.backward(result.loss)
        state.update()
    return GridField(field.raw_density.detach(), field.raw_color.detach())


def errors(frames: torch.Tensor, cameras) -> list[float]:
    """Mean squared errors of colour, alpha and normals."""
    difference = (frames - truth(cameras.azimuth, cameras.elevation)).square()
    return [float(difference[:, s].mean()) for s in (slice(0, 3), slice(3, 4), slice(4, 7))]


def test_sds_on_an_exact_prior_grows_the_object_it_describes(grown: GridField) -> None:
    cameras = orbit(6, math.radians(20), start=0.3)
    color, alpha, normal = errors(render_field(grown, cameras, SIZE, 48).frames(), cameras)
    assert color < 0.004 and alpha < 0.012 and normal < 0.012


def test_the_mesh_and_its_refinement_keep_the_object_and_its_front(grown: GridField, prior: AnalyticPrior) -> None:
    vertices, faces = extract(grown, MeshRecipe(resolution=48, faces=4000))
    recipe = RefineRecipe(steps=30, scale=1.0, faces_coarse=1500, faces_fine=3000)
    cameras, context = orbit(6, math.radians(20), start=0.3), make_context(CPU)
    solid, _ = start_color(grown, recipe)

    def seen(surface: tuple[torch.Tensor, torch.Tensor], solid: GridField) -> list[float]:
        return errors(render_mesh(context, *surface, cameras, SIZE, solid.color_at).frames().detach(), cameras)

    before = seen((vertices, faces), solid)
    vertices, faces, solid = refined((vertices, faces), grown, recipe, prior, sds(prior, recipe.scale))
    color, alpha, normal = seen((vertices, faces), solid)
    assert color < 0.006 and alpha < 0.02 and normal < 0.02
    assert color < before[0] and normal < before[2], "refinement must improve on marching cubes"
    front, back = solid.color_at(torch.tensor([[0.0, -0.1, 0.77], [0.0, -0.1, -0.7]])).detach()
    assert front[0] > 0.7 and front[2] < 0.45, "yellow front at +Z"
    assert back[2] > 0.6 and back[0] < 0.45, "blue back at -Z"


def test_an_empty_field_is_a_collapse_with_a_sentence() -> None:
    with pytest.raises(CollapseError, match="no surface"):
        extract(GridField(torch.full((16, 16, 16), -5.0), torch.zeros(16, 16, 16, 3)), MeshRecipe())


def test_camera_sets_are_four_views_90_degrees_apart_at_one_elevation() -> None:
    cameras = camera_sets(3, generators(0)["camera"], CPU)
    assert len(cameras) == 12
    for k in range(3):
        azimuth, elevation = cameras.azimuth[4 * k : 4 * k + 4], cameras.elevation[4 * k : 4 * k + 4]
        torch.testing.assert_close(azimuth.diff(), torch.full((3,), math.pi / 2))
        assert (elevation == elevation[0]).all()
    assert cameras.azimuth[0] != cameras.azimuth[4]


def test_refinement_keeps_thin_legs_and_sharpens_them() -> None:
    """A table whose legs are two and a half pixels thick, from a blurred field of it, under exact scores."""
    mesh, size = table(), 64

    def around(views: Views) -> Mixture:
        x = truth_of(mesh, views.azimuth, views.elevation, size, 2) * 2 - 1
        return Mixture(torch.ones(len(x), 1), x[:, None], torch.full((len(x), 1), 0.05))

    prior = AnalyticPrior(
        {"a table": around, "": anything_of(size)}, (7, size, size), squared_cosine_schedule(), images=True
    )
    vertices, _, colors, faces = (torch.from_numpy(x) for x in mesh)
    field = field_of_mesh(vertices, faces, torch.full_like(colors, 0.5), 48)
    blurred, f = extract(field, MeshRecipe(faces=8000))
    surface = blurred + 0.02 * vertex_normals(blurred, f), f
    legs = trimesh.sample.sample_surface(trimesh.Trimesh(mesh[0], mesh[3], process=False), 4000, seed=1)[0]
    legs = legs[legs[:, 1] < 0.25]
    cameras, context = orbit(6, math.radians(20), start=0.3), make_context(CPU)

    def overlap(surface: tuple[torch.Tensor, torch.Tensor]) -> float:
        alpha = render_mesh(context, *surface, cameras, size, torch.zeros_like(surface[0])).alpha
        true = truth_of(mesh, cameras.azimuth, cameras.elevation, size, 4)[:, 3:4]
        return float(torch.minimum(alpha, true).sum() / torch.maximum(alpha, true).sum())

    recipe = RefineRecipe(steps=16, scale=1.0, faces_coarse=4000, faces_fine=6000)
    guidance = start(SDS(), Setup(prior, Asked("a table"), 1.0))
    *after, _ = refined(surface, field, recipe, prior, guidance)
    made = trimesh.Trimesh(after[0].numpy(), after[1].numpy(), process=False)
    assert made.is_watertight and made.body_count == 1
    near = cKDTree(trimesh.sample.sample_surface(made, 8000, seed=1)[0]).query(legs)[0]
    assert (near < 0.05).mean() > 0.97, "legs are there, whole"
    assert overlap(surface) < 0.86 and overlap((after[0], after[1])) > 0.92


def test_steps_are_divided_into_rounds_whose_rates_fall_and_faces_grow() -> None:
    recipe = RefineRecipe(steps=7, rounds=2, faces_coarse=2000, faces_fine=5000, rate=0.01, rate_end=0.001)
    rounds = rounds_of(recipe, pixel=0.001)
    assert rounds.steps == (3, 4) and rounds.before(1) == 3
    assert rounds.rate_at(0) == 0.01 and rounds.rate_at(6) == pytest.approx(0.001)
    assert rounds_of(RefineRecipe(steps=1), 0.001).steps == (1,), "no round without a step"
    vertices, _, _, faces = (torch.from_numpy(x) for x in sphere())
    counts = [len(remesh(vertices, faces, rounds.length(vertices, faces, r))[1]) for r in (0, 1)]
    assert 1500 < counts[0] < 2500 and 4000 < counts[1] < 6000
    assert rounds_of(recipe, pixel=0.1).length(vertices, faces, 1) == pytest.approx(0.06), "not under a pixel's"


def test_a_round_is_called_one_on_the_page() -> None:
    names = ("fuse2", "refine1-3", "refine", "sample-1", "mesh")
    told = ["fitting, round 2", "refining, round 1", "refining", "sampling views", "taking the mesh"]
    assert [stage_name(n) for n in names] == told


def test_colour_goes_on_from_round_to_round_and_both_optimizers_are_saved() -> None:
    vertices, _, colors, faces = (torch.from_numpy(x) for x in sphere())
    recipe = RefineRecipe(steps=4, rounds=2)
    rounds, streams = rounds_of(recipe, 0.03), generators(0)
    solid, also = start_color(field_of_mesh(vertices, faces, colors, 16), recipe)
    first, one = start_round(vertices, faces, rounds, 0, streams, also)
    first.backward(first.parameters["vertices"].square().sum() + solid.raw_color.square().sum())
    first.update()
    saved = {k: v.clone() for k, v in first.tensors().items()}
    assert {"adam.vertices.mean", "adam.color.exp_avg", "param.color", "rng.noise"} <= set(saved)
    again, other = start_color(field_of_mesh(vertices, faces, colors, 16), recipe)
    resumed, other_one = start_round(vertices, faces, rounds, 0, streams, other)
    resumed.restore(saved, 1)
    nexts = [
        start_round(now().vertices, now().faces, rounds, 1, streams, a)[0]
        for now, a in ((one, also), (other_one, other))
    ]
    for state, color in zip(nexts, (solid.raw_color, again.raw_color), strict=True):
        state.backward(state.parameters["vertices"].pow(4).sum() + color.sin().sum())
        state.update()
    assert float(also.optimizers[0].state[solid.raw_color]["step"]) == 2, "one Adam through both rounds"
    for a, b in zip(nexts[0].parameters.values(), nexts[1].parameters.values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("surface", ["mesh", "tetrahedra"])
def test_a_refinement_killed_in_its_second_round_goes_on_to_the_same_bytes(
    prior: AnalyticPrior, tmp_path: Path, surface: str
) -> None:
    vertices, _, colors, faces = (torch.from_numpy(x) for x in sphere())
    recipe = RefineRecipe(steps=6, scale=1.0, surface=surface, grid=16, faces_coarse=800, faces_fine=1200)

    def work(folder: str, stop_at: int) -> tuple[torch.Tensor, ...]:
        run, calls, streams = Run(tmp_path / folder), iter(range(100)), generators(2)
        job = Work(Recipe("a car"), run, Progress(quiet=True), Clock(), lambda: next(calls) == stop_at, prior, CPU)  # pyright: ignore[reportArgumentType]
        solid, also = start_color(field_of_mesh(vertices, faces, colors, 24), recipe)
        guidance, rounds = sds(prior, 1.0), rounds_of(recipe, orbit(1).pixel(SIZE))

        def step_of(now: Now, state: Optimization, r: int) -> Step:
            return refine_step(now, solid, state, recipe, prior, guidance, rounds.before(r))

        def look_of(now: Now) -> Look:
            return lambda cameras: now().render(cameras, SIZE, solid.color_at)

        moved = move(job, "refine", "", (vertices, faces), rounds, streams, step_of, look_of, also)
        return *moved, solid.raw_color.detach()

    for folder in ("whole", "parts"):
        create_run(Recipe("a car"), tmp_path / folder)
    whole = work("whole", -1)
    with pytest.raises(Cancelled, match="step 2 of the refine2 stage"):
        work("parts", 4)
    resumed = work("parts", -1)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    assert float((whole[0].norm(dim=1) - 0.6).abs().max()) > 0.01, "it did move"


def test_a_field_made_of_a_mesh_leaves_no_haze_and_lets_the_marcher_skip() -> None:
    """Alpha two pixels away from the silhouette, and the share of cells that a ray has to be sampled in."""
    vertices, _, colors, faces = (torch.from_numpy(x) for x in car())
    field = field_of_mesh(vertices, faces, colors, 64)
    cameras = orbit(4, math.radians(15))
    with torch.no_grad():
        alpha = render_field(field, cameras, 64, 64).alpha
    mesh = render_mesh(make_context(CPU), vertices, faces, cameras, 64, colors).alpha
    away = torch.nn.functional.max_pool2d(mesh, 7, 1, 3) < 1e-3
    assert float(alpha[away].max()) < 0.002, "haze"
    overlap = torch.minimum(alpha, mesh).sum() / torch.maximum(alpha, mesh).sum()
    assert float(overlap) > 0.9, "it still looks like the mesh"
    assert update_occupancy(field).fraction() < 0.5
    density, outside = field.activate(field.raw_density.detach()), field.raw_density.detach() < 0
    assert int((density[outside] > 0.005).sum()) > 1000, "guidance still finds something to grow around it"

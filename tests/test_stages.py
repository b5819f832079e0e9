"""The stages against an oracle: a prior with exact scores, a Gaussian around the true picture of an object a view.

SDS on it must reproduce the object: its shape, its colours, its front. No network.
"""

from __future__ import annotations

import math

import pytest
import torch

from app.errors import CollapseError
from app.recipes import FieldRecipe, MeshRecipe, RefineRecipe
from app.run.folder import generators
from app.stages.field import field_of_mesh, field_step, start_field
from app.stages.mesh import extract, refine_step, start_refine, uniform_laplacian
from app.stages.views import camera_sets
from guidance.method import Asked, Guidance, Setup
from guidance.prior import Prior, Views, squared_cosine_schedule
from guidance.priors.analytic import AnalyticPrior, Mixture
from guidance.sds import SDS
from guidance.start import start
from renderers.cameras import make_cameras, orbit
from renderers.fields import GridField
from renderers.mesh import render_mesh
from renderers.raster import make_context
from renderers.snapshot import snapshots
from renderers.volume import render_field, update_occupancy
from tests.objects import car

SIZE = 32
CPU = torch.device("cpu")


def truth(azimuth: torch.Tensor, elevation: torch.Tensor) -> torch.Tensor:
    """Frames (B, 7, SIZE, SIZE) of the car."""
    return torch.from_numpy(snapshots([car()] * len(azimuth), make_cameras(azimuth, elevation), SIZE, supersample=4))


def around_the_car(views: Views) -> Mixture:
    x = truth(views.azimuth, views.elevation) * 2 - 1
    return Mixture(torch.ones(len(x), 1), x[:, None], torch.full((len(x), 1), 0.05))


def anything(views: Views) -> Mixture:
    n = len(views.azimuth)
    return Mixture(torch.ones(n, 1), torch.zeros(n, 1, 7, SIZE, SIZE), torch.full((n, 1), 0.5))


def sds(prior: Prior, scale: float) -> Guidance:
    return start(SDS(), Setup(prior, Asked("a car"), scale))


@pytest.fixture(scope="module")
def prior() -> AnalyticPrior:
    mixtures = {"a car": around_the_car, "": anything}
    return AnalyticPrior(mixtures, (7, SIZE, SIZE), squared_cosine_schedule(), images=True)


@pytest.fixture(scope="module")
def grown(prior: AnalyticPrior) -> GridField:
    recipe = FieldRecipe(steps=120, resolution=32, samples=32, scale=1.0, smooth_density=1.0, smooth_color=1.0)
    field, state = start_field(recipe, generators(0), CPU)
    step = field_step(field, state, recipe, prior, sds(prior, recipe.scale))
    for i in range(recipe.steps):
        result = step(i)
        state.adam.zero_grad()
        result.loss.backward()
        state.adam.step()
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
    vertices, faces = extract(grown, MeshRecipe(resolution=48, faces=2000))
    recipe = RefineRecipe(steps=30, scale=1.0, laplacian=20000.0)
    solid, state = start_refine(vertices, grown, recipe, generators(1))
    step = refine_step(vertices, faces, solid, state, recipe, prior, sds(prior, recipe.scale))
    cameras, context = orbit(6, math.radians(20), start=0.3), make_context(CPU)

    def now() -> list[float]:
        moved = vertices + state.parameters["offsets"].detach()
        return errors(render_mesh(context, moved, faces, cameras, SIZE, solid.color_at).frames().detach(), cameras)

    before = now()
    for i in range(recipe.steps):
        result = step(i)
        state.adam.zero_grad()
        result.loss.backward()
        state.adam.step()
    color, alpha, normal = now()
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


def test_the_laplacian_vanishes_on_a_plane_and_points_out_of_a_bump() -> None:
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 1]])
    v = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]])
    laplacian = uniform_laplacian(faces, 5)
    assert torch.sparse.mm(laplacian, v)[0].abs().max() < 1e-6
    v[0, 2] = 1
    torch.testing.assert_close(torch.sparse.mm(laplacian, v)[0], torch.tensor([0.0, 0.0, 1.0]))


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

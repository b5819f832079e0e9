"""Stage 1: a radiance field grown from a grey ball, or from a mesh.

cameras -> ray marching -> guidance -> Adam on the grid.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from app.optimize import Optimization, StepResult
from app.recipes import FieldRecipe
from app.stages.reference import Anchor
from app.stages.views import VIEWS, camera_sets, guided
from guidance.method import Guidance
from guidance.prior import Prior
from guidance.schedule import DreamTime, LinearAnneal, SqrtAnneal, TimePolicy, Uniform
from renderers.distance import signed_distance
from renderers.fields import GridField, blob_field, smoothness, vertex_positions
from renderers.volume import Occupancy, render_field, update_occupancy

OCCUPANCY_EVERY = 16
SOLID, FALL, BAND = 60.0, 2.5, 3.0  # before softplus: one cell inside a mesh; a cell outside, over so many cells


def time_policy(anneal: str, sigma_min: float, sigma_max: float) -> TimePolicy:
    kinds: dict[str, Callable[[float, float], TimePolicy]] = {
        "uniform": Uniform,
        "linear": LinearAnneal,
        "sqrt": SqrtAnneal,
        "dreamtime": DreamTime,
    }
    return kinds[anneal](sigma_min, sigma_max)


def field_of_mesh(vertices: Tensor, faces: Tensor, colors: Tensor, resolution: int) -> GridField:
    """A field that looks like a closed mesh with colours (V, 3) at its vertices.

    With d the signed distance in cells: softplus'd density rises to SOLID within a cell inside. Outside it falls by
    FALL a cell: guidance can still grow something in the next two cells, and beyond them softplus leaves .0006 a world
    unit, which is no haze and, under the occupancy's threshold, is not marched through. Each grid vertex takes the
    nearest mesh vertex's colour.
    """
    cells = signed_distance(vertices, faces, resolution, band=BAND) * (resolution - 1) / 2
    height = torch.where(cells > 0, SOLID * cells.clamp(max=1), FALL * cells)
    density = (height / 10.0).to(vertices.device).requires_grad_(True)
    color = nearest_colors(vertices, colors, resolution).to(vertices.device).requires_grad_(True)
    return GridField(density, color, density_scale=10.0)


def nearest_colors(points: Tensor, colors: Tensor, resolution: int) -> Tensor:
    """(R, R, R, 3) raw colours of a grid: each of its vertices takes the colour (N, 3) of the nearest of the points
    (N, 3). On the CPU."""
    from scipy.spatial import KDTree

    at = vertex_positions(resolution).reshape(-1, 3).numpy()
    _, nearest = KDTree(points.detach().cpu().numpy()).query(at)
    raw = torch.logit(colors.detach().cpu().clamp(0.01, 0.99))[torch.from_numpy(nearest)]
    return raw.reshape(*(resolution,) * 3, 3)


def start_field(
    recipe: FieldRecipe,
    generators: dict[str, torch.Generator],
    device: torch.device,
    start: GridField | None = None,
) -> tuple[GridField, Optimization]:
    """The grey ball, or `start`, its optimiser and generators."""
    field = start or blob_field(
        generators["init"],
        recipe.resolution,
        blob_density=recipe.blob_density,
        blob_radius=recipe.blob_radius,
        device=device,
    )
    parameters = {"density": field.raw_density, "color": field.raw_color}
    rates = {"density": recipe.rate_density, "color": recipe.rate_color}
    return field, Optimization(parameters, rates, generators)


def field_step(
    field: GridField,
    state: Optimization,
    recipe: FieldRecipe,
    prior: Prior,
    method: Guidance,
    blind: bool = False,
    anchor: Anchor | None = None,
) -> Callable[[int], StepResult]:
    """The stage's `step(i)`; the method's state joins the stage's. `blind`: frames are denoised one by one. `anchor`:
    what a picture wants of its view."""
    state.guidance = method
    policy = time_policy(recipe.anneal, recipe.sigma_min, recipe.sigma_max)
    size = prior.frame_shape[-1]
    g = state.generators

    def step(i: int) -> StepResult:
        cameras = camera_sets(recipe.sets, g["camera"], field.device, method)
        if i % OCCUPANCY_EVERY == 0:
            state.extra["occupancy"] = update_occupancy(field).cells
        rows = len(cameras) if anchor is None else max(len(cameras), len(anchor.cameras))
        jitter = torch.rand(rows, size, size, generator=g["jitter"]).to(field.device)
        start = time.perf_counter()
        occupancy = Occupancy(state.extra["occupancy"].to(field.device))
        rendered = render_field(field, cameras, size, recipe.samples, jitter[: len(cameras)], occupancy)
        seconds = time.perf_counter() - start
        t = policy.draw(i, recipe.steps, recipe.sets, prior.schedule, g["time"]).repeat_interleave(VIEWS)
        smooth = recipe.smooth_density * smoothness(field.raw_density)
        smooth = smooth + recipe.smooth_color * smoothness(field.raw_color)
        if anchor is not None:
            mine = render_field(field, anchor.cameras, size, recipe.samples, jitter[: len(anchor.cameras)], occupancy)
            smooth = smooth + anchor.loss(mine, i / recipe.steps)
        return guided(method, cameras, rendered, t, i / recipe.steps, g["noise"], smooth, seconds, blind)

    return step

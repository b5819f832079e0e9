"""Stages 2 and 3: the field's surface as triangles, then vertices and colours moved under the rasterizer.

The colour stays a solid texture, the field's grid looked up at the surface, so remeshing, decimation and unwrapping
lose none of it. Refinement minimises

    guidance(base colour, alpha, normals) + w_b mean over edges of (1 - n_f . n_g) + w_c TV(colour)

over the vertices, by large steps in rounds from coarse to fine (app/stages/rounds.py), and over the colour by Adam.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import Tensor

from app.errors import CollapseError
from app.optimize import Optimization, StepResult, adam
from app.recipes import MeshRecipe, RefineRecipe
from app.stages.reference import Anchor
from app.stages.rounds import Also, Now
from app.stages.views import VIEWS, camera_sets, guided
from guidance.method import Guidance
from guidance.prior import Prior
from guidance.schedule import LinearAnneal
from renderers.decimate import decimate
from renderers.fields import GridField, smoothness
from renderers.isosurface import density_to_mesh, keep_largest_components
from renderers.parts import clean


def extract(field: GridField, recipe: MeshRecipe) -> tuple[Tensor, Tensor]:
    """(vertices (V, 3), faces (F, 3)) of the field's surface, without floaters, decimated. CollapseError if there is
    none."""
    try:
        vertices, faces = density_to_mesh(field, resolution=recipe.resolution)
        vertices, faces, _ = clean(*keep_largest_components(vertices, faces, recipe.keep))
        return decimate(vertices, faces, recipe.faces)
    except ValueError as e:  # EmptyMeshError is one
        why = str(e).rstrip(".")
        raise CollapseError(f"The mesh is of no use: {why}. Try another --seed or more --field.steps.") from e


def start_color(field: GridField, recipe: RefineRecipe) -> tuple[GridField, Also]:
    """A copy of the field whose colour goes on learning, and that colour, under an Adam that outlives rounds."""
    solid = field.to(field.device)
    parameters = {"color": solid.raw_color.requires_grad_(True)}
    return solid, Also(parameters, (adam(parameters, {"color": recipe.rate_color}),))


def refine_step(
    now: Now,
    solid: GridField,
    state: Optimization,
    recipe: RefineRecipe,
    prior: Prior,
    method: Guidance,
    before: int = 0,
    blind: bool = False,
    anchor: Anchor | None = None,
) -> Callable[[int], StepResult]:
    """A round's `step(i)`, `before` of the refinement's steps done; the method's state joins the stage's. `blind`:
    frames are denoised one by one. `anchor`: what a picture wants of its view."""
    state.guidance = method
    policy = LinearAnneal(recipe.sigma_min, recipe.sigma_max)
    size = prior.frame_shape[-1]
    g, device = state.generators, solid.device

    def step(i: int) -> StepResult:
        done = before + i
        cameras = camera_sets(recipe.sets, g["camera"], device, method)
        start = time.perf_counter()
        surface = now()
        rendered = surface.render(cameras, size, solid.color_at)
        seconds = time.perf_counter() - start
        t = policy.draw(done, recipe.steps, recipe.sets, prior.schedule, g["time"]).repeat_interleave(VIEWS)
        smooth = recipe.weight_bend * surface.bending() + recipe.smooth_color * smoothness(solid.raw_color)
        if anchor is not None:
            mine = surface.render(anchor.cameras, size, solid.color_at)
            smooth = smooth + anchor.loss(mine, done / recipe.steps)
        return guided(method, cameras, rendered, t, done / recipe.steps, g["noise"], smooth, seconds, blind)

    return step

"""Distillation, whole: field -> mesh -> refinement, under guidance."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from app.candidates import Fused, Shape
from app.optimize import Optimization
from app.run.live import Look
from app.run.work import Work
from app.stages.field import field_of_mesh, field_step, start_field
from app.stages.mesh import extract, refine_step, start_color
from app.stages.reference import Anchor
from app.stages.rounds import Now, Step, finish, move, rounds_of
from app.stages.views import start_method
from renderers.cameras import Cameras, orbit
from renderers.fields import GridField
from renderers.frames import Rendered
from renderers.volume import render_field


def distil(
    job: Work,
    tag: str,
    seed: int,
    streams: dict[str, torch.Generator],
    fused: Fused | None = None,
) -> Shape:
    """Field -> mesh -> refinement, under guidance; from a grey ball, or from what direct made. Pictures without light
    then supervise their views."""
    recipe, prior, blind = job.recipe, job.prior, job.recipe.guide.blind_camera
    told, anchor = job.told(), None
    start, drawn = (None, None) if fused is None else (fused.shape, fused.drawn)
    if fused is not None and fused.target is not None and job.references is not None:
        anchor = Anchor(job.references.cameras, fused.target, recipe.picture)
    ball, r = None, recipe.field
    if start is not None:
        assert isinstance(start.color, Tensor)
        ball = field_of_mesh(start.vertices, start.faces, start.color, r.resolution)
        r = dataclasses.replace(r, sigma_max=min(r.sigma_max, r.sigma_init))
    grown, state = start_field(r, streams, job.device, ball)
    method = start_method(recipe, prior, r.scale, seed, told, r.scale, drawn)
    step = field_step(grown, state, r, prior, method, blind, anchor)
    size, samples = prior.frame_shape[-1], r.samples

    def seen(cameras: Cameras) -> Rendered:
        return render_field(grown, cameras, size, samples)

    job.loop(f"field{tag}", state, r.steps, step, seen, solid=False)

    finest = max(recipe.mesh.faces, recipe.refine.faces_fine if recipe.refine.steps else 0)  # decimated at the end
    job.pause("the mesh")
    with job.clock.part("mesh"):
        bar = job.progress.stage(f"mesh{tag}", 1)
        vertices, faces = extract(
            GridField(grown.raw_density.detach(), grown.raw_color.detach(), grown.density_scale),
            dataclasses.replace(recipe.mesh, faces=finest),
        )
        vertices, faces = vertices.to(job.device), faces.to(job.device)
        bar.update(1)
        bar.close()
    job.run.event("mesh", vertices=len(vertices), faces=len(faces))

    solid, color = start_color(grown, recipe.refine)
    if recipe.refine.steps:
        method = start_method(recipe, prior, recipe.refine.scale, seed, told, r.scale, drawn)
        rounds = rounds_of(recipe.refine, orbit(1).pixel(size))

        def step_of(now: Now, state: Optimization, k: int) -> Step:
            return refine_step(now, solid, state, recipe.refine, prior, method, rounds.before(k), blind, anchor)

        def look_of(now: Now) -> Look:
            return lambda cameras: now().render(cameras, size, solid.color_at)

        vertices, faces = move(job, "refine", tag, (vertices, faces), rounds, streams, step_of, look_of, color)
        vertices, faces = finish(vertices, faces, recipe.mesh)
    light = None if start is None else start.light
    return Shape(vertices, faces, solid.color_at, lambda p: solid.color_at(p).detach(), light=light)

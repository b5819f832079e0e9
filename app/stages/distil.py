"""Distillation, whole: field -> mesh -> refinement, under guidance."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from app.candidates import Fused, Shape
from app.run.work import Work
from app.stages.field import field_of_mesh, field_step, start_field
from app.stages.mesh import extract, refine_step, start_refine
from app.stages.reference import Anchor
from app.stages.views import start_method
from renderers.cameras import Cameras
from renderers.fields import GridField
from renderers.frames import Rendered
from renderers.mesh import render_mesh
from renderers.raster import make_context
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

    job.pause("the mesh")
    with job.clock.part("mesh"):
        bar = job.progress.stage(f"mesh{tag}", 1)
        vertices, faces = extract(
            GridField(grown.raw_density.detach(), grown.raw_color.detach(), grown.density_scale), recipe.mesh
        )
        vertices, faces = vertices.to(job.device), faces.to(job.device)
        bar.update(1)
        bar.close()
    job.run.event("mesh", vertices=len(vertices), faces=len(faces))

    solid, state = start_refine(vertices, grown, recipe.refine, streams)
    if recipe.refine.steps:
        method = start_method(recipe, prior, recipe.refine.scale, seed, told, r.scale, drawn)
        step = refine_step(vertices, faces, solid, state, recipe.refine, prior, method, blind, anchor)
        surface, offsets = vertices, state.parameters["offsets"]
        context = make_context(vertices.device)

        def look(cameras: Cameras) -> Rendered:
            return render_mesh(context, surface + offsets, faces, cameras, size, solid.color_at)

        job.loop(f"refine{tag}", state, recipe.refine.steps, step, look)
        vertices = (vertices + offsets).detach()
    light = None if start is None else start.light
    return Shape(vertices, faces, solid.color_at, lambda p: solid.color_at(p).detach(), light=light)

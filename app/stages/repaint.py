"""A mesh of one's own, painted: its geometry stays as it is.

Method direct: the mesh is rendered from the views, the prior's colours for these normals are sampled jointly
(guidance/paint.py) and projected onto the surface (app/stages/project.py); what no view sees takes colours spread from
what is seen. Any other method distils: a solid texture under guidance, the vertices at rest.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch
from torch import Tensor

from app.candidates import Own, Shape
from app.methods import DIRECT
from app.optimize import Optimization, StepResult
from app.own_mesh import Placed, dense, load, placed
from app.run.work import Work
from app.stages.field import nearest_colors, time_policy
from app.stages.project import make_projector, paint, vertex_colors
from app.stages.sample import OnStep, direct_cameras, sampling
from app.stages.views import VIEWS, camera_sets, guided, start_method
from guidance.paint import paint_frames
from renderers.cameras import Cameras
from renderers.fields import GridField, smoothness
from renderers.frames import Rendered
from renderers.mesh import render_mesh
from renderers.raster import antialias_construct_topology_hash, make_context

FULL = 1.0  # radius of what is painted: as the prior's training set
UNSURE = 3e-4  # weight of spread colours: a few corners far apart know less than a view at a grazing angle


def repaint(job: Work, tag: str, seed: int, streams: dict[str, torch.Generator]) -> Shape:
    """The run's mesh, with new colours: by direct, or distilled."""
    own = placed(load(job.run), FULL)
    for note in own.mesh.notes:
        job.progress.note(note)
    job.run.event("start mesh", vertices=len(own.vertices), faces=len(own.faces))
    own = dataclasses.replace(
        own, **{n: getattr(own, n).to(job.device) for n in ("vertices", "welded", "faces", "weld")}
    )
    shape = sampled(job, tag, own, streams) if job.recipe.method == DIRECT else distilled(job, tag, seed, own, streams)
    mesh = own.mesh
    return dataclasses.replace(shape, own=Own(mesh.vertices, mesh.normals, mesh.uv))


def look_at(own: Placed, cameras: Cameras, size: int, color: Any, supersample: int = 1) -> Rendered:
    """The mesh with its own normals, those of sheets turned towards the camera. `color` as render_mesh takes it."""
    faces, normals = own.mesh.faces.to(own.vertices.device), own.mesh.normals.to(own.vertices.device)
    topology = antialias_construct_topology_hash(own.faces)  # split vertices are no silhouettes
    context = make_context(own.vertices.device)
    return render_mesh(
        context, own.vertices, faces, cameras, size, color, topology, normals, supersample, two_sided=True
    )


def sampled(job: Work, tag: str, own: Placed, streams: dict[str, torch.Generator]) -> Shape:
    """Colours of the prior for the mesh's normals, projected."""
    r, size = job.recipe.direct, job.prior.frame_shape[-1]
    cameras = direct_cameras(r, job.device)
    given = look_at(own, cameras, size, torch.full_like(own.vertices, 0.5), supersample=2).frames().clamp(0, 1)
    noise = torch.randn((len(cameras), *job.prior.frame_shape), generator=streams["noise"]).to(job.device)

    def draw(on_step: OnStep) -> Tensor:
        angles, clean = (cameras.azimuth, cameras.elevation), job.recipe.texture.clean
        return paint_frames(
            job.prior, job.recipe.prompt, *angles, given, noise, r.steps, r.scale, clean, r.guide_above, on_step
        )

    frames, timings = sampling(job.run, f"sample{tag}", r.steps, draw, job.progress, job.stopped)
    frames = frames.to(job.device)
    job.loops.append(timings)
    with job.clock.part("project"):
        projector = make_projector(frames, cameras, own.welded, own.faces, r.sharpness, r.level)
        spread = vertex_colors(projector, own.welded, own.faces)[own.weld]
        attributes = torch.cat([own.mesh.normals.to(job.device), spread], 1)
        faces = own.mesh.faces.to(job.device)
        return Shape(own.vertices, faces, spread, lambda x: paint(projector, x, UNSURE), attributes)


def distilled(job: Work, tag: str, seed: int, own: Placed, streams: dict[str, torch.Generator]) -> Shape:
    """A solid texture under guidance, from the mesh's own colours where it has any: the field's numbers, no geometry
    that moves."""
    recipe, r = job.recipe, job.recipe.field
    if own.mesh.coloured:
        r = dataclasses.replace(r, sigma_max=min(r.sigma_max, r.sigma_init))
    points, _, colors = dense(own, 2 / r.resolution)
    raw = nearest_colors(points, colors, r.resolution).to(job.device).requires_grad_(True)
    solid = GridField(torch.zeros(raw.shape[:3], device=job.device), raw)
    state = Optimization({"color": raw}, {"color": r.rate_color}, streams)
    method = start_method(recipe, job.prior, r.scale, seed, job.told(), r.scale)
    state.guidance = method
    policy = time_policy(r.anneal, r.sigma_min, r.sigma_max)
    size, g = job.prior.frame_shape[-1], streams

    def step(i: int) -> StepResult:
        cameras = camera_sets(r.sets, g["camera"], job.device, method)
        start = time.perf_counter()
        rendered = look_at(own, cameras, size, solid.color_at)
        seconds = time.perf_counter() - start
        t = policy.draw(i, r.steps, r.sets, job.prior.schedule, g["time"]).repeat_interleave(VIEWS)
        smooth = r.smooth_color * smoothness(raw)
        blind = recipe.guide.blind_camera
        return guided(method, cameras, rendered, t, i / r.steps, g["noise"], smooth, seconds, blind)

    job.loop(f"paint{tag}", state, r.steps, step, lambda cameras: look_at(own, cameras, size, solid.color_at))
    faces = own.mesh.faces.to(job.device)
    return Shape(own.vertices, faces, solid.color_at, lambda p: solid.color_at(p).detach())

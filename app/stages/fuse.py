"""Direct, stage 2: sampled frames to a mesh. Visual hull -> marching cubes -> vertices fitted under the rasterizer.

    minimise  w_a mean |alpha - alpha*| + w_n mean |n - n*|_1 + w_b mean over edges of (1 - n_f . n_g)

over the vertices, by large steps in rounds from coarse to fine (app/stages/rounds.py).
alpha* and n* are the frames' alpha and alpha-weighted camera normals; n_f, n_g the normals of the faces at an
edge. Absolute differences, because views of a weak prior disagree: where they do, most of them win.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from app.errors import CollapseError
from app.optimize import StepResult
from app.recipes import DirectRecipe
from app.stages.rounds import Now
from renderers.cameras import Cameras
from renderers.fields import GridField
from renderers.frames import normals
from renderers.hull import carve
from renderers.isosurface import EmptyMeshError, density_to_mesh, keep_largest_components
from renderers.mesh import render_mesh
from renderers.raster import make_context

RELAXED = (0.0, 1.0, 2.0)  # pixels added to the margin
CLEARLY = 0.02
SURFACE = math.log(2)  # the density of a field whose raw density is 0


def level_set(values: Tensor) -> tuple[Tensor, Tensor]:
    """Marching cubes of the zero of values (R, R, R), positive inside. EmptyMeshError where nothing is positive."""
    no_color = torch.zeros((), dtype=values.dtype).expand(*values.shape, 3)
    return density_to_mesh(GridField(values, no_color), threshold=SURFACE)


@dataclass(frozen=True)
class Hull:
    """vertices (V, 3), faces (F, 3); the margin (pixels) and the number of outvoted views it was carved with, and the
    agreement of its silhouettes with the frames' (mean intersection over union)."""

    vertices: Tensor
    faces: Tensor
    margin: float
    outvoted: int
    agreement: float


def hull_mesh(frames: Tensor, cameras: Cameras, recipe: DirectRecipe, keep: float, sure: Sequence[int] = ()) -> Hull:
    """The frames' visual hull, on their device. `sure`: the views that are pictures. CollapseError if there is none.

    With `recipe.relax`, larger margins and outvoted views are tried too, and the hull whose silhouettes agree best
    with the frames' is kept: views that contradict each other carve each other's parts away. Each relaxation must earn
    CLEARLY more agreement than the stricter hulls before it.
    """
    margins = [recipe.margin + m for m in (RELAXED if recipe.relax else RELAXED[:1])]
    votes = range(recipe.outvoted, min(recipe.outvoted + 1 + recipe.relax, recipe.views))
    best: Hull | None = None
    for outvoted in votes:
        values = carve(frames[:, 3:4], cameras, recipe.hull, 0.0, outvoted, recipe.level, sure).cpu()
        for margin in margins:
            try:
                v, f = keep_largest_components(*level_set(values + margin), keep)
            except EmptyMeshError:
                continue
            v, f = v.to(frames.device), f.to(frames.device)
            agreement = silhouette_agreement(v, f, frames, cameras, recipe.level)
            if best is None or agreement > best.agreement + CLEARLY:
                best = Hull(v, f, margin, outvoted, agreement)
    if best is None:
        raise CollapseError(
            "The sampled views share no part of space: there is no hull. Try another --seed or prompt."
        )
    return best


@torch.no_grad()
def silhouette_agreement(
    vertices: Tensor, faces: Tensor, frames: Tensor, cameras: Cameras, level: float = 0.5
) -> float:
    """Mean over views of the intersection over union of the mesh's silhouette and the frames'; a view that shows
    nothing counts 0."""
    context, nothing = make_context(vertices.device), torch.zeros_like(vertices)
    mine = render_mesh(context, vertices, faces, cameras, frames.shape[-1], nothing).alpha > 0.5
    theirs = frames[:, 3:4] > level
    both, either = (x.flatten(1).sum(1) for x in (mine & theirs, mine | theirs))
    return float((both / either.clamp(min=1)).mean())


def fuse_step(
    now: Now,
    frames: Tensor,
    cameras: Cameras,
    recipe: DirectRecipe,
    weights: Tensor | None = None,
) -> Callable[[int], StepResult]:
    """A round's `step(i)`. `weights` (V,): how much each view counts, 1 on average."""
    alpha, normal = frames[:, 3:4], normals(frames)
    w = torch.ones(1, device=frames.device) if weights is None else weights
    w = w[:, None, None, None]

    def step(i: int) -> StepResult:
        start = time.perf_counter()
        surface = now()
        grey = torch.full_like(surface.vertices, 0.5)
        rendered = surface.render(cameras, frames.shape[-1], grey)
        seconds = time.perf_counter() - start
        off_alpha = (w * (rendered.alpha - alpha).abs()).mean()
        off_normal = (w * (rendered.normal - normal).abs().sum(1, keepdim=True)).mean()
        bend = surface.bending()
        loss = recipe.weight_alpha * off_alpha + recipe.weight_normal * off_normal + recipe.weight_bend * bend
        logs = {
            "alpha": float(off_alpha.detach()),
            "normal": float(off_normal.detach()),
            "bend": float(bend.detach()),
            "opacity": float(rendered.alpha.detach().mean()),
            "seconds_forward": seconds,
        }
        return StepResult(loss, rendered, frames, logs)

    return step

"""Direct, stage 2: sampled frames to a mesh. Visual hull -> marching cubes -> vertices fitted under the rasterizer.

    minimise  w_a mean |alpha - alpha*| + w_n mean |n - n*|_1 + w_b mean over edges of (1 - n_f . n_g)

over the vertices, by large steps (renderers/precondition.py), in rounds from coarse to fine: each remeshes first
(renderers/remesh.py), and the rates fall geometrically over all of them. A coarse mesh has no vertices to wrinkle
with. alpha* and n* are the frames' alpha and alpha-weighted camera normals; n_f, n_g the normals of the faces at an
edge. Absolute differences, because views of a weak prior disagree: where they do, most of them win.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from app.errors import CollapseError
from app.optimize import Optimization, StepResult
from app.recipes import DirectRecipe, MeshRecipe
from renderers.cameras import Cameras
from renderers.decimate import decimate
from renderers.fields import GridField
from renderers.frames import normals
from renderers.hull import carve
from renderers.isosurface import EmptyMeshError, density_to_mesh, keep_largest_components
from renderers.mesh import render_mesh
from renderers.parts import clean
from renderers.precondition import LargeSteps
from renderers.raster import Topology, antialias_construct_topology_hash, make_context

SHORTEST = 0.6
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


def neighbours(topology: Topology) -> tuple[Tensor, Tensor]:
    """The faces on both sides of every inner edge, each (E,) int64."""
    face = torch.arange(len(topology.neighbour), device=topology.neighbour.device)[:, None].expand(-1, 3)
    once = topology.neighbour > face
    return face[once], topology.neighbour[once]


def bending(vertices: Tensor, faces: Tensor, pairs: tuple[Tensor, Tensor]) -> Tensor:
    """Mean over inner edges of 1 - cosine between the normals at its sides, a differentiable scalar.

    index_select, because the backward pass of plain indexing adds in any order on several threads.
    """
    a, b, c = vertices.index_select(0, faces.long().T.reshape(-1)).reshape(3, -1, 3)
    normal = F.normalize(torch.linalg.cross(b - a, c - a), dim=1, eps=1e-12)
    one, other = (normal.index_select(0, p) for p in pairs)
    return 1 - (one * other).sum(1).mean()


def pixel_size(frames: Tensor, cameras: Cameras) -> float:
    """World units across a pixel at the origin."""
    return float(2 * cameras.distance[0] * torch.tan(cameras.fov[0] / 2)) / frames.shape[-1]


def round_length(vertices: Tensor, faces: Tensor, recipe: DirectRecipe, r: int, pixel: float) -> float:
    """Edge length of round r: as many equilateral triangles as the round has on the surface's area, but no edges
    shorter than SHORTEST of a pixel (world units)."""
    count = recipe.faces_coarse * (recipe.faces_fine / recipe.faces_coarse) ** (r / max(1, recipe.rounds - 1))
    a, b, c = (vertices[faces[:, i].long()] for i in range(3))
    area = float(torch.linalg.cross(b - a, c - a).norm(dim=1).sum()) / 2
    return max(math.sqrt(4 / math.sqrt(3) * area / count), SHORTEST * pixel)


def start_fuse(
    vertices: Tensor, faces: Tensor, recipe: DirectRecipe, generators: dict[str, torch.Generator]
) -> Optimization:
    """The hull's vertices as the one parameter, under large steps."""
    moved = vertices.clone().requires_grad_(True)
    optimizer = LargeSteps(moved, faces, recipe.rate, recipe.smoothness)
    return Optimization({"vertices": moved}, {"vertices": recipe.rate}, generators, optimizer=optimizer)


def fuse_step(
    faces: Tensor,
    frames: Tensor,
    cameras: Cameras,
    state: Optimization,
    recipe: DirectRecipe,
    r: int,
    weights: Tensor | None = None,
) -> Callable[[int], StepResult]:
    """`step(i)` of round r. `weights` (V,): how much each view counts, 1 on average."""
    vertices = state.parameters["vertices"]
    context = make_context(vertices.device)
    topology = antialias_construct_topology_hash(faces)
    pairs = neighbours(topology)
    grey = torch.full_like(vertices, 0.5)
    alpha, normal = frames[:, 3:4], normals(frames)
    w = torch.ones(1, device=vertices.device) if weights is None else weights
    w = w[:, None, None, None]

    def step(i: int) -> StepResult:
        fall = recipe.rate_end / recipe.rate
        progress = (r * recipe.fit + i) / max(1, recipe.rounds * recipe.fit - 1)
        state.adam.param_groups[0]["lr"] = recipe.rate * fall**progress
        start = time.perf_counter()
        rendered = render_mesh(context, vertices, faces, cameras, frames.shape[-1], grey, topology)
        seconds = time.perf_counter() - start
        off_alpha = (w * (rendered.alpha - alpha).abs()).mean()
        off_normal = (w * (rendered.normal - normal).abs().sum(1, keepdim=True)).mean()
        bend = bending(vertices, faces, pairs)
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


def finish(vertices: Tensor, faces: Tensor, recipe: MeshRecipe) -> tuple[Tensor, Tensor]:
    """The fitted mesh, decimated to `recipe.faces`. CollapseError where nothing is left."""
    try:
        v, f, _ = clean(*keep_largest_components(vertices, faces, recipe.keep))
        v, f = decimate(v, f, recipe.faces)
    except ValueError as e:  # EmptyMeshError is one
        raise CollapseError(f"The fused mesh is of no use: {str(e).rstrip('.')}. Try another --seed.") from e
    return v.to(vertices.device), f.to(vertices.device)

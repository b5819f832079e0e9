"""Vertices moved under the rasterizer in rounds, coarse to fine: what direct's fit and the refinement share.

Each round remeshes first (renderers/remesh.py), then takes large steps (renderers/precondition.py), whose rates fall
geometrically over all rounds. A coarse mesh has no vertices to wrinkle with; a fine one has them where detail is due.
By choice the surface is the zero of signed distances on a grid of tetrahedra instead (renderers/tetrahedra.py), whose
topology is free: each round takes the distances anew.
A round is a stage of its own, with its own checkpoint: a run that was killed in one does the remeshing before it
again, to the same mesh, and goes on.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from app.errors import CollapseError
from app.optimize import Optimization, StepResult
from app.recipes import DirectRecipe, MeshRecipe, RefineRecipe
from app.run.live import Look
from app.run.work import Work
from renderers.cameras import Cameras
from renderers.decimate import decimate
from renderers.distance import signed_distance
from renderers.frames import Rendered
from renderers.isosurface import keep_largest_components
from renderers.mesh import render_mesh
from renderers.parts import clean
from renderers.precondition import LargeSteps, over_grid, over_mesh
from renderers.raster import Topology, antialias_construct_topology_hash, make_context
from renderers.remesh import remesh
from renderers.tetrahedra import marching_tetrahedra, tet_grid

SHORTEST = 0.6
SHIFT = 0.45  # of a cell: how far a corner of tetrahedra goes
RECEDE = 0.1  # alpha a world unit along the ray

Step = Callable[[int], StepResult]


@dataclass(frozen=True)
class Rounds:
    """steps: of each round. coarse, fine: triangles of the first and the last. rate, rate_end: root mean square of the
    first and of the last steps (world units). smoothness: lambda of the preconditioner. pixel: its size (world units);
    edges get no shorter than SHORTEST of it. grid: vertices along each axis of a grid of tetrahedra, 0 for a mesh."""

    steps: tuple[int, ...]
    coarse: int
    fine: int
    rate: float
    rate_end: float
    smoothness: float
    pixel: float
    grid: int = 0

    def before(self, r: int) -> int:
        """Steps before round r."""
        return sum(self.steps[:r])

    def rate_at(self, step: int) -> float:
        """The rate of a step, counted over all rounds."""
        return self.rate * (self.rate_end / self.rate) ** (step / max(1, self.before(len(self.steps)) - 1))

    def length(self, vertices: Tensor, faces: Tensor, r: int) -> float:
        """Edge length of round r: as many equilateral triangles as the round has on the surface's area."""
        count = self.coarse * (self.fine / self.coarse) ** (r / max(1, len(self.steps) - 1))
        a, b, c = (vertices[faces[:, i].long()] for i in range(3))
        area = float(torch.linalg.cross(b - a, c - a).norm(dim=1).sum()) / 2
        return max(math.sqrt(4 / math.sqrt(3) * area / count), SHORTEST * self.pixel)


def rounds_of(recipe: DirectRecipe | RefineRecipe, pixel: float) -> Rounds:
    """The recipe's rounds; of fewer refinement steps than rounds, one each."""
    if isinstance(recipe, DirectRecipe):
        steps = (recipe.fit,) * recipe.rounds
    else:
        n = min(recipe.rounds, recipe.steps)
        steps = tuple(recipe.steps * (k + 1) // n - recipe.steps * k // n for k in range(n))
    grid = 0 if isinstance(recipe, DirectRecipe) or recipe.surface == "mesh" else recipe.grid
    same = recipe.faces_coarse, recipe.faces_fine, recipe.rate, recipe.rate_end, recipe.smoothness
    return Rounds(steps, *same, pixel, grid)


@dataclass(frozen=True)
class Also:
    """What moves beside the vertices, through all rounds: named parameters, and their optimizer."""

    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    optimizers: tuple[torch.optim.Optimizer, ...] = ()


@dataclass(frozen=True)
class Surface:
    """vertices (V, 3), with a graph; faces (F, 3); the faces' topology, and on both sides of every inner edge. recede:
    whether alpha's gradient also moves what it covers along the ray."""

    vertices: Tensor
    faces: Tensor
    topology: Topology
    pairs: tuple[Tensor, Tensor]
    recede: bool = False

    def bending(self) -> Tensor:
        return bending(self.vertices, self.faces, self.pairs)

    def render(self, cameras: Cameras, size: int, color: Tensor | Callable[[Tensor], Tensor]) -> Rendered:
        """Pictures of `size` pixels; color as render_mesh's."""
        context = make_context(self.vertices.device)
        seen = render_mesh(context, self.vertices, self.faces, cameras, size, color, self.topology)
        return receding(seen) if self.recede else seen


def surface_of(vertices: Tensor, faces: Tensor, recede: bool = False) -> Surface:
    topology = antialias_construct_topology_hash(faces)
    return Surface(vertices, faces, topology, neighbours(topology), recede)


def receding(seen: Rendered) -> Rendered:
    """The same picture, in which less alpha is also to be had by a surface further away, where it covers wholly.

    Silhouettes alone cannot bore: in the middle of a disc that should be a ring there is none. With this gradient the
    surface draws back from both sides until they meet.
    """
    covered = seen.alpha.detach() > 0.99
    away = torch.where(covered, seen.depth, 0)
    return dataclasses.replace(seen, alpha=seen.alpha + RECEDE * (away.detach() - away))


Now = Callable[[], Surface]


def start_round(
    vertices: Tensor,
    faces: Tensor,
    rounds: Rounds,
    r: int,
    generators: dict[str, torch.Generator],
    also: Also = Also(),
) -> tuple[Optimization, Now]:
    """Round r of a surface, and what it is now: its vertices remeshed, under large steps; or the corners of
    tetrahedra, likewise. `also` as it is."""
    if rounds.grid:
        corners, now = tetrahedra_of(vertices, faces, rounds.grid)
        parameters = {"corners": corners}
        first = LargeSteps(corners, over_grid(rounds.grid, rounds.smoothness), rounds.rate, sparse=True)
    else:
        vertices, faces = remesh(vertices, faces, rounds.length(vertices, faces, r))
        moved = vertices.detach().clone().requires_grad_(True)
        parameters, surface = {"vertices": moved}, surface_of(moved, faces)
        first = LargeSteps(moved, over_mesh(faces, len(moved), rounds.smoothness), rounds.rate)

        def now() -> Surface:
            return surface

    state = Optimization({**parameters, **also.parameters}, {}, generators, optimizers=(first, *also.optimizers))
    return state, now


def tetrahedra_of(vertices: Tensor, faces: Tensor, resolution: int) -> tuple[Tensor, Now]:
    """A closed mesh as corners of tetrahedra (R^3, 4), signed distances and shifts, and the surface that they make.

    Distances are clamped to a cell, so that no layer is harder to flip than another.
    """
    grid = tet_grid(resolution, vertices.device)
    distance = signed_distance(vertices, faces, resolution, band=1.0).reshape(-1, 1).to(vertices.device)
    corners = torch.cat([distance, torch.zeros_like(grid.points)], 1).requires_grad_(True)

    def now() -> Surface:
        points = grid.points + SHIFT * grid.cell * torch.tanh(corners[:, 1:] / grid.cell)
        try:
            v, f = marching_tetrahedra(grid, corners[:, 0], points)
        except ValueError as e:
            raise CollapseError(f"The surface vanished: {e}. Try another --seed or a lower --refine.rate.") from e
        return surface_of(v, f, recede=True)

    return corners, now


def move(
    job: Work,
    name: str,
    tag: str,
    surface: tuple[Tensor, Tensor],
    rounds: Rounds,
    generators: dict[str, torch.Generator],
    step_of: Callable[[Now, Optimization, int], Step],
    look_of: Callable[[Now], Look],
    also: Also = Also(),
) -> tuple[Tensor, Tensor]:
    """(vertices, faces) of `surface` after all rounds, the stages name1, name2, ... of the run.

    step_of(now, state, r): round r's `step(i)`, i from 0 in each. look_of(now): a live look at it.
    """
    vertices, faces = surface
    for r, steps in enumerate(rounds.steps):
        with job.clock.part("remesh"):
            state, now = start_round(vertices, faces, rounds, r, generators, also)
        step = falling(step_of(now, state, r), state, rounds, r)
        job.loop(f"{name}{r + 1}{tag}", state, steps, step, look_of(now))
        made = now()
        vertices, faces = made.vertices.detach(), made.faces
    return vertices, faces


def falling(step: Step, state: Optimization, rounds: Rounds, r: int) -> Step:
    """`step` of round r, at the vertices' rate of that step."""

    def timed(i: int) -> StepResult:
        for group in state.optimizers[0].param_groups:
            group["lr"] = rounds.rate_at(rounds.before(r) + i)
        return step(i)

    return timed


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


def finish(vertices: Tensor, faces: Tensor, recipe: MeshRecipe) -> tuple[Tensor, Tensor]:
    """The moved mesh without floaters, decimated to `recipe.faces`. CollapseError where nothing is left."""
    try:
        v, f = decimate(*clean(*keep_largest_components(vertices, faces, recipe.keep))[:2], recipe.faces)
    except ValueError as e:  # EmptyMeshError is one
        raise CollapseError(f"The fitted mesh is of no use: {str(e).rstrip('.')}. Try another --seed.") from e
    return v.to(vertices.device), f.to(vertices.device)

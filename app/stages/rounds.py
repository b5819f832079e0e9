"""Vertices moved under the rasterizer in rounds, coarse to fine: what direct's fit and the refinement share.

Each round remeshes first (renderers/remesh.py), then takes large steps (renderers/precondition.py), whose rates fall
geometrically over all rounds. A coarse mesh has no vertices to wrinkle with; a fine one has them where detail is due.
A round is a stage of its own, with its own checkpoint: a run that was killed in one does the remeshing before it
again, to the same mesh, and goes on.
"""

from __future__ import annotations

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
from renderers.isosurface import EmptyMeshError, decimate, keep_largest_components
from renderers.precondition import LargeSteps
from renderers.raster import Topology
from renderers.remesh import remesh

SHORTEST = 0.6

Step = Callable[[int], StepResult]


@dataclass(frozen=True)
class Rounds:
    """steps: of each round. coarse, fine: triangles of the first and the last. rate, rate_end: root mean square of the
    first and of the last steps (world units). smoothness: lambda of the preconditioner. pixel: its size (world units);
    edges get no shorter than SHORTEST of it."""

    steps: tuple[int, ...]
    coarse: int
    fine: int
    rate: float
    rate_end: float
    smoothness: float
    pixel: float

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
    same = recipe.faces_coarse, recipe.faces_fine, recipe.rate, recipe.rate_end, recipe.smoothness
    return Rounds(steps, *same, pixel)


@dataclass(frozen=True)
class Also:
    """What moves beside the vertices, through all rounds: named parameters, and their optimizer."""

    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    optimizers: tuple[torch.optim.Optimizer, ...] = ()


def start_round(
    vertices: Tensor,
    faces: Tensor,
    rounds: Rounds,
    generators: dict[str, torch.Generator],
    also: Also = Also(),
) -> Optimization:
    """The vertices (V, 3), as a parameter of that name, under large steps; `also` as it is."""
    moved = vertices.detach().clone().requires_grad_(True)
    steps = LargeSteps(moved, faces, rounds.rate, rounds.smoothness)
    return Optimization({"vertices": moved, **also.parameters}, {}, generators, optimizers=(steps, *also.optimizers))


def move(
    job: Work,
    name: str,
    tag: str,
    surface: tuple[Tensor, Tensor],
    rounds: Rounds,
    generators: dict[str, torch.Generator],
    step_of: Callable[[Tensor, Optimization, int], Step],
    look_of: Callable[[Tensor, Tensor], Look],
    also: Also = Also(),
) -> tuple[Tensor, Tensor]:
    """(vertices, faces) of `surface` after all rounds, the stages name1, name2, ... of the run.

    step_of(faces, state, r): round r's `step(i)`, i from 0 in each. look_of(vertices, faces): a live look at them.
    """
    vertices, faces = surface
    for r, steps in enumerate(rounds.steps):
        with job.clock.part("remesh"):
            vertices, faces = remesh(vertices, faces, rounds.length(vertices, faces, r))
        state = start_round(vertices, faces, rounds, generators, also)
        moved = state.parameters["vertices"]
        step = falling(step_of(faces, state, r), state, rounds, r)
        job.loop(f"{name}{r + 1}{tag}", state, steps, step, look_of(moved, faces))
        vertices = moved.detach()
    return vertices, faces


def falling(step: Step, state: Optimization, rounds: Rounds, r: int) -> Step:
    """`step` of round r, at the vertices' rate of that step."""
    (group,) = state.optimizers[0].param_groups

    def timed(i: int) -> StepResult:
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
        v, f = decimate(*keep_largest_components(vertices, faces, recipe.keep), recipe.faces)
    except EmptyMeshError as e:
        raise CollapseError(f"The mesh is empty after its vertices moved: {e}. Try another --seed.") from e
    return v.to(vertices.device), f.to(vertices.device)

"""Best of N: seeds, scores and the choice. Never looks at the evaluator.

Each candidate is ranked by fusion residual (direct only: how far the fused, coloured mesh is from the frames it was
fused from) and by the prior's own score of its renders (guidance/direct.py). The lowest sum of ranks wins; ties go to
the lower score, then to the earlier candidate.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from guidance.direct import joint_conditions, prior_score
from guidance.method import Drawn
from guidance.prior import Picture, Prior
from guidance.settings import VIEWS
from renderers.cameras import Cameras, orbit
from renderers.mesh import render_mesh
from renderers.raster import make_context

SCORE_ELEVATION = 15.0  # degrees


@dataclass(frozen=True)
class Own:
    """A shape that stands elsewhere than in the unit sphere: `vertices` (V, 3) in its own place and scale. normals
    (V, 3) and uv (V, 2) of the file, where they are kept."""

    vertices: Tensor
    normals: Tensor | None = None
    uv: Tensor | None = None


@dataclass(frozen=True)
class Shape:
    """A finished surface. vertices (V, 3), faces (F, 3). color: what render_mesh takes, (V, 3) or a function of
    points. texture: what app/export/bake.py takes, a colour function of points and `attributes` (V, K), or None."""

    vertices: Tensor
    faces: Tensor
    color: Tensor | Callable[[Tensor], Tensor]
    texture: Callable[[Tensor], Tensor]
    attributes: Tensor | None = None
    light: Tensor | None = None
    """(K, 1, S, S) in the pictures it was made from."""
    dense: tuple[Tensor, Tensor] | None = None
    """(vertices (V, 3), faces (F, 3)) from before decimation, for a normal map."""
    own: Own | None = None
    """Of a mesh of one's own: what of it is written."""

    @torch.no_grad()
    def frames(self, cameras: Cameras, size: int) -> Tensor:
        """(B, 7, size, size) as the prior sees it, supersampled twice."""
        context = make_context(self.vertices.device)
        rendered = render_mesh(context, self.vertices, self.faces, cameras, size, self.color, supersample=2)
        return rendered.frames().clamp(0, 1)


@dataclass(frozen=True)
class Fused:
    """What direct made: the shape, its fusion residual, what its frames were drawn from (None: a mesh of
    one's own) and, of pictures, their views
    without light (K, 7, S, S)."""

    shape: Shape
    residual: float
    drawn: Drawn | None
    target: Tensor | None = None


@dataclass(frozen=True)
class Candidate:
    """`residual` is None for methods without frames. `shape` is None where the candidate collapsed: `reason` says
    why."""

    seed: int
    shape: Shape | None = field(default=None, repr=False)
    residual: float | None = None
    score: float | None = None
    reason: str = ""


def candidate_seeds(seed: int, count: int) -> list[int]:
    """The run's seed, then others that follow from it."""
    digests = (hashlib.sha256(f"{seed}:candidate:{k}".encode()).digest() for k in range(1, count))
    return [seed, *(int.from_bytes(d[:8], "little") >> 1 for d in digests)]


def fusion_residual(shape: Shape, frames: Tensor, cameras: Cameras) -> float:
    """Mean absolute difference of the shape's renders and the frames (V, 7, H, W) it was fused from: colour, alpha
    and normals each weigh the same."""
    off = (shape.frames(cameras, frames.shape[-1]) - frames).abs()
    return float((off[:, :3].mean() + off[:, 3:4].mean() + off[:, 4:].mean()) / 3)


def own_score(prior: Prior, prompt: str, shape: Shape, seed: int, picture: Picture | None = None) -> float:
    """`prior_score` of four renders, 90 degrees apart from the front; the noise follows from `seed` alone. `picture`:
    what the prior is told of."""
    cameras = orbit(VIEWS, math.radians(SCORE_ELEVATION), device=shape.vertices.device)
    frames = shape.frames(cameras, prior.frame_shape[-1])
    conditions = joint_conditions(prior, prompt, cameras.azimuth, cameras.elevation, picture)
    return prior_score(prior, frames, conditions, torch.Generator().manual_seed(seed))


def choose(candidates: Sequence[Candidate]) -> int:
    """Index of the best one. ValueError if none has a shape."""
    alive = [i for i, c in enumerate(candidates) if c.shape is not None]
    if not alive:
        raise ValueError("no candidate has a shape")

    def ranks(values: Sequence[float | None]) -> dict[int, int]:
        order = sorted(alive, key=lambda i: (math.inf if values[i] is None else values[i], i))
        return {i: 0 if values[i] is None else rank for rank, i in enumerate(order)}

    residual = ranks([c.residual for c in candidates])
    score = ranks([c.score for c in candidates])
    return min(alive, key=lambda i: (residual[i] + score[i], score[i], i))

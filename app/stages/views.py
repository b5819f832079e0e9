"""What every guided stage shares: sets of cameras, a started method, the guidance of what they see."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from app.errors import UsageError
from app.methods import method_of
from app.optimize import StepResult
from app.recipes import Recipe
from guidance.method import Asked, Drawn, Guidance, Setup, Shown, UnfitMethod
from guidance.prior import Picture, Prior, Views, to_frames
from guidance.schedule import WEIGHTS
from guidance.settings import ELEVATIONS, VIEWS
from guidance.start import start
from renderers.cameras import Cameras, make_cameras, random_orbit
from renderers.frames import Rendered

RANGE = math.radians(ELEVATIONS[0]), math.radians(ELEVATIONS[1])


def asked(recipe: Recipe, picture: Picture | None = None) -> Asked:
    """What the recipe, and a picture, tell the prior."""
    g = recipe.guide
    return Asked(recipe.prompt, g.negative, g.blind_camera, g.view_words, picture)


def start_method(
    recipe: Recipe,
    prior: Prior,
    scale: float,
    seed: int,
    picture: Picture | None = None,
    run_scale: float | None = None,
    drawn: Drawn | None = None,
) -> Guidance:
    """The recipe's method, started with a stage's `scale`; the rest as in guidance/method.py's Setup. UsageError where
    it does not fit the prior."""
    g = recipe.guide
    shared = VIEWS if g.shared_noise else 1
    told, weight = asked(recipe, picture), WEIGHTS[g.weight]
    setup = Setup(prior, told, scale, g.cfg, weight, g.clip, g.clip_pixel, shared, seed, run_scale, drawn)
    try:
        return start(method_of(recipe.methods, recipe.method), setup)
    except UnfitMethod as e:
        raise UsageError(str(e)) from e


def camera_sets(
    sets: int, generator: torch.Generator, device: torch.device, method: Guidance | None = None
) -> Cameras:
    """`sets` x 4 cameras, each set 90 degrees apart from a random start at one random elevation, or where the method
    wants them."""
    parts = []
    for _ in range(sets):
        wanted = None if method is None else method.views(generator)
        parts.append(
            random_orbit(VIEWS, generator, RANGE) if wanted is None else make_cameras(wanted.azimuth, wanted.elevation)
        )
    joined = (torch.cat([getattr(p, name) for p in parts]) for name in ("azimuth", "elevation", "distance", "fov"))
    return Cameras(*joined).to(device)


def guided(
    method: Guidance,
    cameras: Cameras,
    rendered: Rendered,
    t: Tensor,
    progress: float,
    generator: torch.Generator,
    regulariser: Tensor,
    seconds: float,
    blind: bool = False,
) -> StepResult:
    """Guidance of rendered frames at time steps t (B,), plus `regulariser` (scalar); `seconds` the rendering took."""
    views = Views(cameras.azimuth, cameras.elevation, 1 if blind else VIEWS)
    out = method.step(Shown(rendered.frames(), views, t, progress), generator)
    logs = {
        "t": float(t.float().mean()),
        "gradient": float(out.gradient_norm.mean()),
        "opacity": float(rendered.alpha.detach().mean()),
        "seconds_forward": seconds,
    }
    return StepResult(out.loss + regulariser, rendered, to_frames(out.x0), logs | dict(out.logs))

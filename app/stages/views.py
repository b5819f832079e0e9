"""What every guided stage shares: sets of cameras, the prior's conditions for them, the guidance of what they see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from app.optimize import StepResult
from guidance.prior import Prior, Views
from guidance.sds import SDSStep
from renderers.cameras import Cameras, random_orbit
from renderers.frames import Rendered

VIEWS = 4  # of one object, 90 degrees apart: what the joint prior denoises together


def camera_sets(sets: int, generator: torch.Generator, device: torch.device) -> Cameras:
    """`sets` x 4 cameras, each set 90 degrees apart from a random start at one random elevation."""
    parts = [random_orbit(VIEWS, generator) for _ in range(sets)]
    joined = (torch.cat([getattr(p, name) for p in parts]) for name in ("azimuth", "elevation", "distance", "fov"))
    return Cameras(*joined).to(device)


def conditions(prior: Prior, prompt: str, cameras: Cameras) -> tuple[Any, Any]:
    """(conditional, unconditional) for joint frames seen from `cameras`."""
    views = Views(cameras.azimuth, cameras.elevation, VIEWS)
    return prior.condition(prompt, views), prior.condition("", views)


def guided(
    prior: Prior,
    prompt: str,
    guide: Callable[..., SDSStep],
    cameras: Cameras,
    rendered: Rendered,
    t: Tensor,
    generator: torch.Generator,
    scale: float,
    regulariser: Tensor,
    seconds: float,
) -> StepResult:
    """Guidance of rendered frames at time steps t (B,), plus `regulariser` (scalar); `seconds` the rendering took."""
    out = guide(prior, rendered.frames(), conditions(prior, prompt, cameras), t, generator, scale)
    logs = {
        "t": float(t.float().mean()),
        "gradient": float(out.gradient_norm.mean()),
        "opacity": float(rendered.alpha.detach().mean()),
        "seconds_forward": seconds,
    }
    return StepResult(out.loss + regulariser, rendered, (out.x0 * 0.5 + 0.5).clamp(0, 1), logs)

"""Stage 1: a radiance field grown from a grey ball. cameras -> ray marching -> guidance -> Adam on the grid."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from app.optimize import Optimization, StepResult
from app.recipes import FieldRecipe
from guidance.prior import Prior, Views
from guidance.schedule import LinearAnneal, SqrtAnneal, TimePolicy, Uniform
from guidance.sds import SDSStep
from renderers.cameras import Cameras, random_orbit
from renderers.fields import GridField, blob_field, smoothness
from renderers.volume import Occupancy, render_field, update_occupancy

VIEWS = 4  # of one object, 90 degrees apart: what the joint prior denoises together
OCCUPANCY_EVERY = 16


def time_policy(anneal: str, sigma_min: float, sigma_max: float) -> TimePolicy:
    kinds: dict[str, Callable[[float, float], TimePolicy]] = {
        "uniform": Uniform,
        "linear": LinearAnneal,
        "sqrt": SqrtAnneal,
    }
    return kinds[anneal](sigma_min, sigma_max)


def camera_sets(sets: int, generator: torch.Generator, device: torch.device) -> Cameras:
    """`sets` x 4 cameras, each set 90 degrees apart from a random start at one random elevation."""
    parts = [random_orbit(VIEWS, generator) for _ in range(sets)]
    joined = (torch.cat([getattr(p, name) for p in parts]) for name in ("azimuth", "elevation", "distance", "fov"))
    return Cameras(*joined).to(device)


def conditions(prior: Prior, prompt: str, cameras: Cameras) -> tuple[Any, Any]:
    """(conditional, unconditional) for joint frames seen from `cameras`."""
    views = Views(cameras.azimuth, cameras.elevation, VIEWS)
    return prior.condition(prompt, views), prior.condition("", views)


def start_field(
    recipe: FieldRecipe, generators: dict[str, torch.Generator], device: torch.device
) -> tuple[GridField, Optimization]:
    """The grey ball, its optimiser and generators."""
    field = blob_field(
        generators["init"],
        recipe.resolution,
        blob_density=recipe.blob_density,
        blob_radius=recipe.blob_radius,
        device=device,
    )
    parameters = {"density": field.raw_density, "color": field.raw_color}
    rates = {"density": recipe.rate_density, "color": recipe.rate_color}
    return field, Optimization(parameters, rates, generators)


def field_step(
    field: GridField,
    state: Optimization,
    recipe: FieldRecipe,
    prior: Prior,
    prompt: str,
    guide: Callable[..., SDSStep],
) -> Callable[[int], StepResult]:
    """The stage's `step(i)`."""
    policy = time_policy(recipe.anneal, recipe.sigma_min, recipe.sigma_max)
    size = prior.frame_shape[-1]
    g = state.generators

    def step(i: int) -> StepResult:
        cameras = camera_sets(recipe.sets, g["camera"], field.device)
        if i % OCCUPANCY_EVERY == 0:
            state.extra["occupancy"] = update_occupancy(field).cells
        jitter = torch.rand(len(cameras), size, size, generator=g["jitter"]).to(field.device)
        start = time.perf_counter()
        occupancy = Occupancy(state.extra["occupancy"].to(field.device))
        rendered = render_field(field, cameras, size, recipe.samples, jitter, occupancy)
        seconds = time.perf_counter() - start
        t = policy.draw(i, recipe.steps, recipe.sets, prior.schedule, g["time"]).repeat_interleave(VIEWS)
        out = guide(prior, rendered.frames(), conditions(prior, prompt, cameras), t, g["noise"], recipe.scale)
        loss = (
            out.loss
            + recipe.smooth_density * smoothness(field.raw_density)
            + recipe.smooth_color * smoothness(field.raw_color)
        )
        logs = {
            "t": float(t.float().mean()),
            "gradient": float(out.gradient_norm.mean()),
            "opacity": float(rendered.alpha.detach().mean()),
            "seconds_forward": seconds,
        }
        return StepResult(loss, rendered, (out.x0 * 0.5 + 0.5).clamp(0, 1), logs)

    return step

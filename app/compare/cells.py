"""One cell of a comparison: a method on a prompt with a seed. Frames to measure, pictures to look at, what it cost.

    image   four frames' pixels x in [0, 1], from the same rendered grey ball, under guidance alone: Adam on x
    3d      a whole draft up to its texture (app/pipeline.py), in a run folder that `polymode generate` can repeat
    ddim    the prior's own joint sample with the direct method's numbers: the ceiling of both

Features are taken of four frames. In space 3d they look from cameras that no method works on (33.75 degrees away from
the front, 25 upwards; DSD's and direct's stand at multiples of 22.5, at -5, 15 and 35): a mesh that is right from
where it was fused must not count as right.

A cell is one safetensors file; finished ones are not made again.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from safetensors.torch import save_file
from torch import Tensor

from app.candidates import Shape
from app.compare.options import DDIM, Compare, ImageRecipe
from app.errors import CollapseError
from app.evaluate.network import light_frames
from app.evaluate.prior import Sampling, sample_at
from app.evaluate.views import own_cameras, unit
from app.pipeline import candidate
from app.recipe_yaml import to_yaml
from app.recipes import FieldRecipe, Recipe
from app.run.folder import Run, atomic, generators, slug
from app.run.progress import Progress
from app.run.work import Clock, Work, choose_device
from app.stages.field import time_policy
from app.stages.views import VIEWS, start_method
from guidance.bank import sample_bank
from guidance.direct import to_frames
from guidance.method import Asked, Guidance, Shown
from guidance.prior import Views
from guidance.priors.embedded import EmbeddedPrior
from guidance.tensors import read_tensors
from renderers.cameras import make_cameras, orbit
from renderers.fields import blob_field
from renderers.volume import render_field

REFERENCE = 1000  # seed of the reference samples
NOISE = 0.02  # of the first pixels
TURNED, ELEVATION = 33.75, 25.0  # degrees: the cameras of features in space 3d
TURN = 16


@dataclass(frozen=True)
class Made:
    """What a cell file holds. frames (4, 7, 64, 64) seen from `feature_views`; `judged`, the evaluator's twelve views
    (3d only); `turntable` (N, 3, S, S); `facts`: frame_forwards, seconds, collapsed (reason or None), turned (degrees
    by which the frames' cameras are away from the front)."""

    frames: Tensor | None
    judged: Tensor | None
    turntable: Tensor | None
    facts: dict[str, Any]


def file_name(row: str) -> str:
    """A row's name for files: another for another row."""
    return quote(row.replace(":", "+"), safe="+=")


def folder_name(prompt: str) -> str:
    """A prompt's name for folders: another for another prompt, also where only the first forty letters are shown."""
    name = slug(prompt)
    digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return name if name.replace("-", " ") == prompt else f"{name}-{digest}"


def cell_path(out: Path, prompt: str, row: str, seed: int) -> Path:
    return out / "cells" / folder_name(prompt) / f"{file_name(row)}-{seed}.safetensors"


def save_made(path: Path, made: Made) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = {"frames": made.frames, "judged": made.judged, "turntable": made.turntable}
    tensors = {
        k: (v.clamp(0, 1) * 255).round().to(torch.uint8).contiguous() for k, v in parts.items() if v is not None
    }
    with atomic(path) as temporary:
        save_file(tensors or {"none": torch.zeros(1)}, temporary, metadata={"facts": json.dumps(made.facts)})


def load_made(path: Path) -> Made:
    stored, metadata = read_tensors(path)
    tensors, facts = {k: v.float() / 255 for k, v in stored.items()}, json.loads(metadata["facts"])
    return Made(tensors.get("frames"), tensors.get("judged"), tensors.get("turntable"), facts)


def frame_views(elevation: float, blind: bool, turned: float = 0.0) -> Views:
    """Four frames, 90 degrees apart, `turned` degrees away from the front."""
    azimuth = math.radians(turned) + torch.arange(VIEWS) * (2 * math.pi / VIEWS)
    return Views(azimuth, torch.full_like(azimuth, math.radians(elevation)), 1 if blind else VIEWS)


def feature_views(a: Compare) -> Views:
    """Where the frames look from whose features are compared."""
    return frame_views(a.direct.elevation, False) if a.space == "image" else frame_views(ELEVATION, False, TURNED)


@torch.no_grad()
def ball_frames(recipe: FieldRecipe, views: Views, size: int, generator: torch.Generator) -> Tensor:
    """(V, 7, size, size): the grey ball of space 3d, seen from `views`."""
    field = blob_field(generator, recipe.resolution, blob_density=recipe.blob_density, blob_radius=recipe.blob_radius)
    return render_field(field, make_cameras(views.azimuth, views.elevation), size, recipe.samples).frames().clamp(0, 1)


def pixels(
    recipe: Recipe, image: ImageRecipe, prior: EmbeddedPrior, method: Guidance
) -> tuple[Tensor, dict[str, float]]:
    """Frames (4, 7, 64, 64) in [0, 1] after `image.steps` steps of a started method, and its last logs."""
    streams = generators(recipe.seed)
    views = frame_views(image.elevation, recipe.guide.blind_camera)
    policy = time_policy(image.anneal, image.sigma_min, image.sigma_max)
    start = ball_frames(recipe.field, views, prior.frame_shape[-1], streams["init"])
    start = (start + NOISE * torch.randn(start.shape, generator=streams["init"])).clamp(0, 1)
    x = start.to(prior.device).requires_grad_(True)
    adam = torch.optim.Adam([x], lr=image.rate, betas=(0.9, 0.99), eps=1e-15)
    logs: dict[str, float] = {}
    for i in range(image.steps):
        t = policy.draw(i, image.steps, 1, prior.schedule, streams["time"]).repeat_interleave(VIEWS)
        out = method.step(Shown(x, views, t, i / image.steps), streams["noise"])
        adam.zero_grad(set_to_none=True)
        out.loss.backward()
        if x.grad is None or not bool(torch.isfinite(x.grad).all()):
            raise CollapseError(f"{recipe.method} produced NaN at step {i}.")
        adam.step()
        with torch.no_grad():
            x.clamp_(0, 1)  # outside there are no pictures: a prior says nothing of use there
        logs = dict(out.logs)
    return x.detach().cpu(), logs


def make_cell(a: Compare, prompt: str, row: str, seed: int, prior: EmbeddedPrior) -> Made:
    """One cell from the beginning (3d: from its run folder's checkpoints)."""
    forwards, clock = prior.usage.frame_forwards, Clock()
    frames = judged = turntable = None
    reason: str | None = None
    extra: dict[str, Any] = {}
    try:
        if row == DDIM:
            d, v = a.direct, feature_views(a)
            how = Sampling(VIEWS, d.steps, d.scale, d.guide_above)
            frames = sample_at(prior, prompt, v.azimuth, v.elevation, how, seed)
        elif a.space == "image":
            recipe = a.recipe(prompt, row, seed)
            started = start_method(recipe, prior, a.image.scale, seed)
            frames, logs = pixels(recipe, a.image, prior, started)
            extra = {"logs": logs}
        else:
            frames, judged, turntable = grow(a, prompt, row, seed, prior, clock)
    except CollapseError as e:
        reason = str(e)
    facts = {
        "frame_forwards": prior.usage.frame_forwards - forwards,
        "seconds": round(clock.total(), 3),
        "collapsed": reason,
        "turned": 0.0 if a.space == "image" else TURNED,
        **extra,
    }
    return Made(frames, judged, turntable, facts)


def grow(
    a: Compare, prompt: str, row: str, seed: int, prior: EmbeddedPrior, clock: Clock
) -> tuple[Tensor, Tensor, Tensor]:
    """A draft's surface, as frames of `feature_views`, of the evaluator's cameras, and as a turntable of colour."""
    recipe = a.recipe(prompt, row, seed)
    run = Run(a.out / "runs" / folder_name(prompt) / f"{file_name(row)}-{seed}")
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    run.previews.mkdir(exist_ok=True)
    run.write_text("config.yaml", to_yaml(recipe))
    job = Work(recipe, run, Progress(quiet=True), clock, lambda: False, prior, choose_device(recipe.device))
    shape = candidate(job, 0, seed).shape
    assert shape is not None
    shutil.rmtree(run.checkpoints)  # the cell's file replaces them; config.yaml repeats the run
    run.checkpoints.mkdir()
    views = feature_views(a)
    cameras = make_cameras(views.azimuth, views.elevation).to(job.device)
    frames = shape.frames(cameras, prior.frame_shape[-1]).cpu()
    turntable = light_frames(shape.frames(orbit(TURN, math.radians(15), device=job.device), prior.frame_shape[-1]))[
        :, :3
    ].cpu()
    # moved to the unit sphere for the evaluator; a colour that is a function of points is asked before the move
    color = shape.color if isinstance(shape.color, Tensor) else shape.texture(shape.vertices)
    centred = Shape(unit(shape.vertices), shape.faces, color, shape.texture)
    return frames, centred.frames(own_cameras().to(job.device), prior.frame_shape[-1]).cpu(), turntable


def reference_frames(a: Compare, prompt: str, prior: EmbeddedPrior) -> Tensor:
    """(reference * 4, 7, 64, 64): the prompt's bank, samples that are in no row of the table."""
    d, one = a.direct, feature_views(a)
    azimuth, elevation = (x.repeat(a.reference).to(prior.device) for x in (one.azimuth, one.elevation))
    views = Views(azimuth, elevation, VIEWS)
    generator = torch.Generator().manual_seed(REFERENCE)
    return to_frames(sample_bank(prior, Asked(prompt), views, generator, d.steps, d.scale, d.guide_above)).cpu()

"""Multi-view consistency of the prior: fuse four of its frames, re-render, compare with the fifth that it sampled.

Five frames are sampled jointly: azimuths 0, 90, 180 and 270 degrees, and 45. The direct path fuses the four; its mesh
is rendered from 45 degrees and held against the fifth. Two controls say what the numbers are worth: the fused mesh
against the fifth frame of another prompt (no better than that is no consistency), and, with the training pack, the
same from exact renders of held-out objects (what fusing four views costs by itself).
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from app.candidates import Shape
from app.errors import CollapseError
from app.evaluate.prior import Sampling, sample_at
from app.evaluate.statistics import mean_interval, psnr
from app.pipeline import fuse
from app.recipes import Recipe
from app.run.folder import create_run, generators
from app.run.progress import Progress
from app.run.work import Clock, Work
from guidance.priors.embedded import EmbeddedPrior
from renderers.cameras import Cameras, make_cameras

AZIMUTHS = tuple(math.radians(d) for d in (0, 90, 180, 270, 45))


def five_cameras(elevation: float) -> Cameras:
    """The four, then the fifth; `elevation` in degrees."""
    return make_cameras(torch.tensor(AZIMUTHS), torch.tensor([math.radians(elevation)]))


def fuse_four(prior: EmbeddedPrior, frames: Tensor, cameras: Cameras) -> Shape:
    """The direct path's mesh of the first four of frames (5, 7, S, S). CollapseError where they have no hull."""
    recipe = Recipe("consistency", method="direct")
    with tempfile.TemporaryDirectory() as folder:
        run = create_run(recipe, Path(folder) / "run")
        job = Work(recipe, run, Progress(quiet=True), Clock(), lambda: False, prior, torch.device("cpu"))
        return fuse(job, "", frames[:4], cameras[:4], generators(0))


def compare(render: Tensor, frame: Tensor) -> dict[str, float]:
    """A render (7, S, S) against a frame: PSNR of base colour on mid-grey, intersection over union of silhouettes,
    mean absolute difference of normals in [-1, 1] where both are opaque (nan where nothing is)."""
    a, b = render[3] > 0.5, frame[3] > 0.5
    both = a & b
    normals = 2 * (render[4:] - frame[4:]).abs().mean(0)
    return {
        "PSNR": float(psnr(render[None, :3], frame[None, :3])),
        "IoU": float(both.sum() / (a | b).sum().clamp(min=1)),
        "normals": float(normals[both].mean()),
    }


def summarise(rows: list[dict[str, float]]) -> dict[str, Any]:
    return {k: mean_interval([r[k] for r in rows if math.isfinite(r[k])]) for k in rows[0]} if rows else {}


def fifth_views(
    prior: EmbeddedPrior, prompts: list[str], how: Sampling, seed: int, real: list[Tensor]
) -> tuple[dict[str, Any], list[Tensor]]:
    """Means with intervals over `prompts`, over `real` exact frames (5, 7, S, S), and over mismatched pairs; prompts
    without a hull are counted. Pictures: for each prompt five frames and the re-rendered fifth (6, 7, S, S)."""
    cameras = five_cameras(how.elevation)
    renders, fifths, pictures, collapsed = [], [], [], 0
    for prompt in prompts:
        frames = sample_at(prior, prompt, cameras.azimuth, cameras.elevation, how, seed)
        try:
            shape = fuse_four(prior, frames, cameras)
        except CollapseError:
            collapsed += 1
            continue
        renders.append(shape.frames(cameras[4:], frames.shape[-1])[0])
        fifths.append(frames[4])
        pictures.append(torch.cat([frames, renders[-1][None]]))
    exact = [compare(fuse_four(prior, f, cameras).frames(cameras[4:], f.shape[-1])[0], f[4]) for f in real]
    return {
        "prompts": len(prompts),
        "without a hull": collapsed,
        "own fifth": summarise([compare(r, f) for r, f in zip(renders, fifths, strict=True)]),
        "another's fifth": summarise(
            [compare(r, f) for r, f in zip(renders, fifths[1:] + fifths[:1], strict=True)] if len(renders) > 1 else []
        ),
        "exact renders": summarise(exact),
    }, pictures

"""Novel views from one picture, on held-out families of the prior's own split (users do not have the data).

A photograph-like picture of an object from a random side; the prior samples four views, 45, 135, 225 and 315 degrees
from it, told nothing else. PSNR and SSIM of their base colour on mid-grey against the truth, averaged over an object's
views. Beside them two answers that need no prior: the unlit truth of the picture's own view repeated, and mid-grey.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from app.evaluate.statistics import mean_interval, psnr, ssim
from app.evaluate.views import coloured_frames
from app.training.data import Pack, split_families
from app.training.photograph import photograph
from guidance.prior import Picture, Views
from guidance.priors.embedded import EmbeddedPrior
from guidance.sample import ddim_sample
from guidance.settings import PICTURE_ELEVATIONS
from renderers.cameras import make_cameras

LOW, HIGH = (math.radians(e) for e in PICTURE_ELEVATIONS)
RELATIVE = tuple(math.radians(d) for d in (45, 135, 225, 315))


def novel_views(
    prior: EmbeddedPrior, pack: Pack, count: int = 40, seed: int = 0, steps: int = 20, scale: float = 2.0
) -> tuple[dict[str, Any], list[Tensor]]:
    """Means with intervals over `count` objects, and for each object (9, 7, S, S): picture, four sampled, four true
    views."""
    held_out = split_families(pack.rows)[1]
    generator = torch.Generator().manual_seed(seed)
    values: dict[str, list[float]] = {}
    pictures = []
    for k in range(count):
        index = held_out[k * len(held_out) // count]
        u = torch.rand(2, generator=generator)
        azimuth = 2 * math.pi * u[0] + torch.tensor((0.0, *RELATIVE))
        elevation = (LOW + (HIGH - LOW) * u[1]).expand(5)
        true = coloured_frames(pack.mesh(index), make_cameras(azimuth, elevation))
        picture = photograph(true[:1], generator)
        views = Views(azimuth[1:], elevation[1:], len(RELATIVE))
        conditions = (
            prior.condition("", views, Picture(picture, azimuth[:1], elevation[:1])),
            prior.condition("", views),
        )
        noise = torch.randn(len(RELATIVE), *prior.frame_shape, generator=generator)
        sampled = prior.decode(ddim_sample(prior, conditions, noise.to(prior.device), steps, scale)).cpu()
        answers = {
            "prior": sampled,
            "same view": true[:1].expand(4, -1, -1, -1),
            "grey": torch.full_like(sampled, 0.5),
        }
        for name, answer in answers.items():
            values.setdefault(f"{name} PSNR", []).append(float(psnr(answer[:, :3], true[1:, :3]).mean()))
            values.setdefault(f"{name} SSIM", []).append(float(ssim(answer[:, :3], true[1:, :3]).mean()))
        pictures.append(torch.cat([picture, sampled, true[1:]]))
    return {name: mean_interval(v) for name, v in values.items()} | {"objects": count}, pictures

"""Samples of the prior itself for a list of prompts: joint frames by DDIM, as the evaluator's material.

Each prompt has noise of its own from (seed, prompt): the samples of one prompt do not depend on which others are
asked.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from guidance.prior import Views
from guidance.priors.embedded import EmbeddedPrior
from guidance.sample import ddim_sample


@dataclass(frozen=True)
class Sampling:
    """How frames are sampled: `views` of one object jointly, 360/views degrees apart, elevation in degrees."""

    views: int = 4
    steps: int = 12
    scale: float = 5.0
    guide_above: float = 3.0
    elevation: float = 15.0


def prompt_noise(prior: EmbeddedPrior, prompt: str, views: int, seed: int) -> Tensor:
    """(views, 7, 64, 64) standard normal, the same for one prompt and seed everywhere."""
    digest = hashlib.sha256(f"{seed}:evaluate:{prompt}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(views, *prior.frame_shape, generator=generator)


def sample_prompt(prior: EmbeddedPrior, prompt: str, how: Sampling, seed: int) -> tuple[Tensor, Tensor]:
    """Frames (V, 7, 64, 64) in [0, 1] on the CPU, and their azimuths (V,) in radians."""
    azimuth = torch.arange(how.views) * (2 * math.pi / how.views)
    elevation = torch.full_like(azimuth, math.radians(how.elevation))
    views = Views(azimuth, elevation, how.views)
    noise = prompt_noise(prior, prompt, how.views, seed).to(prior.device)
    conditions = (prior.condition(prompt, views), prior.condition("", views))
    x0 = ddim_sample(prior, conditions, noise, how.steps, how.scale, guide_above=how.guide_above)
    return prior.decode(x0).cpu(), azimuth

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

from app.recipes import DirectRecipe
from guidance.direct import sample_frames
from guidance.priors.embedded import EmbeddedPrior
from guidance.settings import VIEWS


@dataclass(frozen=True)
class Sampling:
    """How frames are sampled: `views` of one object jointly, 360/views degrees apart, elevation in degrees. As direct
    does where nothing else is said."""

    views: int = VIEWS
    steps: int = DirectRecipe.steps
    scale: float = DirectRecipe.scale
    guide_above: float = DirectRecipe.guide_above
    elevation: float = DirectRecipe.elevation


def prompt_noise(prior: EmbeddedPrior, prompt: str, views: int, seed: int) -> Tensor:
    """(views, 7, 64, 64) standard normal, the same for one prompt and seed everywhere."""
    digest = hashlib.sha256(f"{seed}:evaluate:{prompt}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(views, *prior.frame_shape, generator=generator)


def sample_prompt(prior: EmbeddedPrior, prompt: str, how: Sampling, seed: int) -> tuple[Tensor, Tensor]:
    """Frames (V, 7, 64, 64) in [0, 1] on the CPU, and their azimuths (V,) in radians."""
    azimuth = torch.arange(how.views) * (2 * math.pi / how.views)
    elevation = torch.full_like(azimuth, math.radians(how.elevation))
    return sample_at(prior, prompt, azimuth, elevation, how, seed), azimuth


def sample_at(
    prior: EmbeddedPrior, prompt: str, azimuth: Tensor, elevation: Tensor, how: Sampling, seed: int
) -> Tensor:
    """Frames (V, 7, 64, 64) in [0, 1] on the CPU, jointly from V azimuths and elevations in radians."""
    noise = prompt_noise(prior, prompt, len(azimuth), seed).to(prior.device)
    frames = sample_frames(prior, prompt, azimuth, elevation, noise, how.steps, how.scale, guide_above=how.guide_above)
    return frames.cpu()

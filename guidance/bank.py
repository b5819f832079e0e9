"""The prompt's bank: joint samples of the prior, the "real" pictures of f-distill's discriminator (and of CAD's)."""

from __future__ import annotations

import torch
from torch import Tensor

from guidance.method import Asked
from guidance.prior import Prior, Views
from guidance.sample import ddim_sample
from guidance.settings import GUIDE_ABOVE, SCALE, STEPS


def sample_bank(
    prior: Prior,
    asked: Asked,
    views: Views,
    generator: torch.Generator,
    steps: int = STEPS,
    scale: float = SCALE,
    guide_above: float = GUIDE_ABOVE,
) -> Tensor:
    """One sample a frame of `views`, jointly for each object (one by one where the prior is blind): x0 (B, C, H, W)
    in the prior's own space. DDIM with the direct method's numbers."""
    shape = (len(views.azimuth), *prior.frame_shape)
    noise = torch.randn(shape, generator=generator).to(views.azimuth.device)
    return ddim_sample(prior, asked.pair(prior, views), noise, steps, scale, guide_above=guide_above)

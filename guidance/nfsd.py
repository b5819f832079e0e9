"""Noise-free score distillation, NFSD (2310.17590).

    e_cfg = e_u + s dC,   dC = e_c - e_u,   e_u = dD + dN    (domain correction and noise)

    g = w(t) (dD + s dC),   dD = e_u                  where sigma < threshold (almost no noise left in e_u)
                            dD = e_u - e_negative     elsewhere: the negative prompt's prediction has the same noise

Below the threshold its mean is SDS'; only "- eps" is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from guidance.method import Evidence, Guidance, OneNoise, Setup

UGLY = "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, gloomy"


def nfsd(scale: float, sigma_noisy: float) -> Callable[[Evidence], Tensor]:
    """The estimator, before w(t); `scale` is Form A's."""

    def estimator(e: Evidence) -> Tensor:
        assert e.negative is not None
        noisy = e.schedule.sigma(e.t) >= sigma_noisy
        domain = torch.where(noisy, e.uncond.eps - e.negative.eps, e.uncond.eps)
        return domain + scale * (e.cond.eps - e.uncond.eps)

    return estimator


@dataclass(frozen=True)
class NFSD:
    """Noise-free score distillation. Without a negative prompt it takes words for bad quality."""

    sigma_noisy: float = 1.2
    """Noise level sigma from which the negative prompt's prediction is subtracted (the paper's t = 200 is 0.572 of
    Stable Diffusion's: far too late for frames of 64 pixels)."""

    def start(self, setup: Setup) -> Guidance:
        return OneNoise(setup, nfsd(setup.scale, self.sigma_noisy), setup.asked.negative or UGLY)

"""Noise-free score distillation, NFSD (2310.17590).

    e_cfg = e_u + s dC,   dC = e_c - e_u,   e_u = dD + dN    (domain correction and noise)

    g = w(t) (dD + s dC),   dD = e_u                  where sigma < threshold (almost no noise left in e_u)
                            dD = e_u - e_negative     elsewhere: the negative prompt's prediction has the same noise

Below the threshold its mean is SDS'; only "- eps" is dropped.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from guidance.method import Evidence, Guidance, OneNoise, Setup
from guidance.settings import NFSD

UGLY = "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, gloomy"


def nfsd(scale: float, sigma_noisy: float) -> Callable[[Evidence], Tensor]:
    """The estimator, before w(t); `scale` is Form A's."""

    def estimator(e: Evidence) -> Tensor:
        assert e.negative is not None
        noisy = e.schedule.sigma(e.t) >= sigma_noisy
        domain = torch.where(noisy, e.uncond.eps - e.negative.eps, e.uncond.eps)
        return domain + scale * (e.cond.eps - e.uncond.eps)

    return estimator


def start(setup: Setup, options: NFSD) -> Guidance:
    return OneNoise(setup, nfsd(setup.scale, options.sigma_noisy), setup.asked.negative or UGLY)

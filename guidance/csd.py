"""Classifier score distillation, CSD (2310.19415): the classifier's part of SDS alone.

    g = w(t) (e_c - e_u),   or with a negative prompt   w(t) [ w1 (e_c - e_u) + w2 (e_u - e_neg) ]

It is the limit of SDS at infinite scale, divided by it. Between Gaussians of equal width it is a constant drift
without a fixed point: it needs annealed time steps.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from guidance.method import Estimator, Evidence, Guidance, OneNoise, Setup
from guidance.settings import CSD


def csd(e: Evidence) -> Tensor:
    """g (B, C, H, W) before w(t): e_c - e_u."""
    return e.cond.eps - e.uncond.eps


def csd_negative(w1: float, w2: float) -> Callable[[Evidence], Tensor]:
    """The estimator with a negative prompt: w1 (e_c - e_u) + w2 (e_u - e_neg). The coefficients sum to zero."""

    def estimator(e: Evidence) -> Tensor:
        assert e.negative is not None
        return w1 * (e.cond.eps - e.uncond.eps) + w2 * (e.uncond.eps - e.negative.eps)

    return estimator


def start(setup: Setup, options: CSD) -> Guidance:
    negative = setup.asked.negative
    estimator: Estimator = csd_negative(options.positive, options.negative) if negative else csd
    return OneNoise(setup, estimator, negative or None)

"""Classifier score distillation, CSD (2310.19415): the classifier's part of SDS alone.

    g = w(t) (e_c - e_u),   or with a negative prompt   w(t) [ w1 (e_c - e_u) + w2 (e_u - e_neg) ]

It is the limit of SDS at infinite scale, divided by it. Between Gaussians of equal width it is a constant drift
without a fixed point: it needs annealed time steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from guidance.method import Estimator, Evidence, Guidance, OneNoise, Setup


def csd(e: Evidence) -> Tensor:
    """g (B, C, H, W) before w(t): e_c - e_u."""
    return e.cond.eps - e.uncond.eps


def csd_negative(w1: float, w2: float) -> Callable[[Evidence], Tensor]:
    """The estimator with a negative prompt: w1 (e_c - e_u) + w2 (e_u - e_neg). The coefficients sum to zero."""

    def estimator(e: Evidence) -> Tensor:
        assert e.negative is not None
        return w1 * (e.cond.eps - e.uncond.eps) + w2 * (e.uncond.eps - e.negative.eps)

    return estimator


@dataclass(frozen=True)
class CSD:
    """Classifier score distillation."""

    positive: float = 1.0
    """w1, the weight of e_c - e_u, where there is a negative prompt."""
    negative: float = 1.0
    """w2, the weight of e_u - e_neg, where there is a negative prompt."""

    def start(self, setup: Setup) -> Guidance:
        negative = setup.asked.negative
        estimator: Estimator = csd_negative(self.positive, self.negative) if negative else csd
        return OneNoise(setup, estimator, negative or None)

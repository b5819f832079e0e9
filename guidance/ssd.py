"""Stable score distillation, SSD (Tang et al., 2312.09305): SDS' terms, each where it is reliable.

    e_cfg - eps = w' h + e_c - eps:   h = e_c - e_u mode-disengaging, e_c mode-seeking, -eps variance-reducing

    sigma > M    g = w(t) h
    sigma <= M   g = w(t) (|h| / |e~|) e~,   e~ = e_c - r eps,   r = <e_c, eps> / |eps|^2

per frame. r is the least-squares coefficient of eps in e_c (the squared norm: public code divides by the norm, which
leaves -eps in disguise), so e~ is orthogonal to the noise; its norm is h's. No guidance scale appears.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from guidance.cfg import dot
from guidance.method import Evidence, Guidance, OneNoise, Setup
from guidance.settings import SSD

TINY = 1e-8


def seeking(e: Evidence) -> Tensor:
    """e~ (B, C, H, W) = e_c - r eps: the conditional score without its part along the noise."""
    r = dot(e.cond.eps, e.noise) / dot(e.noise, e.noise).clamp(min=TINY)
    return e.cond.eps - r * e.noise


def ssd(sigma_m: float) -> Callable[[Evidence], Tensor]:
    """The estimator, before w(t); the branch is each frame's own."""

    def estimator(e: Evidence) -> Tensor:
        h, low = e.cond.eps - e.uncond.eps, seeking(e)
        scaled = dot(h, h).sqrt() / dot(low, low).sqrt().clamp(min=TINY) * low
        return torch.where(e.schedule.sigma(e.t) > sigma_m, h, scaled)

    return estimator


def start(setup: Setup, options: SSD) -> Guidance:
    return OneNoise(setup, ssd(options.sigma_m))

"""Score distillation sampling, SDS (DreamFusion, 2209.14988).

    g = w(t) (e_cfg - eps),   e_cfg = e_u + w (e_c - e_u),   grad_theta = E_{t, eps, camera}[ g dx/dtheta ]

With z = a x + s eps and x0_cfg = (z - s e_cfg) / a the same is

    g = w(t) (a/s) (x - x0_cfg)

which x0-predicting priors need: at large t, e_cfg - eps is a small difference of large numbers.
"""

from __future__ import annotations

from torch import Tensor

from guidance.method import Evidence, Guidance, OneNoise, Setup
from guidance.settings import SDS


def sds(e: Evidence) -> Tensor:
    """g (B, C, H, W) before w(t): e_cfg - eps, from x and x0."""
    return (e.schedule.a(e.t) / e.schedule.s(e.t)) * (e.x - e.guided.x0)


def sds_eps(e: Evidence) -> Tensor:
    """The same from eps."""
    return e.guided.eps - e.noise


def start(setup: Setup, options: SDS) -> Guidance:
    return OneNoise(setup, sds, conditional_only=True)

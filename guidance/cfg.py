"""Classifier-free guidance (2207.12598), in Form A: e = e_u + w (e_c - e_u).

w = 1 is conditional, w = 0 unconditional, w > 1 guided. Form B, e = e_c + w' (e_c - e_u), which many descendants of
DreamFusion use, is Form A with w = w' + 1: a scale of 100 there is 101 here.
"""

from __future__ import annotations

from guidance.prior import Prediction


def cfg(cond: Prediction, uncond: Prediction, scale: float) -> Prediction:
    """Guided prediction, (B, C, H, W) in both forms. `scale` is Form A's w.

    At one z, x0 = (z - s eps) / a is affine in eps, and the weights w and 1 - w sum to one: the forms stay consistent.
    """
    return Prediction(
        x0=uncond.x0 + scale * (cond.x0 - uncond.x0),
        eps=uncond.eps + scale * (cond.eps - uncond.eps),
    )

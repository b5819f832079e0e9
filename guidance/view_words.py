"""View-dependent prompting (DreamFusion, 2209.14988), for priors that know no cameras."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from guidance.prior import Views

FRONT, BACK, OVERHEAD = math.radians(45), math.radians(135), math.radians(60)


def view_word(azimuth: float, elevation: float) -> str:
    """front, side, back or overhead, of radians: above 60 degrees it is overhead whatever the azimuth; within 45
    degrees of azimuth 0 front, beyond 135 back."""
    if elevation > OVERHEAD:
        return "overhead"
    away = abs(math.remainder(azimuth, 2 * math.pi))
    return "front" if away < FRONT else "back" if away > BACK else "side"


def with_view_words(prompt: str, views: Views) -> list[str]:
    """A prompt a frame: "PROMPT, front view" and so on."""
    pairs = zip(views.azimuth.tolist(), views.elevation.tolist(), strict=True)
    return [f"{prompt}, {view_word(azimuth, elevation)} view" for azimuth, elevation in pairs]


def _decay(a: float, b: float, c: float) -> Callable[[Tensor], Tensor]:
    return lambda r: a * torch.exp(-b * r) + c


_side_back, _side_front = _decay(1, 0.5, -0.606), _decay(4, 0.5, -2.426)
_front_back = _decay(1, 0.5, 0.967)


def view_negatives(prompt: str, views: Views) -> list[tuple[list[str], Tensor]]:
    """Perp-Neg's negatives (2304.04968) with threestudio's weights: two of (prompt a frame, weight (B,) <= 0).

    With r = 1 - |azimuth| / 90 in front: front -f(r), side -f(1 - r); behind, r = 2 - |azimuth| / 90: side -f_sb(r),
    front -f_fsb(r): a back view is pushed away from "front" the most.
    """
    away = torch.tensor([abs(math.remainder(a, 2 * math.pi)) for a in views.azimuth.tolist()]) / (math.pi / 2)
    ahead = away < 1
    r = torch.where(ahead, 1 - away, 2 - away)
    front = torch.where(ahead, -_side_front(r), -_front_back(r))
    side = torch.where(ahead, -_side_front(1 - r), -_side_back(r))
    n = len(away)
    return [([f"{prompt}, front view"] * n, front.clamp(max=0)), ([f"{prompt}, side view"] * n, side.clamp(max=0))]

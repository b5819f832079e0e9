"""Where further pictures of the same object were taken from: the prior's samples around it, given the first picture,
are compared with each.

    azimuth = argmax over sampled azimuths of  IoU(alpha, alpha_s) - mean over both of |c - c_s|

c the colours after their mean is taken out (light differs), alpha the silhouettes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from app.pictures.intake import References
from guidance.direct import sample_frames
from guidance.prior import Prior
from guidance.settings import ELEVATIONS, VIEWS

STEPS, SETS = 8, 4
LOW, HIGH = (math.radians(e) for e in ELEVATIONS)


def likeness(picture: Tensor, frames: Tensor) -> Tensor:
    """(V,) of a picture (7, S, S) and frames (V, 7, S, S); higher is more alike."""
    a, b = picture[3:4], frames[:, 3:4]
    overlap = torch.minimum(a, b).sum((1, 2, 3)) / torch.maximum(a, b).sum((1, 2, 3)).clamp(min=1e-6)
    both = a * b
    share = both.sum((1, 2, 3), keepdim=True).clamp(min=1e-6)

    def centred(x: Tensor) -> Tensor:
        return (x - (x * both).sum((2, 3), keepdim=True) / share) * both

    off = (centred(picture[None, :3]) - centred(frames[:, :3])).abs().sum((1, 2, 3)) / share[:, 0, 0, 0]
    return overlap - off


def estimate_azimuths(
    prior: Prior,
    prompt: str,
    references: References,
    unknown: list[int],
    generator: torch.Generator,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> dict[int, float]:
    """Azimuths (radians) of the pictures `unknown`, from 16 sampled views of the first picture's object."""
    first = References(references.fine[:1], references.frames[:1], references.cameras[:1])
    out: dict[int, float] = {}
    for k in unknown:
        best = -math.inf
        for s in range(SETS):
            turn = torch.arange(VIEWS) * (2 * math.pi / VIEWS) + s * (2 * math.pi / VIEWS / SETS)
            elevation = references.cameras.elevation[k].expand(VIEWS).clamp(LOW, HIGH)
            noise = torch.randn((VIEWS, *prior.frame_shape), generator=generator).to(elevation.device)
            azimuth = turn.to(elevation.device) + references.cameras.azimuth[0]
            frames = sample_frames(
                prior, prompt, azimuth, elevation, noise, STEPS, 1.0, on_step, picture=first.picture()
            )
            score, index = likeness(references.frames[k], frames).max(0)
            if float(score) > best:
                best, out[k] = float(score), float(azimuth[index])
    return out

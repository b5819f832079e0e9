"""Score distillation sampling, SDS (DreamFusion, 2209.14988).

    g = w(t) (e_cfg - eps),   e_cfg = e_u + w (e_c - e_u),   grad_theta = E_{t, eps, camera}[ g dx/dtheta ]

With z = a x + s eps and x0_cfg = (z - s e_cfg) / a the same is

    g = w(t) (a/s) (x - x0_cfg)

which x0-predicting priors need: at large t, e_cfg - eps is a small difference of large numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guidance.cfg import cfg
from guidance.inject import inject
from guidance.prior import NoiseSchedule, Prediction, Prior
from guidance.schedule import Weight, s2_weight


def sds_gradient(
    prediction: Prediction, noise: Tensor, t: Tensor, schedule: NoiseSchedule, weight: Weight = s2_weight
) -> Tensor:
    """g = w(t) (e - eps), (B, C, H, W), of a (guided) prediction at z_t = a x + s eps; `noise` is eps, t (B,)."""
    return weight(t, schedule) * (prediction.eps - noise)


def sds_gradient_x0(
    prediction: Prediction, x: Tensor, t: Tensor, schedule: NoiseSchedule, weight: Weight = s2_weight
) -> Tensor:
    """The same g = w(t) (a/s) (x - x0) from the clean x (B, C, H, W)."""
    return weight(t, schedule) * (schedule.a(t) / schedule.s(t)) * (x - prediction.x0)


def draw_noise(x: Tensor, generator: torch.Generator, frames_per_noise: int = 1) -> Tensor:
    """Standard normal noise in the shape, dtype and device of x (B, C, H, W), drawn on the generator's device.

    `frames_per_noise` neighbouring frames share one noise: 1 is independent noise, a set's size one noise an object.
    ValueError where it does not divide B.
    """
    if frames_per_noise < 1 or x.shape[0] % frames_per_noise:
        raise ValueError(f"{x.shape[0]} frames cannot share noise in groups of {frames_per_noise}")
    shape = (x.shape[0] // frames_per_noise, *x.shape[1:])
    noise = torch.randn(shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)
    return noise.repeat_interleave(frames_per_noise, 0)


@dataclass(frozen=True)
class SDSStep:
    """loss: scalar to call `backward` on. The rest is detached: gradient_norm (B,), the norm of each frame's g;
    x0 (B, C, H, W), the guided prediction in the prior's own space; t (B,)."""

    loss: Tensor
    gradient_norm: Tensor
    x0: Tensor
    t: Tensor


def sds_step(
    prior: Prior,
    frames: Tensor,
    conditions: tuple[Any, Any],
    t: Tensor,
    generator: torch.Generator,
    scale: float,
    weight: Weight = s2_weight,
    frames_per_noise: int = 1,
) -> SDSStep:
    """One SDS step: encode, add noise, predict, guide, inject. Frames (B, C, H, W) in [0, 1] carry the gradient.

    `conditions`: (conditional, unconditional), both from `prior.condition`; at `scale` 1 (Form A) the second is not
    used, which saves half of the work. `t`: (B,) from a policy of `guidance.schedule`. Noise as in `draw_noise`.
    ValueError where t is not (B,).
    """
    if t.shape != frames.shape[:1]:
        raise ValueError(f"t has shape {tuple(t.shape)}, but there are {frames.shape[0]} frames")
    t = t.to(frames.device)
    x = prior.encode(frames)
    cond, uncond = conditions
    with torch.no_grad():
        noise = draw_noise(x, generator, frames_per_noise)
        z = prior.schedule.add_noise(x, noise, t)
        if scale == 1:
            (guided,) = prior.predict(z, t, [cond])
        else:
            guided = cfg(*prior.predict(z, t, [cond, uncond]), scale=scale)
        gradient = sds_gradient_x0(guided, x, t, prior.schedule, weight)
    return SDSStep(inject(x, gradient), gradient.flatten(1).norm(dim=1), guided.x0, t)

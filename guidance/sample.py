"""Deterministic DDIM sampling (2010.02502, eta 0) from any prior, with classifier-free guidance.

z_{t'} = a_{t'} x0 + s_{t'} eps,  x0 and eps the guided prediction at (z_t, t); x0 is clipped to [-1, 1] as in
training. Guidance may be left out below a noise level sigma = s/a (2404.07724): there it repeats the prior's own
errors `scale` times, in garish patches, and costs a second forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from guidance.cfg import cfg
from guidance.prior import NoiseSchedule, Prediction


def knots(steps: int, t_max: int = 999, t_min: int = 20) -> list[int]:
    """`steps` time steps, evenly spaced from t_max down to t_min."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return torch.linspace(t_max, t_min, steps).round().long().tolist()


class Denoiser(Protocol):
    """What is sampled from: a prior, or a part of one."""

    @property
    def schedule(self) -> NoiseSchedule: ...

    def predict(self, z: Tensor, t: Tensor, conditions: Sequence[Any]) -> list[Prediction]: ...


@torch.no_grad()
def ddim_sample(
    prior: Denoiser,
    conditions: tuple[Any, Any],
    noise: Tensor,
    steps: int = 20,
    scale: float = 3.0,
    on_step: Callable[[int, Tensor], None] | None = None,
    guide_above: float = 0.0,
    known: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Samples x0 (B, C, H, W) in the prior's own space from start noise (B, C, H, W).

    `conditions`: (conditional, unconditional). `scale`: Form A, at noise levels sigma of at least
    `guide_above`; 1 below. `on_step(i, x0)` sees each prediction. `known(x0)` puts what is known into
    it first, as in inpainting by replacement (2011.13456).
    """
    z, schedule = noise, prior.schedule
    x0 = noise
    ts = knots(steps)
    lowest = schedule.t_at(guide_above) if guide_above > 0 else 0
    for i, t_int in enumerate(ts):
        t = torch.full((len(z),), t_int, dtype=torch.long, device=z.device)
        if scale == 1 or t_int < lowest:
            guided = prior.predict(z, t, [conditions[0]])[0]
        else:
            guided = cfg(*prior.predict(z, t, list(conditions)), scale=scale)
        x0 = guided.x0.clamp(-1, 1)
        if known is not None:
            x0 = known(x0)
        if on_step is not None:
            on_step(i, x0)
        if i + 1 < len(ts):
            eps = Prediction.from_x0(x0, z, t, schedule).eps
            z = schedule.add_noise(x0, eps, torch.full_like(t, ts[i + 1]))
    return x0


def slerp(a: Tensor, b: Tensor, u: float) -> Tensor:
    """Between noises a and b (B, ...) on the sphere, u in [0, 1], each member by itself: a straight line would leave
    the shell where noise lives (its middle is too short by sqrt 2). The norm goes linearly from a's to b's; parallel
    noises are mixed linearly.
    """
    shape = (-1, *[1] * (a.dim() - 1))
    na, nb = a.flatten(1).norm(dim=1).reshape(shape), b.flatten(1).norm(dim=1).reshape(shape)
    x, y = a / na.clamp(min=1e-12), b / nb.clamp(min=1e-12)
    angle = (x * y).flatten(1).sum(1).clamp(-1, 1).acos().reshape(shape)
    sine = angle.sin()
    arc = (((1 - u) * angle).sin() * x + (u * angle).sin() * y) / sine.clamp(min=1e-12)
    mixed = torch.where(sine < 1e-6, (1 - u) * x + u * y, arc)
    return mixed * ((1 - u) * na + u * nb)

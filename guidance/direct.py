"""Joint multi-view sampling for the one-pass path (after Direct2.5, 2311.15980), and the prior's own score.

One deterministic DDIM sample (guidance/sample.py) of V frames that one network call denoises together: base colour,
alpha and camera-space normals of one object from V azimuths. Direct2.5 samples normals, fuses them, then samples
colour for the fused normals; a prior of frames gives both at once.

The score of frames x (renders of a finished candidate) asks how much the prompt helps to denoise them,

    score = mean over k of  |x0_c(z_k, t_k) - x|^2 - |x0_u(z_k, t_k) - x|^2,     z_k = a x + s eps_k,

per number of a frame, in the prior's own space; eps_k is drawn from one generator, so that every candidate meets the
same noise. It is the evidence lower bound's estimate of -log p(y | x) up to weights and a constant (the diffusion
classifier, 2303.16203): lower is better, and negative where the prompt helps at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from guidance.method import Asked
from guidance.prior import Picture, Prior, Views, to_frames
from guidance.sample import ddim_sample

SCORE_SIGMAS = (0.5, 1.0, 2.0, 4.0)


def joint_conditions(
    prior: Prior, prompt: str, azimuth: Tensor, elevation: Tensor, picture: Picture | None = None
) -> tuple[Any, Any]:
    """(conditional, unconditional) for one object's V frames, denoised together. `azimuth`, `elevation`: (V,)
    radians, of the world, as the `picture`'s are."""
    return Asked(prompt, picture=picture).pair(prior, Views(azimuth, elevation, len(azimuth)))


def sample_frames(
    prior: Prior,
    prompt: str,
    azimuth: Tensor,
    elevation: Tensor,
    noise: Tensor,
    steps: int,
    scale: float,
    on_step: Callable[[int, Tensor], None] | None = None,
    guide_above: float = 0.0,
    picture: Picture | None = None,
    known: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Frames (V, C, H, W) in [0, 1] of one object, from start noise of that shape; `scale` is Form A's w, at noise
    levels above `guide_above`.

    `known(frames)` puts what is known of the frames into each prediction. `on_step(i, frames)` sees each step's clean
    prediction and may raise to stop. The prior's own space must be 2 x - 1 of its frames, as in every prior of frames.
    """
    conditions = joint_conditions(prior, prompt, azimuth, elevation, picture)
    put = None if known is None else lambda x0: prior.encode(known(to_frames(x0)))
    watch = None if on_step is None else lambda i, x0: on_step(i, to_frames(x0))
    return to_frames(ddim_sample(prior, conditions, noise, steps, scale, watch, guide_above, put))


@torch.no_grad()
def prior_score(
    prior: Prior,
    frames: Tensor,
    conditions: tuple[Any, Any],
    generator: torch.Generator,
    sigmas: Sequence[float] = SCORE_SIGMAS,
) -> float:
    """The score above of frames (V, C, H, W) in [0, 1], at one noise a level; lower is better."""
    x = prior.encode(frames)
    total = 0.0
    for sigma in sigmas:
        noise = torch.randn(x.shape, generator=generator, device=generator.device).to(x)
        t = torch.full((len(x),), prior.schedule.t_at(sigma), device=x.device)
        cond, uncond = prior.predict(prior.schedule.add_noise(x, noise, t), t, list(conditions))
        total += float((cond.x0 - x).square().mean() - (uncond.x0 - x).square().mean())
    return total / len(sigmas)
